"""Atomic files on local disk or in any object store.

A `Store` is one directory. On local disk every file is written under a temporary name and renamed; on an object store
one PUT makes the whole object appear at once. In both cases a reader sees the old file, the new file, or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alray.credentials import WHERE_THEY_BELONG, has_credentials, redacted


class StoreError(OSError):
    """A path or URI cannot be read or written. The message names it."""


def is_remote(uri: str) -> bool:
    """Whether the path names an object store rather than a local file."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """The absolute path, which works in Ray's workers, too: they run in other directories than the driver.

    Raises StoreError for a URI with credentials."""
    if is_remote(uri):
        _refuse_credentials(uri)
        return uri.rstrip("/")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


def join(uri: str, *names: str) -> str:
    """Append names to a path or URI."""
    return "/".join([uri.rstrip("/"), *names])


def relative(uri: str, folder: str) -> str:
    """The relative path from a folder to a path or URI, both absolute; the URI itself where the stores differ."""
    scheme, _, path = uri.rpartition("://")
    there, _, start = folder.rpartition("://")
    return posixpath.relpath(path, start) if scheme == there else uri


def resolve(way: str, folder: str) -> str:
    """The absolute path or URI for a path that `relative` returned for this folder."""
    if is_remote(way) or way.startswith("/"):
        return way
    scheme, mark, start = folder.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(start, way))


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow filesystem of a path or URI, and the path inside it.

    pyarrow itself opens s3://, gs:// and some others, with credentials and endpoint from the usual environment
    variables. fsspec opens all other schemes. Raises StoreError if neither can, and for a URI with credentials.
    """
    if not is_remote(uri):
        return pafs.LocalFileSystem(), absolute(uri)
    _refuse_credentials(uri)
    scheme, _, rest = uri.partition("://")
    try:
        fs, path = pafs.FileSystem.from_uri(f"{scheme}://{quote(rest, safe='/:@')}")  # keys may hold any character
    except (pa.ArrowInvalid, NotImplementedError) as error:
        try:
            import fsspec
        except ImportError:
            raise StoreError(
                f"{uri}: pyarrow has no filesystem for {scheme}://, and fsspec is not installed"
            ) from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme))), rest
    return fs, path


def is_file(uri: str) -> bool:
    """Whether there is a file at the path or URI."""
    fs, path = filesystem(uri)
    return bool(fs.get_file_info(path).type == pafs.FileType.File)


def _refuse_credentials(uri: str) -> None:
    if has_credentials(uri):
        raise StoreError(f"{redacted(uri)}: {WHERE_THEY_BELONG}")


def read_bytes(uri: str) -> bytes:
    """Read a whole file. Raises FileNotFoundError, or StoreError if there is no filesystem for the URI."""
    fs, path = filesystem(uri)
    with fs.open_input_file(path) as file:
        return bytes(file.read())


def content_hash(data: bytes) -> str:
    """16 hex digits that depend on the bytes alone (BLAKE2b)."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def weights_fingerprint(uri: str) -> str:
    """A hash of the content of a weights file; "fresh" for an empty path. A process reads an unchanged file only
    once."""
    if not uri:
        return "fresh"
    fs, path = filesystem(uri)
    info = fs.get_file_info(path)
    # Without a modification time a changed file could not be recognised, so the file is read every time.
    read = _content if info.mtime_ns else _content.__wrapped__
    return read(uri, info.size, info.mtime_ns)


@lru_cache(maxsize=256)
def _content(uri: str, size: int | None, changed: int | None) -> str:
    return content_hash(read_bytes(uri))


_guards: list[tuple[str, Callable[[], None]]] = []


@contextlib.contextmanager
def protected(folder: str, check: Callable[[], None]) -> Iterator[None]:
    """Context manager: call `check` before this process writes or deletes anything in a directory. It raises to forbid
    it."""
    guard = (folder.rstrip("/") + "/", check)
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)


def check_guards(uri: str) -> None:
    """Call the checks of the directories that this path or URI is in."""
    for folder, check in tuple(_guards):
        if f"{uri}/".startswith(folder):
            check()


def write_bytes(uri: str, data: bytes | memoryview) -> None:
    """Write a file atomically, and make its directories. Raises StoreError, or what the check of a guard raises."""
    check_guards(uri)
    write_unguarded(uri, data)


def create(uri: str, data: bytes) -> bool | None:
    """Write an object if there is none, by a conditional put. Returns whether it was written; None, without writing, if
    the client of this object store has no conditional put."""
    fs, path = filesystem(uri)
    client = fs.handler.fs if isinstance(fs, pafs.PyFileSystem) else None
    if client is None or "mode" not in inspect.signature(client.pipe_file).parameters:
        return None
    try:
        fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        client.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except (NotImplementedError, ValueError):
        return None
    except OSError as error:
        raise StoreError(f"cannot write {uri}: {error}") from error
    return True


def write_unguarded(uri: str, data: bytes | memoryview) -> None:
    """Write a file atomically without the checks of guards. Raises StoreError."""
    fs, path = filesystem(uri)
    parent = path.rsplit("/", 1)[0]
    local = isinstance(fs, pafs.LocalFileSystem)
    target = f"{path}.{uuid.uuid4().hex[:8]}.tmp" if local else path
    try:
        fs.create_dir(parent, recursive=True)
        with fs.open_output_stream(target) as file:
            file.write(data)
        if local:
            os.replace(target, path)
    except OSError as error:
        if local:
            with contextlib.suppress(OSError):
                os.unlink(target)
        raise StoreError(f"cannot write {uri}: {error}") from error


def table_bytes(table: pa.Table) -> memoryview:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only some of its columns."""
    fs, path = filesystem(uri)
    return pq.read_table(path, columns=columns, filesystem=fs)


@dataclass(frozen=True)
class Store:
    """One directory, local or remote, by its path or URI."""

    uri: str

    def at(self, *names: str) -> str:
        """The path or URI of a file or directory in this directory."""
        return join(self.uri, *names)

    def child(self, *names: str) -> Store:
        """A directory in this directory."""
        return Store(self.at(*names))

    def has(self, name: str) -> bool:
        """Whether the directory has a complete file of this name."""
        return is_file(self.at(name))

    def names(self) -> list[str]:
        """The sorted names of the files and directories in this directory; empty if it does not exist."""
        fs, path = filesystem(self.uri)
        infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def read_json(self, name: str) -> Any:
        """Read a JSON file. Raises StoreError if its content is not JSON."""
        try:
            return json.loads(read_bytes(self.at(name)))
        except json.JSONDecodeError as error:
            raise StoreError(
                f"{self.at(name)}: expected JSON, got something else ({error}); was it edited by hand?"
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        write_bytes(self.at(name), (json.dumps(value, indent=2) + "\n").encode())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file."""
        return read_table(self.at(name), columns)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file atomically."""
        write_bytes(self.at(name), table_bytes(table))

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Write any file atomically."""
        write_bytes(self.at(name), data)

    def delete(self, name: str) -> None:
        """Remove a file or a whole directory, if it exists."""
        check_guards(self.at(name))
        fs, path = filesystem(self.at(name))
        kind = fs.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            fs.delete_dir(path)
        elif kind == pafs.FileType.File:
            fs.delete_file(path)

    def check_guards(self) -> None:
        """Raise LeaseLost if this process held the lease on this directory and lost it."""
        check_guards(self.uri)

    def check_writable(self) -> None:
        """Check that files can be written here, by writing and removing one. Raises StoreError, which names the
        directory."""
        name = f".alray-write-check-{uuid.uuid4().hex[:8]}"
        self.write_bytes(name, b"")
        self.delete(name)
