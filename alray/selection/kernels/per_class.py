"""A shard's rows nearest to the boundary of every class, in one pass over the rows: BASE asks its shards for them.

Letters: n rows of the shard, m rows of a block, k classes asked for, p (class, row) pairs. Holds O(k * depth) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Block, Rows, Shard
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.logits import DENSE, Floats, Positions, Singles, nonzero
from alray.selection.kernels.ranks import among
from alray.selection.protocol import Ties

_FIRST, _ALL = 2, 4  # rows that are looked at first, and with so few rows all of them: times the depth
_HASHED = 1 << 16  # rows hashed at once
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
        which = self.which.astype(np.min_scalar_type(int(self.which.max(initial=0))))  # 16 bits are sorted fast
        order = ties.order(self.rows, self.distances, which)
        counts = np.bincount(self.which)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
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

    counters: pairs that were decided one by one, rows whose distances to all classes were, and rows that were ruled out
    before any distance, all summed over passes.
    """

    def __init__(self, shard: Shard, boundaries: Boundaries, ties: Ties, size: int) -> None:
        self._shard, self._boundaries, self._ties, self._size = shard, boundaries, ties, size
        self.counters = {"pairs": 0, "whole_rows": 0, "ruled_out": 0}

    def count(self) -> int:
        """Number of rows."""
        return len(self._shard)

    def nearest(self, classes: Positions, depth: int, taken: Rows) -> Nearest:
        """For each of the classes (k,), the `depth` rows with the smallest (distance, hash) that are not in `taken`,
        ascending.

        Rows with the lowest hashes come first: a sample that gives every class a limit near the last one, and where
        distances tie, the rows that are chosen.
        """
        search = _Search(self._boundaries, self._ties, classes, depth, taken, self.counters)
        first = self._lowest_hashes(len(self._shard) if len(self._shard) < _ALL * depth else _FIRST * depth)
        for start in range(0, len(first), self._size):
            search.add(self._shard.take(np.sort(first[start : start + self._size])))
        if len(first) < len(self._shard):
            search.leave_out(first)
            for block in self._shard.blocks(self._size):
                search.add(block)
        return search.result()

    def _lowest_hashes(self, count: int) -> Rows:
        """The rows with the lowest hashes, (count,), in that order."""
        rows, hashes = np.empty(0, np.int64), np.empty(0, np.uint64)
        for segment in self._shard.segments:
            for start in range(0, len(segment.rows), _HASHED):
                part = segment.rows[start : start + _HASHED]
                new = self._ties.hashes(part)
                low = np.flatnonzero(new <= hashes[-1]) if len(hashes) == count else slice(None)
                rows, hashes = np.append(rows, part[low]), np.append(hashes, new[low])
                order = np.argsort(hashes)[:count]
                rows, hashes = rows[order], hashes[order]
        return rows


