"""The headers of an uncompressed tar, read directly: `tarfile` takes many times as long for a plain one.

Plain are regular files and directories whose numbers are octal and whose names are UTF-8, also with a pax header or a
long GNU name of their own before them. At the first header of another kind (a link, a sparse file, global pax values,
base-256 numbers) the walk stops, and `tarfile` goes on from there. Names and checksums are looked at for many headers
at once; so are sizes, where headers lie close together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from alray.data.sources.tar_blocks import (
    BLOCK,
    REGULAR,
    Blocks,
    Bytes,
    Integers,
    first_wrong,
    names_of,
    number,
    text,
    whole,
)

_AHEAD = 4096, 1 << 20  # bytes: the least and the most that are read at once
_GAP = 8192  # bytes between two reads; where there are fewer, the next read is longer and spares a call
_CLOSE = 1 << 15  # bytes: where so many are read at once, headers lie close together
_SMALL = 4096  # bytes; a member of at most so many is kept when it was read together with its header
_BATCH = 128  # headers that are looked at at once where they do not lie close together
_MOST = 1 << 20  # bytes of what is read whole here: a long name, a pax header
_END = bytes(BLOCK)
_OLD_REGULAR, _DIRECTORY, _LONG_NAME, _PAX = b"\x005Lx"


class Members(NamedTuple):
    """Regular files in the order of the tar."""

    names: list[str]
    offsets: Integers
    sizes: Integers


class _Entry(NamedTuple):
    """One entry: its headers and, if it is a regular file, where its bytes are; name: one that is not in its own
    header; after: where the next entry begins."""

    headers: list[bytes]
    name: str | None
    offset: int | None
    size: int
    after: int


@dataclass
class _Entries:
    """The entries that one step of the walk found.

    table (n, 512): their headers; begins: of each header, where its entry begins; rows: of each member, the place of
    its own header; after: where the next entry begins; given: by place of the member, a name that is not in its header;
    stopped: there is no next entry that is plain.
    """

    table: Bytes
    begins: Integers
    rows: Integers
    offsets: Integers
    sizes: Integers
    after: int
    given: dict[int, str] = field(default_factory=dict)
    stopped: bool = False


class PlainHeaders:
    """A walk over the headers of a tar from its beginning.

    offset: where the next header is that is not among the members so far; ended: whether the walk stopped at the end of
    the tar, and not at a header that `tarfile` has to read.
    """

    def __init__(self, file: Any, size: int) -> None:
        """file: with read_at(bytes, offset); size: its bytes."""
        self.offset, self.ended = 0, False
        self._file, self._size = file, size
        self._start, self._buffer, self._ahead = 0, b"", _AHEAD[0] // 2
        self._blocks = Blocks(b"")
        self._small: dict[int, bytes] = {}  # by offset: members of the last batch

    def batches(self) -> Iterator[Members]:
        """The regular files in the order of the tar."""
        going = True
        while going:
            found = self._run() or self._step()
            names, row = _checked(found)
            count = len(names)
            self.offset, good = (found.after, True) if row is None else (int(found.begins[row]), False)
            going = good and not found.stopped
            yield Members(names, found.offsets[:count], found.sizes[:count])
            if not going:
                self.ended = good and self._at_end()

    def data(self, offsets: Iterable[int], sizes: Iterable[int]) -> list[bytes]:
        """The bytes of members of the last batch. Those that are not at hand are read again."""
        start, buffer, found = self._start, self._buffer, list[bytes]()
        for offset, size in zip(offsets, sizes, strict=True):
            begin = offset - start
            if 0 <= begin <= len(buffer) - size:
                found.append(buffer[begin : begin + size])
            else:
                kept = self._small.get(offset)
                found.append(self._file.read_at(size, offset) if kept is None else kept)
        return found

    def _at_end(self) -> bool:
        header = self._read(self.offset, BLOCK)
        return self.offset > 0 and (len(header) < BLOCK or header == _END)

    def _read(self, offset: int, length: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + length > len(self._buffer):
            self._fill(offset, length)
            at = 0
        return self._buffer[at : at + length]

    def _fill(self, offset: int, length: int) -> None:
        """Read at least so many bytes, more where the walk used most of what was read before."""
        near = offset - self._start - len(self._buffer) <= _GAP
        self._ahead = min(2 * self._ahead, _AHEAD[1]) if near else _AHEAD[0]
        self._start = offset
        self._buffer = self._file.read_at(max(self._ahead, length), offset) if offset < self._size else b""
        self._blocks = Blocks(self._buffer if self._ahead >= _CLOSE else b"")

    def _run(self) -> _Entries | None:
        """The next members of the usual kind that were read together; None if there is none."""
        if self._ahead >= _CLOSE:
            self._read(self.offset, BLOCK)
        rows, after = self._blocks.chain((self.offset - self._start) // BLOCK)
        if not len(rows):
            return None
        begins = self._start + BLOCK * rows
        table, sizes = self._blocks.blocks[rows], self._blocks.sizes[rows]
        return _Entries(table, begins, np.arange(len(rows)), begins + BLOCK, sizes, self._start + BLOCK * after)

    def _step(self) -> _Entries:
        """The next entries, one by one, up to the size of a batch or to one that `_run` finds. Nothing but kinds and
        sizes has been looked at."""
        headers, begins, rows, places = list[bytes](), list[int](), list[int](), list[tuple[int, int]]()
        given, after, stopped = dict[int, str](), self.offset, False
        self._small = {}
        while len(headers) < _BATCH and not (headers and self._blocks.is_file((after - self._start) // BLOCK)):
            entry = self._entry(after)
            if entry is None:
                stopped = True
                break
            headers += entry.headers
            begins += [after] * len(entry.headers)
            after = entry.after
            if entry.offset is None:
                continue
            if entry.name is not None:
                given[len(rows)] = entry.name
            rows.append(len(headers) - 1)
            places.append((entry.offset, entry.size))
            begin = entry.offset - self._start
            if entry.size <= _SMALL and begin + entry.size <= len(self._buffer):
                self._small[entry.offset] = self._buffer[begin : begin + entry.size]
        table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
        offsets, sizes = np.array(places, np.int64).reshape(-1, 2).T
        return _Entries(
            table, np.array(begins, np.int64), np.array(rows, np.int64), offsets, sizes, after, given, stopped
        )

    def _entry(self, at: int) -> _Entry | None:
        """The entry that begins there; None where there is none that is plain."""
        header = self._read(at, BLOCK)
        if len(header) < BLOCK or header == _END:
            return None
        try:
            kind = header[156]
            if kind in (REGULAR, _OLD_REGULAR):
                size = number(header)
                return _Entry([header], None, at + BLOCK, size, at + BLOCK + whole(size))
            if kind == _DIRECTORY:
                return _Entry([header], None, None, 0, at + BLOCK)
            if kind in (_LONG_NAME, _PAX):
                return self._named(header, at)
        except ValueError:  # not octal, not UTF-8, not pax
            pass
        return None

    def _named(self, header: bytes, at: int) -> _Entry | None:
        """A regular file with a long name or a pax header before its own."""
        length, own = number(header), at + BLOCK
        if length > _MOST:
            return None
        data = self._read(own, length)
        follower = own + whole(length)
        second = self._read(follower, BLOCK)
        if len(data) < length or len(second) < BLOCK or second[156] not in (REGULAR, _OLD_REGULAR):
            return None
        name, size = None, number(second)
        if header[156] == _LONG_NAME:
            name = text(data)
        else:
            values = _pax(data)
            size = int(values.get("size", size))
            if "path" in values:
                name = values["path"].rstrip("/")
        if size < 0:
            return None
        offset = follower + BLOCK
        return _Entry([header, second], name, offset, size, offset + whole(size))


def _checked(found: _Entries) -> tuple[list[str], int | None]:
    """The names of the members before the first header that is not plain after all, and its place; None if there is no
    such header."""
    wrong = first_wrong(found.table)
    rows = found.rows if wrong is None else found.rows[: np.searchsorted(found.rows, wrong)]
    names = names_of(found.table[rows], found.given)
    return names, wrong if len(names) == len(rows) else int(rows[len(names)])


def _pax(data: bytes) -> dict[str, str]:
    """The values of a pax header. Raises ValueError for one that changes more than a name, a size, times and owners."""
    values = dict[str, str]()
    while data and data[0]:
        digits = data.split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[:length].partition(b" ")[2].partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(data):
            raise ValueError("not a pax header")
        if key.startswith(b"GNU.sparse") or key == b"hdrcharset":
            raise ValueError("not plain")
        if key in (b"path", b"size"):
            values[key.decode()] = value[:-1].decode()
        data = data[length:]
    return values
