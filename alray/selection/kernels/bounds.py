"""What a shard of a k-center remembers of the distances of each row, in 16 bytes: bounds, rounded outwards to float32.

They are an upper bound of the squared distance to all centers that the row was compared with; lower bounds for the
block of centers that the nearest one is in, and for all other centers; the nearest center, where it is known; and the
number of blocks that the row was compared with. Rows that are being compared have theirs in float64. Nothing exact is
kept: where a distance decides, it is computed again from the nearest center. Letters: n rows of the shard, m of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Integers
from alray.selection.kernels.logits import Floats, Positions, Singles

UNKNOWN = -1  # instead of the nearest center: it may be any
_CODE = np.uint16(0xF000)  # numbers from here on are none of centers: the last one is UNKNOWN, then come blocks
_MOST = 0xFFFF  # blocks


@dataclass
class Near:
    """The bounds of some rows, each (m,): upper, lower, other as of `Bounds`; nearest: the number of a center that is
    one of the nearest one's group, `in_block` of the block that it is in, or UNKNOWN."""

    upper: Floats
    lower: Floats
    other: Floats
    nearest: Positions

    def __getitem__(self, at: Positions) -> Near:
        return Near(self.upper[at], self.lower[at], self.other[at], self.nearest[at])


class Bounds:
    """The bounds of all rows, in units of the views. upper (n,): of the squared distance; blocks (n,): the number of
    blocks that the row was compared with.

    Centers are numbered in groups of 2^`shift`, so that 16 bits are enough: a group is one center up to 61,440 centers.
    """

    def __init__(self, n: int) -> None:
        self.upper = np.full(n, np.inf, np.float32)
        self._lower = np.full(n, np.inf, np.float32)  # for the block of the nearest center
        self._other = np.full(n, np.inf, np.float32)  # for all other centers, where the nearest one is known
        self._group = np.full(n, _MOST, np.uint16)
        self.blocks = np.zeros(n, np.uint16)
        self._shift = 0

    def __len__(self) -> int:
        return len(self.upper)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(one.nbytes for one in (self.upper, self._lower, self._other, self._group, self.blocks))

    def make_room(self, centers: int, blocks: int) -> None:
        """Number groups of twice as many centers, until 16 bits are enough for all of them."""
        while centers - 1 >> self._shift >= int(_CODE):
            self._shift += 1
            np.right_shift(self._group, 1, out=self._group, where=self._group < _CODE)
        if blocks > _MOST:
            self.blocks = self.blocks.astype(np.uint32)

    def load(self, at: Positions) -> Near:
        """The bounds of some rows."""
        group = self._group[at]
        nearest = np.where(group >= _CODE, group.view(np.int16), group.astype(np.intp) << self._shift)
        upper, lower, other = (one[at].astype(np.float64) for one in (self.upper, self._lower, self._other))
        return Near(upper, lower, other, nearest)

    def store(self, at: Positions, near: Near, blocks: int) -> None:
        """Keep the bounds of some rows, which were compared with so many blocks."""
        self.upper[at], self._lower[at], self._other[at] = up(near.upper), _down(near.lower), _down(near.other)
        self._group[at] = np.where(near.nearest < 0, near.nearest, near.nearest >> self._shift).astype(np.uint16)
        self.blocks[at] = blocks

    def settle(self, at: Positions, squared: Floats, nearest: Positions, blocks: int) -> None:
        """Keep canonical squared distances (m,). nearest (m,): the centers that have them, or UNKNOWN."""
        other = np.where(nearest == UNKNOWN, squared, np.inf)
        self.store(at, Near(squared, squared, other, nearest), blocks)

    def forget_nearest(self) -> None:
        """Any center may be the nearest one."""
        self._group[:] = _MOST

    def known(self, at: Integers) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Whether the upper bound is the squared distance, (m,); and whether the nearest center is known, (m,)."""
        upper, other = self.upper[at], self._other[at]
        beyond = other >= upper
        return (beyond & (self._lower[at] >= upper)) | (upper <= 0), beyond & (self._group[at] < _CODE)

    def block(self, at: Integers) -> Positions:
        """The number of the block that the nearest center is in, (m,); -1 where it may be in any."""
        group = self._group[at]
        known = (self._other[at] >= self.upper[at]) & (group >= _CODE) & (group < _MOST)
        return np.where(known, _MOST - 1 - group.astype(np.intp), -1)

    def below(self, at: Integers) -> Singles:
        """Lower bounds of the squared distances to all centers that the rows were compared with, (m,)."""
        return np.minimum(np.minimum(self._lower[at], self._other[at]), self.upper[at])

    def group(self, at: Positions, centers: int) -> list[Positions]:
        """The centers (m,) of the group that the nearest one is in: the first of each row, the second, ..."""
        first = self._group[at].astype(np.intp) << self._shift
        return [np.minimum(first + more, centers - 1) for more in range(1 << self._shift)]


def in_block(number: int) -> int:
    """Instead of the nearest center: it is in the block with this number."""
    return UNKNOWN - 1 - number if number < _MOST - int(_CODE) else UNKNOWN


def block_in(nearest: Positions) -> Positions:
    """The numbers (m,) that were given to `in_block`; -1 where the center is known, or may be any."""
    return np.where(nearest < UNKNOWN, UNKNOWN - 1 - nearest, -1)


@lru_cache(4)
def under(least: float) -> np.float32:
    """The largest float32 number below `least`. A bound that exceeds it is, rounded up, at least `least`."""
    with np.errstate(over="ignore"):
        return np.float32(np.nextafter(up(np.array([least]))[0], np.float32(-np.inf)))


def up(x: Floats) -> Singles:
    """The lowest float32 numbers that are not below these."""
    with np.errstate(over="ignore", under="ignore"):
        found = x.astype(np.float32)
        lower = np.flatnonzero(found < x)
        found[lower] = np.nextafter(found[lower], np.float32(np.inf))
    return found


def _down(x: Floats) -> Singles:
    return -up(-x)
