"""Many headers of a tar at once: which blocks are headers, and whether their checksums, numbers and names are plain."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 512
REGULAR = ord("0")
_SPACE, _ZERO, _MAGIC = np.frombuffer(b" 0u", np.uint8)  # the last one begins "ustar"
# Mode, uid, gid, size, time and device numbers: where they are, and which of their bytes do not begin one. The checksum
# is looked at by itself.
_NUMBERS = tuple(
    slice(*ends) for ends in [(100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (329, 337), (337, 345)]
)
_INSIDE = np.concatenate([np.arange(place.stop - place.start) > 0 for place in _NUMBERS])
_EIGHTS = 8 ** np.arange(11, dtype=np.int64)[::-1]
# A usual checksum is six octal digits, a zero and any byte: which bits of it are known, and what they are.
_CHECKSUM = np.frombuffer(b"\xf8" * 6 + b"\xff\0", "<u8"), np.frombuffer(b"\x30" * 6 + b"\0\0", "<u8")
_DIGITS = np.stack([np.r_[_EIGHTS[-6:], 0, 0], np.ones(8, np.int64)], axis=1)  # for the number, for the sum of bytes
_ZEROS = int(_ZERO) * int(_EIGHTS[-6:].sum())

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


class Blocks:
    """The blocks of a buffer (m, 512), some of which are headers. sizes (m,): of the file, for the header of one."""

    def __init__(self, buffer: bytes) -> None:
        self.blocks = np.frombuffer(buffer, np.uint8, len(buffer) // BLOCK * BLOCK).reshape(-1, BLOCK)
        self.sizes = np.zeros(len(self.blocks), np.int64)
        rows = np.flatnonzero(
            (self.blocks[:, 257] == _MAGIC) & (self.blocks[:, 156] == REGULAR) & (self.blocks[:, 135] <= _SPACE)
        )
        digits = self.blocks[rows, 124:135] - _ZERO
        if digits.max(initial=0) > 7:
            octal = digits.max(axis=1) < 8
            rows, digits = rows[octal], digits[octal]
        self.sizes[rows] = digits @ _EIGHTS
        after = np.full(len(self.blocks), -1)
        after[rows] = rows + 1 - -self.sizes[rows] // BLOCK
        self._after = after.tolist()

    def is_file(self, row: int) -> bool:
        """Whether a block looks like the header of a file."""
        return row < len(self._after) and self._after[row] >= 0

    def chain(self, row: int) -> tuple[Integers, int]:
        """The headers of files from this block on, each where the one before it says, and the block after them."""
        rows, after = list[int](), self._after
        while row < len(after) and (follower := after[row]) >= 0:
            rows.append(row)
            row = follower
        return np.array(rows, np.int64), row


def names_of(table: Bytes, given: dict[int, str]) -> list[str]:
    """The names of the members with these headers, up to the first one that is not plain."""
    texts = np.ascontiguousarray(table[:, :100]).view("S100").ravel().tolist()  # without zeros at the end
    joined = b"\0".join(texts)
    usual = not given and joined.count(b"\0") == len(texts) - 1 and b"/\0" not in joined + b"\0"
    if usual and not table[:, 345].any():
        try:
            return joined.decode().split("\0")
        except UnicodeDecodeError:
            pass
    names = list[str]()
    for place, header in enumerate(table):
        try:
            name = given[place] if place in given else _name(header.tobytes())
        except UnicodeDecodeError:
            break
        if name.endswith("/"):  # old tars mark directories by a slash
            break
        names.append(name)
    return names


def first_wrong(table: Bytes) -> int | None:
    """The first of the headers (n, 512) whose checksum is wrong, or whose numbers are not all octal."""
    field = np.ascontiguousarray(table[:, 148:156])
    usual = field.view("<u8").ravel() & _CHECKSUM[0] == _CHECKSUM[1]
    number, digits = (field.astype(np.int64) @ _DIGITS).T
    sums = table.sum(axis=1, dtype=np.uint32) - digits + 8 * int(_SPACE)
    good = usual & (number - _ZEROS == sums)
    for row in np.flatnonzero(~usual).tolist():
        good[row] = _octal(table[row, 148:156].tobytes()) == sums[row]
    for row in _unusual(table):
        good[row] &= all(_octal(table[row, place].tobytes()) >= 0 for place in _NUMBERS)
    return None if good.all() else int(np.argmin(good))


def _unusual(table: Bytes) -> list[int]:
    """Which of the headers (n, 512) have a number that is not octal digits with spaces and zeros after them."""
    fields = np.concatenate([table[:, 100:148], table[:, 329:345]], axis=1)
    digits = (fields ^ _ZERO) < 8
    wrong = ~digits & (fields != _SPACE) & (fields != 0)
    wrong[:, 1:] |= (digits[:, 1:] & ~digits[:, :-1]) & _INSIDE[1:]
    return np.flatnonzero(wrong.any(axis=1)).tolist() if wrong.any() else []


def whole(size: int) -> int:
    """The bytes that a file of this size takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def text(field: bytes) -> str:
    """The text in a field, up to the first zero. Raises ValueError if it is not UTF-8."""
    return field.split(b"\0", 1)[0].decode()


def number(header: bytes) -> int:
    """The size in a header. Raises ValueError if it is not octal."""
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
    name = text(header[:100])
    return name if header[345] == 0 else f"{text(header[345:500])}/{name}"
