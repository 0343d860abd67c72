"""A shard's rows nearest to the boundary of every class, in one pass over the rows: BASE asks its shards for them.

Letters: n rows of the shard, m rows of a block, k classes asked for, p (class, row) pairs. Holds O(k * depth) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Block, Rows, Shard
from alray.selection.kernels.boundary import Boundaries, Filtered, reach
from alray.selection.kernels.logits import DENSE, Approximate, Floats, Positions, leading, nonzero
from alray.selection.protocol import Ties

_SAMPLE = 16  # one row of so many tells whether the two largest logits rule out most rows
Mask = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


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

    def last(self, classes: int, depth: int, ties: Ties) -> tuple[Floats, Hashes]:
        """The distance and the hash of each class's row at place `depth`, each (classes,); both as large as can be
        where there are fewer rows.

        Of sorted pairs, at most `depth` per class.
        """
        ends = np.searchsorted(self.which, np.arange(classes), side="right")
        full = np.bincount(self.which, minlength=classes) == depth
        distance, hashes = np.full(classes, np.inf), np.full(classes, np.iinfo(np.uint64).max)
        distance[full] = self.distances[ends[full] - 1]
        hashes[full] = ties.hashes(self.rows[ends[full] - 1])
        return distance, hashes


NONE = Nearest(np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0))


def join(parts: list[Nearest]) -> Nearest:
    """Several lists of pairs as one, not sorted."""
    return Nearest(
        np.concatenate([part.which for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.distances for part in parts]),
    )


class PerClass:
    """The state of one shard. It keeps no rows between calls, so that a repeated call gives the same answer.

    counters: pairs that were decided one by one, rows whose distances to all classes were, and rows that their two
    largest logits ruled out, all summed over passes.
    """

    def __init__(self, shard: Shard, boundaries: Boundaries, ties: Ties, size: int) -> None:
        self._shard, self._boundaries, self._ties, self._size = shard, boundaries, ties, size
        self.counters = {"pairs": 0, "whole_rows": 0, "ruled_out": 0}

    def count(self) -> int:
        """Number of rows."""
        return len(self._shard)

    def nearest(self, classes: Positions, depth: int, taken: Rows) -> Nearest:
        """For each of the classes (k,), the `depth` rows with the smallest (distance, hash) that are not in `taken`."""
        search = _Search(self._boundaries, self._ties, classes, depth, self.counters)
        for block in self._shard.blocks(self._size):
            search.add(block, np.isin(block.rows, taken))
        return search.result()


class _Search:
    """One pass over the rows: per class the best rows so far, and the last (distance, hash) that can enter them."""

    def __init__(
        self, boundaries: Boundaries, ties: Ties, classes: Positions, depth: int, counters: dict[str, int]
    ) -> None:
        self._boundaries, self._ties, self._classes, self._depth = boundaries, ties, classes, depth
        self._counters = counters
        self._found, self._new = NONE, list[Nearest]()
        self._limit = np.full(len(classes), np.inf)
        self._last = np.full(len(classes), np.iinfo(np.uint64).max)  # hashes of the rows at the limits
        self._reaches: Floats | None = None  # what the limits mean for the two largest logits of a row
        self._tied = False  # many rows are as near as the limits: the lowest entries of a block do not lower them

    def add(self, block: Block, skip: Mask) -> None:
        approximate = self._boundaries.logits.approximate(block)
        if self._could_most(approximate[::_SAMPLE]):
            self._add(block, skip, approximate)
            return
        at = np.flatnonzero(self._could(approximate))
        self._counters["ruled_out"] += len(block) - len(at)
        if len(at):
            self._add(block.take(at), skip[at], approximate[at])

    def _could_most(self, approximate: Approximate) -> bool:
        """Whether most rows can be as near as the limits, as far as their two largest logits tell."""
        if self._reaches is None:
            if not np.isfinite(self._limit).all():
                return True
            self._reaches = self._boundaries.reaches(self._classes, self._limit)
        return bool(np.count_nonzero(self._could(approximate)) * 2 > len(approximate.z))

    def _could(self, approximate: Approximate) -> Mask:
        """The rows that can be as near to one of the classes as its limit. Where the predicted class is not sure, the
        difference is within 2 eps."""
        assert self._reaches is not None
        top, gap = leading(approximate.z)
        return np.asarray(~(gap - 2 * approximate.eps > self._reaches[top]) | ~approximate.usable)

    def _add(self, block: Block, skip: Mask, approximate: Approximate) -> None:
        filtered = self._boundaries.filter(block, approximate)
        everything = np.array_equal(self._classes, np.arange(self._boundaries.classes))
        low = filtered.low if everything else filtered.low[:, self._classes]
        open_ = (low <= reach(self._limit)) & ~skip[:, None]
        most = len(self._classes) * self._depth
        if self._depth < len(block) and np.count_nonzero(open_) > 2 * most and not self._tied:
            first = self._promising(low, open_)
            self._score(block, filtered, first)
            self._compact()
            open_ &= (low <= reach(self._limit)) & ~first
            self._tied = _many(open_)
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
        """Decide pairs, and keep those that enter the best rows of their class: nearer than the last one, or as near
        and with a lower hash."""
        hashes = self._ties.hashes(block.rows)
        if _many(pairs):
            table = self._boundaries.table(block, filtered)[:, self._classes]
            self._counters["whole_rows"] += len(block)
            few = 2 * self._depth
            if few < len(block):  # where distances tie, the rows with the lowest hashes leave little for the others
                first = np.argpartition(hashes, few)[:few]
                self._keep(block.rows[first], hashes[first], table[first], pairs[first])
                self._compact()
                pairs = pairs.copy()
                pairs[first] = False
            self._keep(block.rows, hashes, table, pairs)
        else:
            at, which = nonzero(pairs)
            distance = self._boundaries.exact(block, filtered, at, self._classes[which])
            self._counters["pairs"] += len(at)
            limit = self._limit[which]
            keep = (distance < limit) | ((distance == limit) & (hashes[at] <= self._last[which]))
            self._new.append(Nearest(which[keep], block.rows[at[keep]], distance[keep]))

    def _keep(self, rows: Rows, hashes: Hashes, table: Floats, pairs: Mask) -> None:
        """Keep those of the pairs of a table that enter the best rows of their class."""
        with_hash = (table == self._limit) & (hashes[:, None] <= self._last)
        at, which = nonzero(pairs & ((table < self._limit) | with_hash))
        self._new.append(Nearest(which, rows[at], table[at, which]))

    def _compact(self) -> None:
        self._found = join([self._found, *self._new]).cut(self._depth, self._ties)
        self._new = []
        self._limit, self._last = self._found.last(len(self._classes), self._depth, self._ties)
        self._reaches = None


def _many(pairs: Mask) -> bool:
    return bool(np.count_nonzero(pairs) * DENSE > pairs.size)
