"""Which rows are between two ranks of an order, without sorting all of them: keys at ranks are found by counting.

Rows are ordered by a value, descending, and rows with equal values by their hash, ascending (`Ties`). A value becomes a
64-bit key that sorts in the same way. The key at a rank is found digit by digit, 16 bits in each of four passes that
count digits (radix selection), so that memory does not grow with the rows. Letters: n rows, m rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array
from alray.selection.protocol import Ties

Hashes = npt.NDArray[np.uint64]
Place = tuple[int, int]  # (key of the value, hash): where a rank begins
DIGIT = 16
_BLOCK = 1 << 16
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True, eq=False)
class Ranked:
    """rows (n,) ascending, of any integer type; values (n,), of any floating type; the order of equal values."""

    rows: npt.NDArray[np.integer]
    values: Array
    ties: Ties

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, rank: int) -> Place:
        """Where the row of this rank is, from 0; for rank n, a place behind all rows."""
        if rank >= len(self.rows):
            return 1 << 64, 0
        value, before = at_rank(self._values, rank)
        hash_, _ = at_rank(lambda: self._hashes(value), rank - before)
        return value, hash_

    def between(self, first: int, end: int) -> npt.NDArray[np.int64]:
        """The rows with the ranks first to end - 1, ascending."""
        low, high, found = self.place(first), self.place(end), [np.empty(0, np.int64)]
        for part in self._blocks():
            keys = descending(self.values[part])
            inside = np.flatnonzero(self._behind(part, keys, low) & ~self._behind(part, keys, high))
            found.append(self.rows[part][inside].astype(np.int64))
        return np.concatenate(found)

    def rank(self, position: int) -> int:
        """The rank of the row at a position."""
        here = slice(position, position + 1)
        mine = int(descending(self.values[here])[0]), int(self._hash(here)[0])
        blocks = ((part, descending(self.values[part])) for part in self._blocks())
        return int(sum(np.count_nonzero(~self._behind(part, keys, mine)) for part, keys in blocks))

    def _behind(self, part: slice, keys: Hashes, place: Place) -> npt.NDArray[np.bool_]:
        """Which rows of a block are at a place or behind it."""
        if place[0] >= 1 << 64:
            return np.zeros(len(keys), bool)
        value = np.uint64(place[0])
        behind = keys > value
        level = np.flatnonzero(keys == value)
        if len(level):
            behind[level] = self.ties.hashes(self.rows[part][level].astype(np.int64)) >= np.uint64(place[1])
        return behind

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.rows), _BLOCK):
            yield slice(start, min(start + _BLOCK, len(self.rows)))

    def _values(self) -> Iterator[Hashes]:
        for part in self._blocks():
            yield descending(self.values[part])

    def _hashes(self, value: int) -> Iterator[Hashes]:
        """The hashes of the rows whose value has this key."""
        for part in self._blocks():
            level = descending(self.values[part]) == np.uint64(value)
            if level.any():
                yield self.ties.hashes(self.rows[part][level].astype(np.int64))

    def _hash(self, part: slice) -> Hashes:
        return self.ties.hashes(self.rows[part].astype(np.int64))


def descending(values: Array) -> Hashes:
    """Keys (m,) that are smaller for larger values (m,). Equal values have equal keys, -0.0 and 0.0 too."""
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, bits, ~(bits | _SIGN))


def at_rank(keys: Callable[[], Iterator[Hashes]], rank: int) -> tuple[int, int]:
    """The key of this rank in ascending order, from 0, and how many keys are smaller. keys: begins a pass over all of
    them, in blocks."""
    prefix, smaller = 0, 0
    for shift in range(64 - DIGIT, -1, -DIGIT):
        counts = np.zeros(1 << DIGIT, np.int64)
        for block in keys():
            if shift < 64 - DIGIT:
                block = block[block >> np.uint64(shift + DIGIT) == np.uint64(prefix)]
            counts += digits(block, shift)
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, rank - smaller, side="right"))
        smaller += int(upto[digit] - counts[digit])
        prefix = (prefix << DIGIT) | digit
    return prefix, smaller


def digits(keys: Hashes, shift: int) -> npt.NDArray[np.int64]:
    """How many keys have each of the 2^16 digits that begin at the bit `shift`."""
    digit = (keys >> np.uint64(shift)) & np.uint64((1 << DIGIT) - 1)
    return np.bincount(digit.astype(np.int64), minlength=1 << DIGIT)


def among(rows: npt.NDArray[np.integer], others: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Which of the rows (m,) are among other rows (n,), ascending, in memory that depends on m alone."""
    if not len(others):
        return np.zeros(len(rows), bool)
    at = np.searchsorted(others, rows)
    np.minimum(at, len(others) - 1, out=at)
    return np.asarray(others[at] == rows)
