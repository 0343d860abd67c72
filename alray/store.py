"""One directory of files that alray writes, on local disk or in any object store.

Files are written atomically (`alray.atomic`), and their checksums are compared when they are read
(`alray.checksums`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from alray import atomic, checksums
from alray.atomic import (
    ReadOnly,
    StoreError,
    absolute,
    check_guards,
    content_hash,
    create,
    filesystem,
    folder_of,
    is_file,
    is_remote,
    join,
    protected,
    read_bytes,
    read_table,
    relative,
    resolve,
    table_bytes,
    write_bytes,
    write_unguarded,
)
from alray.checksums import LIST, Damaged, is_list
from alray.patience import persistent

__all__ = [
    "Damaged",
    "ReadOnly",
    "Store",
    "StoreError",
    "absolute",
    "check_guards",
    "content_hash",
    "create",
    "filesystem",
    "folder_of",
    "is_file",
    "is_remote",
    "join",
    "protected",
    "read_bytes",
    "read_checked",
    "read_table",
    "relative",
    "resolve",
    "table_bytes",
    "weights_fingerprint",
    "write_bytes",
    "write_unguarded",
]


def read_checked(uri: str) -> bytes:
    """Read a whole file that alray or the user wrote. If the checksums of its directory list it, they are compared.
    Raises FileNotFoundError, Damaged."""
    return checksums.read(uri, own=False)


def weights_fingerprint(uri: str) -> str:
    """A hash of the content of a weights file; "fresh" for an empty path. A process reads an unchanged file only
    once. Raises FileNotFoundError, Damaged."""
    if not uri:
        return "fresh"
    fs, path = filesystem(uri)
    info = persistent(uri, lambda: fs.get_file_info(path))
    # Without a modification time a changed file could not be recognised, so the file is read every time.
    read = _content if info.mtime_ns else _content.__wrapped__
    return read(uri, info.size, info.mtime_ns)


@lru_cache(maxsize=256)
def _content(uri: str, size: int | None, changed: int | None) -> str:
    return content_hash(read_checked(uri))


@dataclass(frozen=True)
class Store:
    """One directory, local or remote, by its path or URI.

    sums: the name of the list of its files' checksums. Empty for files that can be made again at no cost: they are
    neither checked nor brought to the disk itself before a write returns.
    """

    uri: str
    sums: str = LIST

    def at(self, *names: str) -> str:
        """The path or URI of a file or directory in this directory."""
        return join(self.uri, *names)

    def child(self, *names: str) -> Store:
        """A directory in this directory."""
        return Store(self.at(*names), self.sums)

    def has(self, name: str) -> bool:
        """Whether the directory has a complete file of this name. Raises Damaged if it had one that is missing."""
        return checksums.has(*self._parts(name), self.sums) if self.sums else is_file(self.at(name))

    def names(self) -> list[str]:
        """The sorted names of the files and directories in this directory, without lists of checksums; empty if it does
        not exist. Raises StoreError if it is a file."""
        fs, path = filesystem(self.uri)
        try:
            infos = persistent(self.uri, lambda: fs.get_file_info(pafs.FileSelector(path, allow_not_found=True)))
        except NotADirectoryError:
            raise StoreError(f"{self.uri}: expected a directory, got a file") from None
        return sorted(info.base_name for info in infos if not is_list(info.base_name))

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError, Damaged."""
        return checksums.read(self.at(name), self.sums) if self.sums else read_bytes(self.at(name))

    def read_json(self, name: str) -> Any:
        """Read a JSON file. Raises FileNotFoundError, Damaged, StoreError if its content is not JSON."""
        data = self.read_bytes(name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(
                f"{self.at(name)}: expected JSON, got something else ({error}); was it edited by hand?"
            ) from error

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file, or only some of its columns. Raises FileNotFoundError, Damaged."""
        self.check(name)
        return read_table(self.at(name), columns)

    def check(self, name: str) -> None:
        """Compare a file with its checksum before it is mapped or read in parts, once per process and version of the
        file. Raises FileNotFoundError, Damaged."""
        if self.sums:
            checksums.check(self.at(name), self.sums)

    def write_json(self, name: str, value: Any, last: bool = False) -> None:
        """Write a JSON file atomically. last: as in `write_together`."""
        self.write_together({name: json_bytes(value)}, last=last)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file atomically."""
        self.write_bytes(name, table_bytes(table))

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Write any file atomically."""
        self.write_together({name: data})

    def write_together(
        self,
        files: Mapping[str, bytes | memoryview],
        known: Mapping[str, str] | None = None,
        last: bool = False,
    ) -> None:
        """Write several files of one directory in the given order, each atomically.

        known: checksums of other files that are in the directory and not yet in its list. last: the directory is
        complete, so that a file that is missing from now on is damage.
        """
        (folder,) = {self._parts(name)[0] for name in files}
        inside = {self._parts(name)[1]: data for name, data in files.items()}
        if self.sums:
            checksums.write(folder, inside, self.sums, known, last)
        else:
            for file, data in inside.items():
                write_bytes(join(folder, file), data, durable=False)

    def _parts(self, name: str) -> tuple[str, str]:
        """The directory and the name in it of a file, whose name may have directories."""
        folder, _, file = self.at(name).rpartition("/")
        return folder, file

    def delete(self, name: str) -> None:
        """Remove a file or a whole directory, if it exists."""
        if self.sums:
            checksums.delete(*self._parts(name), self.sums)
        else:
            atomic.delete(self.at(name))

    def check_guards(self) -> None:
        """Raise LeaseLost if this process held the lease on this directory and lost it."""
        check_guards(self.uri)

    def check_writable(self) -> None:
        """Check that files can be written here, by writing and removing one. If the directory does not exist, the one
        above it in which it would be made is tried, so that nothing is left behind. Raises StoreError, which names the
        directory."""
        uri = join(atomic.existing(self.uri), f".alray-write-check-{uuid.uuid4().hex[:8]}")
        try:
            write_bytes(uri, b"", durable=False)
        except StoreError as error:
            cause = error.__cause__ or error
            said = getattr(cause, "strerror", None) or cause
            what = "Not a directory, but a file is there" if isinstance(cause, NotADirectoryError) else said
            raise type(error)(f"cannot write {self.uri}: {what}") from error
        atomic.delete(uri)


def json_bytes(value: Any) -> bytes:
    """A value as the bytes of a JSON file."""
    return (json.dumps(value, indent=2) + "\n").encode()
