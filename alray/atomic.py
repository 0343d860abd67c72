"""Paths, file systems, and atomic files on local disk or in any object store.

On local disk every file is written under a temporary name and renamed; on an object store one PUT makes the whole
object appear at once. In both cases a reader sees the old file, the new file, or none. A local file and its name are on
the disk itself before a write returns, so a power cut does not take them back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import os
import posixpath
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alray.credentials import WHERE_THEY_BELONG, has_credentials, redacted
from alray.patience import Away, persistent
from alray.patience import StoreError as StoreError
from alray.reasons import why
from alray.remote import NotOpened, opened

_STORES = "s3a?|gs|gcs|az|adl|abfss?|hdfs|https?|file|memory"
# s3:/bucket, s3:bucket and s3//bucket; a scheme that is not known here counts only in the first form.
_WRONG_SLASHES = re.compile(rf"({_STORES}):(?!//)|([A-Za-z][A-Za-z0-9+.-]+):/(?!/)|({_STORES})//")
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)  # of file systems that cannot sync a directory


class ReadOnly(StoreError):  # noqa: N818  the name says what is wrong
    """This process may not write there."""


def is_remote(uri: str) -> bool:
    """Whether the path names an object store rather than a local file."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """The absolute path without "..", which works in Ray's workers, too: they run in other directories than the driver.

    Raises StoreError for a URI with credentials, and for one with a wrong number of slashes, which would otherwise be
    a local directory with a strange name."""
    if is_remote(uri):
        _refuse_credentials(uri)
        return uri.rstrip("/")
    _refuse_slashes(uri)
    path = str(Path(uri.removeprefix("file://")).expanduser().absolute())
    return _without_dots(path) if "/.." in path else path


def _without_dots(path: str) -> str:
    """The path without "..". After a symbolic link ".." is the folder above the one where the link leads."""
    found = ""
    for part in path.split("/")[1:]:
        if part != "..":
            found += f"/{part}"
        else:
            found = (os.path.realpath(found) if os.path.islink(found) else found).rpartition("/")[0]
    return found or "/"


def join(uri: str, *names: str) -> str:
    """Append names to a path or URI."""
    return "/".join([uri.rstrip("/"), *names])


def folder_of(uri: str) -> str:
    """The directory that an absolute path or URI is in; empty for a whole bucket, which is in none."""
    scheme, mark, path = uri.rpartition("://")
    folder, slash, _ = path.rpartition("/")
    if mark:
        return f"{scheme}://{folder}" if folder else ""
    return folder or slash


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
    variables. fsspec opens all other schemes. Raises StoreError if neither can, if the store gives no first answer in
    time, and for a URI with credentials.
    """
    if not is_remote(uri):
        return pafs.LocalFileSystem(), absolute(uri)
    _refuse_credentials(uri)
    try:
        return opened(uri)
    except NotOpened as error:
        raise StoreError(str(error)) from error


def is_file(uri: str) -> bool:
    """Whether there is a file at the path or URI."""
    fs, path = filesystem(uri)
    return bool(persistent(uri, lambda: fs.get_file_info(path)).type == pafs.FileType.File)


def _refuse_credentials(uri: str) -> None:
    if has_credentials(uri):
        raise StoreError(f"{redacted(uri)}: {WHERE_THEY_BELONG}")


def existing(uri: str) -> str:
    """The path of the nearest local directory or file that exists, of the path itself and those above it; a remote URI
    as it is."""
    if is_remote(uri):
        return uri
    path = Path(absolute(uri))
    return str(next((part for part in (path, *path.parents) if os.path.lexists(part)), path))


def _refuse_slashes(path: str) -> None:
    if path.startswith("file://"):
        return
    if wrong := _WRONG_SLASHES.match(path):
        scheme, rest = wrong.group(wrong.lastindex or 0), path[wrong.end() :].lstrip("/")
        root = "/" if scheme == "file" else ""
        raise StoreError(
            f"{redacted(path)}: expected {scheme}://{root}{redacted(rest)} for a URI, or ./{redacted(path)} for a "
            "local path"
        )


def read_bytes(uri: str) -> bytes:
    """Read a whole file. Raises FileNotFoundError, or StoreError if there is no filesystem for the URI."""
    fs, path = filesystem(uri)

    def read() -> bytes:
        with fs.open_input_file(path) as file:
            return bytes(file.read())

    return persistent(uri, read)


def content_hash(data: bytes) -> str:
    """16 hex digits that depend on the bytes alone (BLAKE2b)."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


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


def write_bytes(uri: str, data: bytes | memoryview, durable: bool = True) -> None:
    """Write a file atomically, and make its directories. Raises StoreError, or what the check of a guard raises.

    durable: wait until a local file is on the disk itself. Files that can be made again do not need it."""
    check_guards(uri)
    write_unguarded(uri, data, durable)


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


def write_unguarded(uri: str, data: bytes | memoryview, durable: bool = True) -> None:
    """Write a file atomically without the checks of guards. Raises StoreError."""
    fs, path = filesystem(uri)

    def write() -> None:
        if isinstance(fs, pafs.LocalFileSystem):
            _write_local(path, memoryview(data), durable)
            return
        fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with fs.open_output_stream(path) as file:
            file.write(data)

    try:
        persistent(uri, write)
    except OSError as error:
        kind = ReadOnly if error.errno in _FORBIDDEN else StoreError
        raise kind(f"cannot write {uri}: {error.strerror or error}") from error  # without the temporary name


def _write_local(path: str, data: memoryview, durable: bool) -> None:
    """Write a temporary file, bring it to the disk, rename it, and bring the directory to the disk."""
    folder = os.path.dirname(path)
    _make_dirs(folder, durable)
    target = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(target, "xb", buffering=0) as file:
            while data.nbytes:  # one call writes 2 GB at most
                data = data.cast("B")[file.write(data) :]
            if durable:
                os.fsync(file.fileno())
        os.replace(target, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise
    if durable:
        _sync_dir(folder)


def _make_dirs(folder: str, durable: bool) -> None:
    """Make a directory and those above it, and bring the names of the new ones to the disk."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_dirs(above, durable)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    if durable:
        _sync_dir(above)


def _sync_dir(folder: str) -> None:
    """Bring the names in a directory to the disk, where the file system can do that for directories."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a directory in which one may write and not list
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(opened)


def delete(uri: str) -> None:
    """Remove a file or a whole directory, if it exists. A local directory disappears at once or not at all. Raises what
    the check of a guard raises."""
    check_guards(uri)
    fs, path = filesystem(uri)
    persistent(uri, lambda: _delete(fs, path))


def _delete(fs: pafs.FileSystem, path: str) -> None:
    kind = fs.get_file_info(path).type
    if kind == pafs.FileType.File:
        fs.delete_file(path)
    elif kind == pafs.FileType.Directory:
        if isinstance(fs, pafs.LocalFileSystem):
            path = _renamed(path)
        fs.delete_dir(path)


def _renamed(path: str) -> str:
    going = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    os.rename(path, going)
    return going


def table_bytes(table: pa.Table) -> memoryview:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only some of its columns. Raises FileNotFoundError, or StoreError if it is damaged."""
    fs, path = filesystem(uri)
    try:
        return persistent(uri, lambda: pq.read_table(path, columns=columns, filesystem=fs))
    except (FileNotFoundError, Away):
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{uri}: expected a Parquet file, got a damaged one ({why(error)}); restore it, or delete its directory "
            "and make it again"
        ) from error
