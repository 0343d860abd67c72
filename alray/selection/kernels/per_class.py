"""A shard's rows nearest to the boundary of every class, in one pass over the rows: BASE asks its shards for them.

Letters: n rows of the shard, m rows of a block, k classes asked for, p (class, row) pairs. Holds O(k * depth) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Block, Rows, Shard
from alray.selection.kernels.boundary import Boundaries, Filtered, reach
from alray.selection.kernels.logits import Floats, Positions, nonzero
from alray.selection.protocol import Ties

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Nearest:
    """(class, row) pairs, sorted by (which, distance, hash of the row).

    which (p,) index into the classes asked for; rows (p,) int64; distances (p,) float64.
    """

    which: Positions
    rows: Rows
    distances: Floats

    def cut(self, depth: int, ties: Ties) -> Nearest:
        """Sorted, and no more than `depth` rows per class."""
        order = ties.order(self.rows, self.distances, self.which)
        which = self.which[order]
        rank = np.arange(len(which)) - np.searchsorted(which, which)
        order = order[rank < depth]
        return Nearest(self.which[order], self.rows[order], self.distances[order])

    def last(self, classes: int, depth: int) -> Floats:
        """The distance of each class's row at place `depth`, (classes,); infinite where there are fewer rows.

        Of sorted pairs, at most `depth` per class.
        """
        ends = np.searchsorted(self.which, np.arange(classes), side="right")
        full = np.bincount(self.which, minlength=classes) == depth
        last = np.full(classes, np.inf)
        last[full] = self.distances[ends[full] - 1]
        return last


NONE = Nearest(np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0))


def join(parts: list[Nearest]) -> Nearest:
    """Several lists of pairs as one, not sorted."""
    return Nearest(
        np.concatenate([part.which for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.distances for part in parts]),
    )


class PerClass:
    """The state of one shard. It keeps nothing between calls, so that a repeated call gives the same answer."""

    def __init__(self, shard: Shard, boundaries: Boundaries, ties: Ties, size: int) -> None:
        self._shard, self._boundaries, self._ties, self._size = shard, boundaries, ties, size

    def nearest(self, classes: Positions, depth: int, taken: Rows) -> Nearest:
        """For each of the classes (k,), the `depth` rows with the smallest (distance, hash) that are not in `taken`."""
        search = _Search(self._boundaries, self._ties, classes, depth)
        for block in self._shard.blocks(self._size):
            search.add(block, np.isin(block.rows, taken))
        return search.result()


class _Search:
    """One pass over the rows: per class the best rows so far, and the largest distance that can still enter them."""

    def __init__(self, boundaries: Boundaries, ties: Ties, classes: Positions, depth: int) -> None:
        self._boundaries, self._ties, self._classes, self._depth = boundaries, ties, classes, depth
        self._found, self._new = NONE, list[Nearest]()
        self._limit = np.full(len(classes), np.inf)

    def add(self, block: Block, skip: Mask) -> None:
        filtered = self._boundaries.filter(block)
        everything = np.array_equal(self._classes, np.arange(self._boundaries.classes))
        low = filtered.low if everything else filtered.low[:, self._classes]
        open_ = (low <= reach(self._limit)) & ~skip[:, None]
        most = len(self._classes) * self._depth
        if self._depth < len(block) and np.count_nonzero(open_) > 2 * most:
            first = self._promising(low, open_)
            self._score(block, filtered, first)
            self._compact()
            open_ &= (low <= reach(self._limit)) & ~first
        self._score(block, filtered, open_)
        if sum(len(part.rows) for part in self._new) > most // 2:
            self._compact()

    def result(self) -> Nearest:
        self._compact()
        return self._found

    def _promising(self, low: npt.NDArray[np.float32], open_: Mask) -> Mask:
        """The `depth` lowest entries of each class. Their exact distances set the limit for all other rows."""
        first = np.zeros(low.shape, bool)
        lowest = np.where(open_, low, np.float32(np.inf))
        np.put_along_axis(first, np.argpartition(lowest, self._depth - 1, axis=0)[: self._depth], True, axis=0)
        return first & open_

    def _score(self, block: Block, filtered: Filtered, pairs: Mask) -> None:
        at, which = nonzero(pairs)
        distance = self._boundaries.exact(block, filtered, at, self._classes[which])
        keep = distance <= self._limit[which]
        self._new.append(Nearest(which[keep], block.rows[at[keep]], distance[keep]))

    def _compact(self) -> None:
        self._found = join([self._found, *self._new]).cut(self._depth, self._ties)
        self._new = []
        self._limit = self._found.last(len(self._classes), self._depth)
