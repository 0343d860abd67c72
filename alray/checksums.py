"""Checksums of the files that alray writes, so that a damaged file is noticed when it is read.

A directory has one list of the CRC-32 and the size of its files, `alray-checksums.json`. CRC-32 notices every change of
up to 32 bits in a row with certainty. The files themselves stay plain JSON, CSV, Parquet and so on.

The list is written before a file: it names the sum that the file will have and the one that it has, so a process may be
killed between the two writes. What may not exist yet, or not any more, is listed with the sum ABSENT as well. A
directory has one writer at a time, which holds a lease, or writers that write the same bytes.

A file whose name is missing in a list is damaged, too. A directory without a list is read with a warning.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import pyarrow.fs as pafs

from alray import atomic
from alray.atomic import StoreError, absolute, filesystem, is_file, join, read_bytes, write_bytes
from alray.patience import persistent

LIST = "alray-checksums.json"
REPORT_LIST = "alray-checksums-report.json"  # of the files of a report, which is written without a lease
ABSENT = "absent"
_LISTS = re.compile(r"alray-checksums(-\w+)?\.json")
_CHUNK = 1 << 20
_FEW = 3

Sums = Mapping[str, Sequence[str]]
"""File name -> the sums that the file may have, the newest first."""
T = TypeVar("T")

_log = logging.getLogger(__name__)
_writing = threading.RLock()  # a list is read, changed and written

REMEDY = (
    "Restore it from a backup. Or remove the directory of what it belongs to and start again: alray makes a catalog, "
    "features, a pretext task, a run, or a round (with all later rounds) again. If you changed it on purpose, `alray "
    "verify DIRECTORY --record True` accepts the files there as they are"
)


class Damaged(StoreError):  # noqa: N818  the name says what is wrong
    """A file is not what alray wrote, or is missing. The message names it, what was expected, got, and a remedy."""


def is_list(name: str) -> bool:
    """Whether a file name is that of a list of checksums."""
    return _LISTS.fullmatch(name) is not None


def sum_of(data: bytes | memoryview) -> str:
    """Size in bytes and CRC-32 as 8 hex digits: '1234 89abcdef'."""
    return _sum([memoryview(data)])


def sum_at(uri: str) -> str:
    """The sum of a file, which need not fit into memory. Raises FileNotFoundError."""
    return persistent(uri, lambda: _sum(_chunks(uri)))


def _sum(chunks: Iterable[memoryview]) -> str:
    size = crc = 0
    for chunk in chunks:
        size, crc = size + chunk.nbytes, zlib.crc32(chunk, crc)
    return f"{size} {crc:08x}"


def _chunks(uri: str) -> Iterator[memoryview]:
    fs, path = filesystem(uri)
    with fs.open_input_stream(path, compression=None) as file:
        while data := file.read(_CHUNK):
            yield memoryview(data)


def in_words(found: str) -> str:
    """A sum for a message."""
    size, _, crc = found.partition(" ")
    return "no file" if found == ABSENT else f"{size} bytes with CRC-32 {crc}"


def list_bytes(sums: Sums) -> bytes:
    """A list as bytes: JSON with a checksum of its own. Equal lists are equal bytes."""
    files = {name: list(sums[name]) for name in sorted(sums)}
    return (json.dumps({"checksum": sum_of(json.dumps(files).encode()), "files": files}, indent=1) + "\n").encode()


def load(folder: str, name: str = LIST) -> Sums | None:
    """The list of a directory; None if it has none. Raises Damaged if the list is not what alray wrote."""
    try:
        data = read_bytes(join(folder, name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        sums: Sums = json.loads(data)["files"]
        if list_bytes(sums) == data:
            return sums
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Damaged(
        f"{join(folder, name)}: damaged: expected a list of checksums as alray wrote it, got other bytes. {REMEDY}"
    )


def write(
    folder: str,
    files: Mapping[str, bytes | memoryview],
    name: str = LIST,
    known: Mapping[str, str] | None = None,
    last: bool = False,
) -> None:
    """List the sums of some files of a directory, then write the files in the given order, each atomically.

    Files that are as they should be already are not written again. known: sums of files that are in the directory but
    not in its list. last: the directory is complete, so that a file that is missing from now on is damage. Otherwise
    the next write notes that these files exist. Raises StoreError.
    """
    atomic.check_guards(folder)
    with _writing:
        old = load(folder, name)
        sums = _settled(folder, old or {}, skip=files)
        there = {file: _sum_there(join(folder, file)) for file in files}
        for file, data in files.items():
            value, before = sum_of(data), there[file]
            trusted = old is None or before in (ABSENT, *old.get(file, ()))
            sums[file] = list(dict.fromkeys([value, before if trusted else value]))
        sums.update({file: [value] for file, value in (known or {}).items()})
        if sums != old:
            write_bytes(join(folder, name), list_bytes(sums))
        for file, data in files.items():
            if there[file] != sums[file][0] or read_bytes(join(folder, file)) != data:
                write_bytes(join(folder, file), data)
        if last and (settled := _settled(folder, sums)) != sums:
            write_bytes(join(folder, name), list_bytes(settled))


def _settled(folder: str, sums: Sums, skip: Container[str] = ()) -> dict[str, Sequence[str]]:
    """The list without ABSENT: a file that may be absent is there now, or its line is left out."""
    settled = {}
    for file, accepted in sums.items():
        if file in skip or ABSENT not in accepted:
            settled[file] = accepted
        elif is_file(join(folder, file)):
            settled[file] = [value for value in accepted if value != ABSENT]
    return settled


def _sum_there(uri: str) -> str:
    try:
        return sum_at(uri)
    except FileNotFoundError:
        return ABSENT


def delete(folder: str, file: str, name: str = LIST) -> None:
    """Remove a file or a whole directory, if it exists. A file that is listed may be absent from then on."""
    with _writing:
        sums = load(folder, name) if is_file(join(folder, file)) else None
        if sums and ABSENT not in sums.get(file, [ABSENT]):
            atomic.check_guards(folder)
            write_bytes(join(folder, name), list_bytes({**_settled(folder, sums), file: [*sums[file], ABSENT]}))
        atomic.delete(join(folder, file))


def has(folder: str, file: str, name: str = LIST) -> bool:
    """Whether a file exists. Raises Damaged if the list says that it must and it does not."""
    uri = join(folder, file)
    if is_file(uri):
        return True
    accepted = (load(folder, name) or {}).get(file, [ABSENT])
    if ABSENT in accepted:
        return False
    if is_file(uri):  # another process wrote it in the meantime
        return True
    raise Damaged(_message(uri, accepted, ABSENT))


def read(uri: str, name: str = LIST, own: bool = True) -> bytes:
    """Read a whole file and compare it with the list of its directory.

    own: alray wrote the file, so it must be listed if there is a list; else it may be a file of the user's. Raises
    Damaged, FileNotFoundError.
    """

    uri = absolute(uri)

    def look(_: bool) -> tuple[str, bytes]:
        data = read_bytes(uri)
        return sum_of(data), data

    return _confirmed(uri, name, own, look)


def check(uri: str, name: str = LIST) -> None:
    """Compare a file that alray wrote with the list of its directory, before it is mapped or read in parts.

    A process reads a file for this only once, as long as size and time of the file do not change. Raises Damaged,
    FileNotFoundError.
    """
    _confirmed(uri, name, True, lambda fresh: (sum_at(uri) if fresh else _sum_once(uri), None))


def _sum_once(uri: str) -> str:
    version = _version(uri)
    return sum_at(uri) if version is None else _sum_unchanged(uri, version)


@lru_cache(maxsize=1 << 16)
def _sum_unchanged(uri: str, version: tuple[int, int, int]) -> str:
    return sum_at(uri)


def _version(uri: str) -> tuple[int, int, int] | None:
    """What changes when a file does: size, time and inode. None without a time: a change could not be recognised."""
    fs, path = filesystem(uri)
    info = persistent(uri, lambda: fs.get_file_info(path))
    if info.type != pafs.FileType.File or not info.mtime_ns:
        return None
    return info.size, info.mtime_ns, os.stat(path).st_ino if isinstance(fs, pafs.LocalFileSystem) else 0


def _load_once(folder: str, name: str) -> Sums | None:
    """The list of a directory, which may have thousands of lines. An unchanged list is not read again."""
    version = _version(join(folder, name))
    return load(folder, name) if version is None else _load_unchanged(folder, name, version)


@lru_cache(maxsize=64)
def _load_unchanged(folder: str, name: str, version: tuple[int, int, int]) -> Sums | None:
    return load(folder, name)


def _confirmed(uri: str, name: str, own: bool, look: Callable[[bool], tuple[str, T]]) -> T:
    """What `look` returns beside the file's sum, if that is the one in the list.

    Before a file counts as damaged, list and file are read once more: another process may have written them in the
    meantime. look: called with True then, when it must not answer from memory.
    """
    folder, _, file = uri.rpartition("/")
    sums = _load_once(folder, name)
    fresh = False
    while True:
        missing: FileNotFoundError | None = None
        try:
            found, value = look(fresh)
        except FileNotFoundError as error:
            found, missing = ABSENT, error
        accepted = _accepted(folder, sums, file, own)
        if missing and ABSENT in (accepted or [ABSENT]):
            raise missing
        if not missing and (accepted is None or found in accepted):
            return value
        before, sums = sums, load(folder, name)
        if fresh and sums == before:
            raise Damaged(_message(uri, accepted or [], found))
        fresh = True


def _accepted(folder: str, sums: Sums | None, file: str, own: bool) -> Sequence[str] | None:
    """The sums that a file may have; none if it must be listed and is not; None if it may have any sum."""
    if sums is None and own:
        _warn_once(folder)
    return None if sums is None else sums.get(file, [] if own else None)


_warned: list[str] = []


def _warn_once(folder: str) -> None:
    if not _warned:
        _warned.append(folder)
        _log.warning(
            "%s has no %s, so its files are read without being checked for damage, and so are those of every other "
            "directory without one; `alray verify DIRECTORY --record True` writes it for the files as they are",
            folder, LIST,
        )  # fmt: skip


def _message(uri: str, accepted: Sequence[str], found: str) -> str:
    folder, _, file = uri.rpartition("/")
    return f"{uri}: {difference(file, accepted, found)}. {REMEDY.replace('DIRECTORY', folder)}."


def difference(file: str, accepted: Sequence[str], found: str) -> str:
    """What is wrong with a file, in words. accepted: none if the file is not listed."""
    if not accepted:
        return (
            f"not listed: expected {file} in the checksums of its directory, got no entry for it: alray did not write "
            "it there, or the list is an older one"
        )
    expected = " or ".join(map(in_words, [value for value in accepted if value != ABSENT][:_FEW]))
    return f"{'missing' if found == ABSENT else 'damaged'}: expected {expected}, got {in_words(found)}"
