"""The centers of a k-center: labeled rows and picks, as stored and as the filter sees them.

Letters: p centers, d width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Array, Shard
from alray.keyed import order
from alray.selection.kernels.distance import Space, View, join
from alray.selection.kernels.logits import Floats, Positions, check_finite
from alray.selection.kernels.matrices import WIDTH, Device

if TYPE_CHECKING:
    from alray.selection.kernels.coarse import Block

_UNUSUAL = 8  # times the median norm: such centers are in blocks of their own, and so are those of its powers
_BLOCKS = (64, 64, 128)  # centers compared at once: few at first, because most rows are dropped early; then 256
_BLOCK = 256
_KEPT = 16  # float64 views of blocks


@dataclass
class Centers:
    """Labeled rows, then picks: as stored, and as the views that the filter uses. A copy of a center is left out,
    because its distances are the same. Those with unusually large norms come last among those that are added together,
    in blocks of their own: the error bound of a block grows with its largest norm."""

    space: Space | None = None
    device: Device = None
    edges: list[int] = field(default_factory=lambda: [0])
    largest: list[float] = field(default_factory=list)  # the largest norm of each block
    _stored: list[Array] = field(default_factory=list)
    _known: set[bytes] = field(default_factory=set)
    _view: View | None = None
    _double: dict[tuple[int, int], View] = field(default_factory=dict)
    _rounded: dict[int, tuple[int, Block]] = field(default_factory=dict)  # by the first: the end, and them
    usual: int = 0  # so many centers of ordinary norm come first

    def __len__(self) -> int:
        return self.edges[-1]

    @property
    def view(self) -> View:
        """What the filter uses."""
        assert self._view is not None
        return self._view

    @property
    def stored(self) -> Array:
        """The vectors as they were given."""
        if len(self._stored) > 1:
            self._stored = [np.concatenate(self._stored)]
        return self._stored[0]

    def add(self, stored: Array) -> None:
        """Append stored vectors (p, d)."""
        assert self.space is not None
        stored = stored[self._new(stored)]
        view = self.space.view(stored)
        kind = unusual(view.squares)
        order = np.argsort(kind, kind="stable")
        stored, view, sizes = stored[order], view[order].to(self.device), np.bincount(kind, minlength=1)
        self.usual = self.usual or int(sizes[0])
        self._stored.append(stored)
        self._view = view if self._view is None else join(self._view, view)
        for size in sizes:
            self._cut(int(size))

    def _cut(self, count: int) -> None:
        end = self.edges[-1] + count
        while self.edges[-1] < end:
            start = self.edges[-1]
            size = _BLOCKS[len(self.edges) - 1] if len(self.edges) <= len(_BLOCKS) else _BLOCK
            self.edges.append(min(end, start + size))
            self.largest.append(self.view[start : self.edges[-1]].largest)

    def arrange(self, order: Positions) -> None:
        """Put the first `usual` centers into another order, (usual,). What is known of blocks does not hold then."""
        order = np.append(order, np.arange(self.usual, len(self)))
        self._stored, self._view = [self.stored[order]], self.view[order]
        self._double.clear()
        self._rounded.clear()
        self.largest = [self.view[start:end].largest for start, end in self.blocks(0)]

    def largest_of(self, start: int, end: int) -> float:
        """The largest norm of the centers start:end, which are one or more blocks."""
        return max(self.largest[self.before(start) : self.before(end)])

    def rounded(self, start: int, end: int) -> Block:
        """These centers, at most `WIDTH`, in bfloat16."""
        assert self.space is not None
        from alray.selection.kernels.coarse import block_of  # imports torch

        known = self._rounded.get(start)
        if known is None or known[0] != end:
            known = self._rounded[start] = end, block_of(self.space, self.stored[start:end])
        return known[1]

    def double(self, start: int, end: int) -> View:
        """The float64 view of a block; the last few blocks are kept."""
        assert self.space is not None
        if (start, end) not in self._double:
            while len(self._double) >= _KEPT:
                self._double.pop(next(iter(self._double)))
            view = self.space.view(self.stored[start:end], np.float64)
            self._double[start, end] = view.to(self.device)
        return self._double[start, end]

    def _new(self, stored: Array) -> Positions:
        """The positions of vectors that are no copies of others."""
        new = []
        for at, vector in enumerate(np.ascontiguousarray(stored)):
            digest = hashlib.blake2b(vector.data, digest_size=16).digest()
            if digest not in self._known:
                self._known.add(digest)
                new.append(at)
        return np.array(new, np.intp)

    @property
    def count(self) -> int:
        """The number of blocks."""
        return len(self.edges) - 1

    def before(self, end: int) -> int:
        """The number of blocks of the first `end` centers."""
        return int(np.searchsorted(self.edges, end))

    def blocks(self, first: int, wide: bool = False) -> list[tuple[int, int]]:
        """Where the blocks from this one on start and end. wide: several of them are one where that is not larger than
        a product in bfloat16, and their norms are alike."""
        found: list[tuple[int, int]] = []
        for start, end in zip(self.edges[first:-1], self.edges[first + 1 :], strict=True):
            if wide and found and self._fit(found[-1][0], end):
                found[-1] = found[-1][0], end
            else:
                found.append((start, end))
        return found

    def together(self, first: int, wide: bool = True) -> tuple[int, int]:
        """Where the block with this number starts and ends. wide: it ends where those end that may be one with it."""
        start, end = self.edges[first : first + 2]
        for later in self.edges[first + 2 :] if wide else []:
            if not self._fit(start, later):
                break
            end = later
        return start, end

    def _fit(self, start: int, end: int) -> bool:
        norms = self.largest[self.before(start) : self.before(end)]
        return end - start <= WIDTH and max(norms) < _UNUSUAL * min(norms)


def unusual(squares: Floats) -> npt.NDArray[np.int64]:
    """0 for rows of ordinary norm, 1 and more for those of unusually large ones, (m,)."""
    if not len(squares):
        return np.zeros(0, np.int64)
    usual = max(float(np.median(squares)), 2.0**-1000)
    with np.errstate(divide="ignore"):
        found = np.log2(np.minimum(squares, 2.0**900) / usual) / (2 * np.log2(_UNUSUAL))
    return np.asarray(np.clip(np.floor(found), 0, 40), np.int64)


def shuffled(labeled: Shard) -> list[Array]:
    """All labeled vectors in a fixed random order: neighbours in a file are often neighbours in space."""
    rows = labeled.rows()
    if not len(rows):
        return []
    block = labeled.take(rows)
    check_finite(block.rows, block[EMBEDDING])
    at = np.searchsorted(block.rows, order(0, "k_center/labeled", block.rows))
    return [block[EMBEDDING][at]]
