"""The headers of an uncompressed tar, read directly: `tarfile` takes 15 times as long for a plain one.

Plain are regular files and directories whose numbers are octal and whose names are UTF-8, also with a pax header or a
long GNU name of their own before them. At the first header of another kind (a link, a sparse file, global pax values,
base-256 numbers) the walk stops, and `tarfile` goes on from there. Checksums are compared for many headers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 512
_READ_AHEAD = 4096  # bytes; a small member is read together with its header
_BATCH = 256  # headers whose checksums are compared at once
_END = bytes(BLOCK)
_REGULAR, _DIRECTORY, _LONG_NAME, _PAX = (b"0", b"\0"), b"5", b"L", b"x"
_MOST = 1 << 20  # bytes of what is read whole here: a long name, a pax header, a label
_ALLOWED: npt.NDArray[np.bool_] = np.isin(np.arange(256), list(b"01234567 \0"))  # bytes of an octal number
_NUMBERS = np.r_[100:156, 329:345]  # mode, uid, gid, size, mtime, checksum; device numbers


class Member(NamedTuple):
    """A regular file. data: its bytes, where they were asked for and are at hand."""

    name: str
    offset: int
    size: int
    data: bytes | None


class PlainHeaders:
    """A walk over the headers of a tar from its beginning.

    offset: where the next header is that is not among the members so far; ended: whether the walk stopped at the end of
    the tar, and not at a header that `tarfile` has to read.
    """

    def __init__(self, file: Any, size: int, wanted: Callable[[str], bool]) -> None:
        """file: with read_at(bytes, offset); size: its bytes; wanted: whether the data of a member are."""
        self.offset, self.ended = 0, False
        self._file, self._size, self._wanted = file, size, wanted
        self._start, self._buffer = 0, b""

    def batches(self) -> Iterator[list[Member]]:
        """The regular files in the order of the tar."""
        going = True
        while going:
            members, headers = list[Member](), list[bytes]()
            before = list[tuple[int, int]]()  # of each header: where its entry begins, and the members before it
            at = self.offset
            while len(headers) < _BATCH:
                step = self._next(at)
                if step is None:
                    going = False
                    break
                more, member, after = step
                headers += more
                before += [(at, len(members))] * len(more)
                if member is not None:
                    members.append(member)
                at = after
            wrong = _first_wrong(headers)
            if wrong is None:
                self.offset = at
            else:
                self.offset, count = before[wrong]
                members, going = members[:count], False
            yield members
            if not going:
                self.ended = wrong is None and self._at_end()

    def _at_end(self) -> bool:
        header = self._read(self.offset, BLOCK)
        return self.offset > 0 and (len(header) < BLOCK or header == _END)

    def _read(self, offset: int, length: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + length > len(self._buffer):
            if offset >= self._size:
                return b""
            self._buffer = self._file.read_at(max(_READ_AHEAD, length), offset)
            self._start, at = offset, 0
        return self._buffer[at : at + length]

    def _next(self, at: int) -> tuple[list[bytes], Member | None, int] | None:
        """The headers of the next entry, its member if it is a regular file, and where the next entry begins. None
        where there is none that is plain."""
        header = self._read(at, BLOCK)
        if len(header) < BLOCK or header == _END:
            return None
        try:
            kind = header[156:157]
            if kind in _REGULAR:
                return self._member([header], at, _name(header), _number(header))
            if kind == _DIRECTORY:
                return [header], None, at + BLOCK
            if kind not in (_LONG_NAME, _PAX):
                return None
            length, own = _number(header), at + BLOCK
            if length > _MOST:
                return None
            data = self._read(own, length)
            follower = own + _whole(length)
            second = self._read(follower, BLOCK)
            if len(data) < length or len(second) < BLOCK or second[156:157] not in _REGULAR:
                return None
            name, size = _name(second), _number(second)
            if kind == _LONG_NAME:
                name = _text(data)
            else:
                values = _pax(data)
                name = values["path"].rstrip("/") if "path" in values else name
                size = int(values.get("size", size))
            return self._member([header, second], follower, name, size)
        except ValueError:  # not octal, not UTF-8, not pax
            return None

    def _member(
        self, headers: list[bytes], at: int, name: str, size: int
    ) -> tuple[list[bytes], Member | None, int] | None:
        wanted = self._wanted(name)
        if name.endswith("/") or (wanted and size > _MOST):  # old tars mark directories by a slash
            return None
        offset = at + BLOCK
        data = self._read(offset, size) if wanted and offset + size <= self._size else None
        return headers, Member(name, offset, size, data), offset + _whole(size)


def _first_wrong(headers: list[bytes]) -> int | None:
    """The first header whose checksum is wrong, or whose numbers are not all octal."""
    if not headers:
        return None
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
    sums = table.sum(axis=1, dtype=np.int64) - table[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    good = np.asarray(_ALLOWED[table[:, _NUMBERS]].all(axis=1))
    for at, header in enumerate(headers):
        if not good[at] or _octal(header[148:156]) != sums[at]:
            return at
    return None


def _whole(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode()


def _number(header: bytes) -> int:
    size = _octal(header[124:136])
    if size < 0:
        raise ValueError("not octal")
    return size


def _octal(field: bytes) -> int:
    """The number; -1 where it is none."""
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes) -> str:
    name = _text(header[:100])
    return name if header[345] == 0 else f"{_text(header[345:500])}/{name}"


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