class _Search:
    """One pass over the rows: per class the best rows so far, and the last (distance, hash) that can enter them.

    As soon as every class has a limit, most blocks are done with in one comparison per logit, see
    `Boundaries.allowances`. Where too many pairs pass it, as in the first blocks or because distances tie, all
    distances of these rows are computed.
    """

    def __init__(
        self,
        boundaries: Boundaries,
        ties: Ties,
        classes: Positions,
        depth: int,
        out: Rows,
        counters: dict[str, int],
    ) -> None:
        self._boundaries, self._ties, self._classes, self._depth = boundaries, ties, classes, depth
        self._out, self._counters = out, counters
        self._found, self._new, self._pending = NONE, list[Nearest](), 0  # pending: pairs that are in `new`
        self._limit = np.full(len(classes), np.inf)
        self._last = np.full(len(classes), np.iinfo(np.uint64).max)  # hashes of the rows at the limits
        self._limited = False  # all limits are finite
        every = boundaries.classes
        self._index = np.full(every, -1)  # of the classes asked for
        self._index[classes] = np.arange(len(classes))
        self._allowances = np.empty((every, every), np.float32)
        self._stale = np.ones(every, bool)  # lines of it that are older than the limits
        self._room = np.empty((0, every), np.float32)

    def leave_out(self, rows: Rows) -> None:
        """Pass over these rows from now on."""
        self._out = np.sort(np.append(self._out, rows))

    def add(self, block: Block) -> None:
        """Consider the rows of a block."""
        y, pairs = np.empty(len(block), np.intp), list[tuple[Positions, Positions]]()
        step = self._boundaries.cached_rows(len(block))
        for start in range(0, len(block), step):
            part = slice(start, min(start + step, len(block)))
            at, classes = self._near(block.take(part), y[part])
            pairs.append((at + start, classes))
        if pairs:
            self._pairs(block, y, *(np.concatenate(column) for column in zip(*pairs, strict=True)))
        if 2 * self._pending > len(self._classes) * self._depth:
            self._compact()

    def _near(self, block: Block, y: Positions) -> tuple[Positions, Positions]:
        """The pairs that can be near enough. Where they are too many, they are decided here, and none is returned.

        y (m,) is filled with the predicted classes.
        """
        approximate = self._boundaries.logits.approximate(block)
        y[:] = self._boundaries.predicted(block, approximate)
        none = np.empty(0, np.intp)
        if not self._limited:
            self._whole_rows(block, y)
            return none, none
        near = self._boundaries.within(approximate, y, self._allowed(y))
        if np.count_nonzero(near) * DENSE > near.size:
            at = np.flatnonzero(near.any(axis=1))
            self._whole_rows(block.take(at), y[at])
            return none, none
        return nonzero(near)

    def result(self) -> Nearest:
        """The best rows of each class, sorted."""
        self._compact()
        return self._found

    def _allowed(self, y: Positions) -> Singles:
        """The allowances of rows with these predicted classes, (m, c), in memory that the next call uses again."""
        stale = np.unique(y[self._stale[y]])
        if len(stale):
            limits = np.full(len(self._index), -np.inf)
            limits[self._classes] = self._limit
            self._allowances[stale] = self._boundaries.allowances(stale, limits)
            self._stale[stale] = False
        if len(y) > len(self._room):
            self._room = np.empty((len(y), len(self._index)), np.float32)
        return np.take(self._allowances, y, axis=0, out=self._room[: len(y)], mode="clip")

    def _pairs(self, block: Block, y: Positions, at: Positions, classes: Positions) -> None:
        """Decide pairs one by one: all those of a block that are near enough for the class or the predicted class.

        If a row is as near to its nearest boundary as the limit of its predicted class, that boundary is among them.
        """
        free = ~among(block.rows[at], self._out)
        at, classes = at[free], classes[free]
        first = np.flatnonzero(np.diff(at, prepend=-1))  # the first pair of each row
        self._counters["ruled_out"] += len(block) - len(first)
        if not len(at):
            return
        self._counters["pairs"] += len(at)
        distance = self._boundaries.pairs(block, y, at, classes)
        own = at[first]
        which, rows = self._index[np.append(classes, y[own])], block.rows[np.append(at, own)]
        distance = np.append(distance, np.minimum.reduceat(distance, first))
        limit = self._limit[which]
        keep = (which >= 0) & (distance <= limit)
        level = np.flatnonzero(keep & (distance == limit))
        keep[level] = self._ties.hashes(rows[level]) <= self._last[which[level]]
        self._keep(Nearest(which[keep], rows[keep], distance[keep]))

    def _whole_rows(self, block: Block, y: Positions) -> None:
        """Decide all pairs of a block."""
        free = np.flatnonzero(~among(block.rows, self._out))
        block, y = block.take(free), y[free]
        self._counters["whole_rows"] += len(block)
        table = self._boundaries.table(block, y)
        if not np.array_equal(self._classes, np.arange(table.shape[1])):
            table = table[:, self._classes]
        enters, hashes = table < self._limit, self._ties.hashes(block.rows)
        level = np.flatnonzero(hashes <= self._last.max())
        enters[level] |= (table[level] == self._limit) & (hashes[level, None] <= self._last)
        at, which = nonzero(enters)
        self._keep(Nearest(which, block.rows[at], table[at, which]))

    def _keep(self, found: Nearest) -> None:
        self._new.append(found)
        self._pending += len(found.rows)

    def _compact(self) -> None:
        self._found = join([self._found, *self._new]).cut(self._depth, self._ties)
        self._new, self._pending = [], 0
        self._limit, self._last = self._found.last(len(self._classes), self._depth, self._ties)
        self._limited = bool(np.isfinite(self._limit).all())
        self._stale[:] = True
