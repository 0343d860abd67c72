"""A shard's rows nearest to the boundary of every class, in one pass over the rows: BASE asks its shards for them.

Letters: n rows of the shard, m rows of a block, k classes asked for, p (class, row) pairs. Holds O(k * depth) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alray.features.arrays import LOGITS, Block, Rows, Shard
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.logits import DENSE, Floats, Positions, Singles, nonzero
from alray.selection.kernels.ranks import among
from alray.selection.protocol import Ties

if TYPE_CHECKING:
    import torch

    from alray.selection.kernels.near_on_device import NearOnDevice

SAMPLE = 32  # one row of so many tells where limits are
_HIGHEST = np.iinfo(np.uint64).max
Mask = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


Limits = tuple[Floats, Hashes]  # of each class (k,): pairs with a larger (distance, hash) are not wanted


@dataclass(frozen=True)
class Nearest:
    """(class, row) pairs, sorted by (which, distance, hash of the row).

    which (p,) index into the classes asked for; rows (p,) int64; distances (p,) float64.
    """

    which: Positions
    rows: Rows
    distances: Floats

    def __getitem__(self, at: Positions | Mask) -> Nearest:
        return Nearest(self.which[at], self.rows[at], self.distances[at])

    def cut(self, depth: Positions, ties: Ties) -> Nearest:
        """Sorted, and no more rows per class than `depth` (k,)."""
        which = self.which.astype(np.min_scalar_type(int(self.which.max(initial=0))))  # 16 bits are sorted fast
        order = ties.order(self.rows, self.distances, which)
        counts = np.bincount(self.which)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self[order[rank < np.repeat(depth[: len(counts)], counts)]]

    def last(self, limits: Limits, depth: Positions, ties: Ties) -> Limits:
        """The distance and the hash of each class's row at place `depth` (k,); what was given where there are fewer
        rows.

        Of sorted pairs, at most `depth` per class.
        """
        distance, hashes = limits[0].copy(), limits[1].copy()
        ends = np.searchsorted(self.which, np.arange(len(distance)), side="right")
        full = np.bincount(self.which, minlength=len(distance)) == depth
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


@dataclass(frozen=True)
class Answer:
    """The nearest rows of one shard, complete up to the limits of their classes."""

    nearest: Nearest
    limits: Limits


def merged(answers: list[Answer], depth: Positions, ties: Ties) -> Nearest:
    """The nearest rows of all shards, at most `depth` (k,) per class: as far as all shards have looked."""
    if len(answers) == 1:
        return answers[0].nearest
    distances = np.min([answer.limits[0] for answer in answers], axis=0)
    ends = [np.where(answer.limits[0] == distances, answer.limits[1], _HIGHEST) for answer in answers]
    hashes: Hashes = np.min(ends, axis=0)
    found = join([answer.nearest for answer in answers])
    return found[_inside(found, (distances, hashes), ties)].cut(depth, ties)


def _inside(pairs: Nearest, limits: Limits, ties: Ties) -> Mask:
    """The pairs that are not beyond the limit of their class."""
    limit = limits[0][pairs.which]
    inside: Mask = pairs.distances <= limit
    level = np.flatnonzero(inside & (pairs.distances == limit))
    inside[level] = ties.hashes(pairs.rows[level]) <= limits[1][pairs.which[level]]
    return inside


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

    def some(self, share: float) -> Block:
        """This share of the rows, at least one of them, spread evenly over the shard."""
        rows = self._shard.rows()
        many = int(np.ceil(share * len(rows)))
        return self._shard.take(rows[np.linspace(0, len(rows), many, endpoint=False, dtype=np.intp)])

    def looked_at(self, block: Block, classes: Positions, depth: Positions, taken: Rows) -> Limits | None:
        """Where the row at place `depth` (k,) of each class (k,) is among the rows of a block; None from a shard that
        does not hold the first of them, so that one shard alone does the work."""
        try:
            self._shard.take(block.rows[:1])
        except KeyError:
            return None
        search = self._search(classes, depth, taken, unlimited(len(classes)))
        search.add(block)
        return search.answer().limits

    def sampled(self, classes: Positions, depth: Positions, taken: Rows, of: int, limits: Limits) -> Answer:
        """`nearest` in a sample of the rows. depth: of the samples of all shards together."""
        search = self._search(classes, self._share(depth, of), taken, limits)
        chosen = self._shard.rows()[SAMPLE // 2 :: SAMPLE]
        for start in range(0, len(chosen), self._size):
            search.add(self._shard.take(chosen[start : start + self._size]))
        return search.answer()

    def nearest(self, classes: Positions, depth: Positions, taken: Rows, of: int, limits: Limits) -> Answer:
        """For each of the classes (k,), rows with the smallest (distance, hash) that are not in `taken`, ascending.

        of: how many rows all shards have together, of whose rows about `depth` (k,) are wanted; 0: `depth` rows of this
        shard, if it has so many. limits: pairs beyond them are not looked for.
        """
        search = self._search(classes, self._share(depth, of) if of else depth, taken, limits)
        for block in self._shard.blocks(self._size):
            search.add(block)
        return search.answer()

    def _share(self, depth: Positions, of: int) -> Positions:
        """How many of `depth` rows of all shards are here, at most."""
        return np.minimum(depth, likely(depth * len(self._shard) / of))

    def _search(self, classes: Positions, depth: Positions, taken: Rows, limits: Limits) -> _Search:
        return _Search(self._boundaries, self._ties, classes, depth, taken, limits, self.counters)


def likely(expected: Floats) -> Positions:
    """Counts that rows which fall by chance will hardly exceed where so many are expected: by three standard deviations
    of a Poisson distribution, and three."""
    counts: Positions = np.ceil(expected + 3 * np.sqrt(expected) + 3).astype(np.intp)
    return counts


def unlimited(classes: int) -> Limits:
    """Limits that rule no pair out."""
    return np.full(classes, np.inf), np.full(classes, _HIGHEST)


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
        depth: Positions,
        taken: Rows,
        limits: Limits,
        counters: dict[str, int],
    ) -> None:
        self._boundaries, self._ties, self._classes, self._depth = boundaries, ties, classes, depth
        self._taken, self._limits, self._counters = taken, limits, counters
        self._limited = bool(np.isfinite(limits[0]).all())
        self._found, self._new, self._pending = NONE, list[Nearest](), 0  # pending: pairs that are in `new`
        every = boundaries.classes
        self._index = np.full(every, -1)  # of the classes asked for
        self._index[classes] = np.arange(len(classes))
        self._allowances = np.empty((every, every), np.float32)
        self._stale = np.ones(every, bool)  # lines of it that are older than the limits
        self._room = np.empty((0, every), np.float32)
        self._on_device: NearOnDevice | None = None

    def add(self, block: Block) -> None:
        """Consider the rows of a block."""
        place = self._boundaries.logits.place
        there = partial(self._near_on_device, block)
        found = place.attempt(there, self._forget) if self._limited else None
        if found is not None:
            self._counters["ruled_out"] += len(block) - int(np.count_nonzero(np.diff(found[1], prepend=-1)))
            self._pairs(block, *found)
            return
        y, pairs = np.empty(len(block), np.intp), list[tuple[Positions, Positions]]()
        step = self._boundaries.cached_rows(len(block))
        for start in range(0, len(block), step):
            part = slice(start, min(start + step, len(block)))
            at, classes = self._near(block.take(part), y[part])
            pairs.append((at + start, classes))
        if pairs:
            self._pairs(block, y, *(np.concatenate(column) for column in zip(*pairs, strict=True)))

    def _near_on_device(self, block: Block, device: torch.device) -> tuple[Positions, Positions, Positions] | None:
        from alray.selection.kernels.near_on_device import NearOnDevice  # imports torch

        self._on_device = self._on_device or NearOnDevice(self._boundaries, device)
        return self._on_device.pairs(block[LOGITS], self._limits_of_all())

    def _forget(self) -> None:
        self._on_device = None

    def _limits_of_all(self) -> Floats:
        """The largest distances that can enter, of all classes, (c,): -infinity for those that are not asked for."""
        limits = np.full(len(self._index), -np.inf)
        limits[self._classes] = self._limits[0]
        return limits

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
            self._counters["ruled_out"] += len(block) - len(at)
            self._whole_rows(block.take(at), y[at])
            return none, none
        at, classes = nonzero(near)
        self._counters["ruled_out"] += len(block) - int(np.count_nonzero(np.diff(at, prepend=-1)))
        return at, classes

    def answer(self) -> Answer:
        """The best rows of each class, sorted."""
        self._compact()
        return Answer(self._found, self._limits)

    def _allowed(self, y: Positions) -> Singles:
        """The allowances of rows with these predicted classes, (m, c), in memory that the next call uses again."""
        stale = np.unique(y[self._stale[y]])
        if len(stale):
            self._allowances[stale] = self._boundaries.allowances(stale, self._limits_of_all())
            self._stale[stale] = False
        if len(y) > len(self._room):
            self._room = np.empty((len(y), len(self._index)), np.float32)
        return np.take(self._allowances, y, axis=0, out=self._room[: len(y)], mode="clip")

    def _pairs(self, block: Block, y: Positions, at: Positions, classes: Positions) -> None:
        """Decide pairs one by one: all those of a block that are near enough for the class or the predicted class.

        If a row is as near to its nearest boundary as the limit of its predicted class, that boundary is among them.
        """
        free = ~among(block.rows[at], self._taken)
        at, classes = at[free], classes[free]
        first = np.flatnonzero(np.diff(at, prepend=-1))  # the first pair of each row
        if not len(at):
            return
        self._counters["pairs"] += len(at)
        distance = self._boundaries.pairs(block, y, at, classes)
        own = at[first]
        which, rows = self._index[np.append(classes, y[own])], block.rows[np.append(at, own)]
        distance = np.append(distance, np.minimum.reduceat(distance, first))
        asked = np.flatnonzero(which >= 0)
        found = Nearest(which, rows, distance)[asked]
        self._keep(found[_inside(found, self._limits, self._ties)])

    def _whole_rows(self, block: Block, y: Positions) -> None:
        """Decide all pairs of a block."""
        free = np.flatnonzero(~among(block.rows, self._taken))
        block, y = block.take(free), y[free]
        self._counters["whole_rows"] += len(block)
        table = self._boundaries.table(block, y)
        if not np.array_equal(self._classes, np.arange(table.shape[1])):
            table = table[:, self._classes]
        limit, last = self._limits
        enters, hashes = table < limit, self._ties.hashes(block.rows)
        level = np.flatnonzero(hashes <= last.max())
        enters[level] |= (table[level] == limit) & (hashes[level, None] <= last)
        at, which = nonzero(enters)
        self._keep(Nearest(which, block.rows[at], table[at, which]))

    def _keep(self, found: Nearest) -> None:
        self._new.append(found)
        self._pending += len(found.rows)
        if self._pending > self._depth.sum():
            self._compact()

    def _compact(self) -> None:
        self._found = join([self._found, *self._new]).cut(self._depth, self._ties)
        self._new, self._pending = [], 0
        self._limits = self._found.last(self._limits, self._depth, self._ties)
        self._limited = bool(np.isfinite(self._limits[0]).all())
        self._stale[:] = True
