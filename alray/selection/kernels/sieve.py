"""The sieve: which rows of a shard are still far from all centers, the shard's side of the exact k-center.

Distances to the nearest center only shrink as picks are added, so that every known distance stays an upper bound. A row
is compared with one block of centers after the other, and no longer once its bound falls below a threshold: only rows
that may still be picked are compared with all centers. Of several copies of a row only the lowest is sent: as long as
it is not picked it comes before them, and afterwards their distance is 0. Letters: n rows of the shard, m centers
(labeled rows in a fixed random order, then the picks), d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Array, Block, Integers, Rows, Shard, positions_of
from alray.keyed import uniform
from alray.selection.kernels.bounds import UNKNOWN, Bounds, Near, block_in, in_block, under
from alray.selection.kernels.centers import Centers, shuffled
from alray.selection.kernels.compared import Compared, copies_of
from alray.selection.kernels.cover import arrange
from alray.selection.kernels.distance import FEW, Space, lengths, nearest
from alray.selection.kernels.far import Far
from alray.selection.kernels.logits import Floats, Positions, check_finite
from alray.selection.kernels.matrices import best_device, restarting
from alray.selection.kernels.one_center import Answer, Central, Landmarks
from alray.selection.kernels.rounding import TOLD, Rounding, useful
from alray.selection.kernels.shard_rows import CHUNK, TOGETHER, ShardRows
from alray.selection.protocol import Key, beats

Counts = npt.NDArray[np.int64]

_STREAM = 1024  # centers compared while streaming over all rows; the few rows left are gathered for the other centers


class Sieve:
    """The state of one shard. It holds only cached bounds: a rebuilt shard gives the same answers."""

    def __init__(self, shard: Shard, labeled: Shard) -> None:
        self.counters = {"pairs": 0, "rescored": 0, "survivors": 0, "finer": 0, "coarse": 0}
        self._shard, self._labeled = shard, labeled
        self._device = best_device()
        self._rows = ShardRows(shard, EMBEDDING, self._device)
        self._resident: Any = None
        self._space: Space | None = None
        self._central: Central | None = None
        self._forget()

    def leave_device(self) -> None:
        """Begin anew without the GPU."""
        self._device = self._resident = None
        self._rows = ShardRows(self._shard, EMBEDDING, None)
        self._forget()

    def _forget(self) -> None:
        self._rounding, self._wide = Rounding(self._device), False  # whether any row was compared with wide blocks
        self._bounds = Bounds(len(self._rows))
        self._centers, self._picks = Centers(), np.empty(0, np.int64)

    def count(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def first(self, rule: str, seed: int, round: int) -> tuple[Key, Array] | None:
        """The first pick where nothing is labeled, among this shard's rows: ((value, row), stored vector)."""
        best: Key | None = None
        for rows in self._rows.blocks(self._rows.chunk):
            drawn = rule == "random"
            value = uniform(seed, f"k_center/first/{round}", rows) if drawn else lengths(self._rows.read(rows))
            if not np.isfinite(value).all():
                check_finite(rows, self._rows.read(rows))
            key = float(value.max()), int(rows[int(value.argmax())])
            best = key if best is None or beats(key, best) else best
        return None if best is None else (best, self._rows.read(np.array([best[1]])))

    def central(self, space: Space, landmarks: Landmarks) -> Answer:
        """This shard's answer in the search for the 1-center, see `alray.selection.kernels.one_center`."""
        if self._central is None:
            self._central = Central(self._shard, EMBEDDING)
        return self._central.answer(space, landmarks)

    def sample(self, size: int) -> Block:
        """The rows in the sample, as stored. Each row is in it with probability size / 2^64, for any cut."""
        at = self._rows.sampled(size)
        rows, stored = self._rows.numbers(at), self._rows.take(at)
        check_finite(rows, stored)
        return Block(rows, {EMBEDDING: stored})

    def everything(self) -> Block:
        """All rows, as stored."""
        rows = self._rows.numbers(np.arange(len(self._rows)))
        stored = self._rows.read(rows)
        check_finite(rows, stored)
        self.counters["survivors"] += len(rows)
        return Block(rows, {EMBEDDING: stored})

    @restarting
    def estimate(self, space: Space, picks: Block, size: int) -> tuple[Rows, Floats]:
        """The sampled rows, and about their squared distances to all centers. Only guesses use them, no pick."""
        self._begin(space, picks)
        at = np.setdiff1d(self._rows.sampled(size), self._rows.places(picks.rows))
        self._rounding.expect(space, len(at), len(self._centers))
        self._compare(at, -np.inf)
        upper, lower = self._bounds.upper[at].astype(np.float64), self._bounds.below(at)
        squared = (upper if not self._rounding.on else (np.maximum(lower, 0.0) + upper) / 2) * space.unit
        return self._rows.numbers(at), squared

    @restarting
    def far(self, space: Space, picks: Block, held: Rows, threshold: float, most: int) -> Far:
        """The rows with a squared distance of `threshold` or more, without those that the driver holds already; at most
        the `most` farthest of them."""
        self._begin(space, picks)
        free = np.ones(len(self._rows), bool)
        free[self._rows.places(held)] = False
        least = threshold / space.unit
        if self._rounding.on:  # rows of the sample were compared with all centers
            met = positions_of(free & (self._bounds.blocks == self._centers.count))
            self._rounding.on = useful(self._bounds.below(met), self._bounds.upper[met], least)
        self.counters["pairs"] += arrange(space, self._centers, self._bounds, self._rows.take, least)
        self._compare(positions_of(free & (self._bounds.upper > under(least))), least)
        alive = positions_of(free & (self._bounds.upper > under(least)))
        squared = self._settle(alive)
        self.counters["survivors"] += len(alive)
        free[alive] = False
        there = np.flatnonzero(squared >= threshold)
        lowest = copies_of(alive[there].astype(np.intp), squared[there], self._rows.take)
        alone = np.flatnonzero(lowest == np.arange(len(there)))
        first = alone  # or the farthest of them, to be read in row order
        if len(alone) > most:
            first = alone[np.sort(np.argsort(-squared[there[alone]], kind="stable")[:most])]
        sent = np.zeros(len(there), bool)
        sent[first] = True
        copies = sent[lowest] & ~sent
        left = np.ones(len(alive), bool)
        left[there[sent | copies]] = False
        rest, far = self._first_of(alive[left], squared[left]), self._farthest(free)
        rest = rest if beats(rest, far) else far
        if copies.any() and rest[0] <= 0:  # once what they are copies of is picked, their distances are 0
            row = self._rows.number(alive[there[copies]][0])
            rest = 0.0, row if rest[0] < 0 else min(row, rest[1])
        first = there[first]
        return Far(self._rows.numbers(alive[first]), self._rows.take(alive[first]), squared[first], rest)

    def weigh(self, space: Space, centers: Array) -> Counts:
        """How many rows of the shard are nearest to each of the stored centers (p, d), (p,)."""
        counts = np.zeros(len(centers), np.int64)
        size = max(64, CHUNK // max(1, len(centers)))
        for rows in self._rows.blocks(size):
            counts += np.bincount(nearest(space, self._rows.read(rows), centers), minlength=len(centers))
        return counts

    def _farthest(self, free: Any) -> Key:
        """The key of the farthest row, by their bounds, of those that are free (n,)."""
        assert self._space is not None
        best: Key = (-np.inf, 0)
        for start in range(0, len(free), TOGETHER):
            part = slice(start, start + TOGETHER)
            upper = np.where(free[part], self._bounds.upper[part], np.float32(-np.inf))
            first = int(upper.argmax())  # rows ascend: the first is the lowest
            if upper[first] > best[0]:
                best = float(upper[first]), start + first
        return best if best[0] == -np.inf else (best[0] * self._space.unit, self._rows.number(best[1]))

    def _first_of(self, at: Integers, squared: Floats) -> Key:
        """The key of the farthest row of these, by their squared distances."""
        if not len(at):
            return -np.inf, 0
        first = int(squared.argmax())
        return float(squared[first]), self._rows.number(at[first])

    def _begin(self, space: Space, picks: Block) -> None:
        if not np.array_equal(self._picks, picks.rows[: len(self._picks)]):  # another selection began
            self._forget()
        if self._space is None or not len(self._centers):
            self._space = space
            self._rounding.on &= not space.step  # then float32 products are exact
            self._centers = Centers(space, self._device)
            for block in shuffled(self._labeled):
                self._centers.add(block)
        if len(picks) > len(self._picks):
            self._centers.add(picks[EMBEDDING][len(self._picks) :])
            self._picks = picks.rows
        self._bounds.make_room(len(self._centers), self._centers.count)

    def _compare(self, at: Integers, least: float) -> None:
        """Compare the rows with further centers, until their bound is below `least`."""
        above, bounds = max(under(least), np.float32(0)), self._bounds  # at distance 0 nothing can be nearer
        at = at[bounds.upper[at] > above]
        fresh = at[bounds.blocks[at] == 0]
        if 2 * len(fresh) > len(self._rows):  # stream over the files once
            if least > -np.inf:
                self._rounding.look_first()
            self._run_all(fresh, least, _STREAM)
            at = at[bounds.upper[at] > above]
        del fresh
        for blocks in np.flatnonzero(np.bincount(bounds.blocks[at])):
            self._run_all(at[bounds.blocks[at] == blocks], least, len(self._centers))

    def _run_all(self, at: Integers, least: float, stop: int) -> None:
        """`_run` part by part; the first parts tell how many pairs there will be."""
        assert self._space is not None
        done, before = 0, self.counters["pairs"]
        first = TOLD if self._rounding.undecided else 0
        for part in self._rows.chunks(at, lambda: self._rounding.on, first):
            self._run(part, least, stop)
            done += len(part)
            self._rounding.expect(self._space, len(at) - done, (self.counters["pairs"] - before) / done)

    def _run(self, at: Positions, least: float, stop: int) -> None:
        """Compare rows with the next centers. All of them have been compared with the same centers so far."""
        before = int(self._bounds.blocks[at[0]])
        blocks = [block for block in self._centers.blocks(before, self._rounding.on) if block[0] < stop]
        self._wide |= self._rounding.on
        if not blocks:
            return
        rows, near, above = self._compared(at), self._bounds.load(at), under(least)
        odd = at[rows.odd]
        check_finite(self._rows.numbers(odd), self._rows.take(odd))
        for start, end in blocks:
            self._meet(near, rows, start, end, least)
            alive = near.upper > above
            if np.count_nonzero(alive) < rows.share * len(at):
                keep, gone = np.flatnonzero(alive), np.flatnonzero(~alive)
                self._bounds.store(at[gone], near[gone], self._centers.before(end))
                at, near = at[keep], near[keep]
                if not len(at):
                    return
                rows.keep(keep)
        if least > -np.inf and end == len(self._centers) and not rows.coarse:
            self._locate(near, rows)
        self._bounds.store(at, near, self._centers.before(end))

    def _locate(self, near: Near, rows: Compared) -> None:
        """Look for the nearest center of the rows that are left in the block that it is in."""
        block = np.where(near.lower < near.upper, block_in(near.nearest), -1)
        for number in np.unique(block[block >= 0]):
            some, (start, end) = np.flatnonzero(block == number), self._centers.together(number, self._wide)
            center, others = rows.two_nearest(some, start, end)
            self.counters["pairs"] += len(some) * (end - start)
            alone = others >= near.upper[some]
            some = some[alone]
            near.nearest[some] = start + center[alone]
            near.other[some] = np.minimum(near.other[some], others[alone])

    def _compared(self, at: Positions) -> Compared:
        assert self._space is not None
        if self._device is None or not self._space.sees_on_device(self._rows.dtype):
            return self._of_stored(self._rows.take(at))
        from alray.selection.kernels.resident import Resident, uploaded  # imports torch

        self._resident = self._resident or Resident(self._shard, EMBEDDING, self._device)
        x = self._resident.take(at)
        if x is None:  # the shard is too large to stay there
            x = uploaded(self._rows.take(at), self._device)
        return Compared(self._space, self._centers, lambda: self._rows.take(at), self._space.view_on_device(x))

    def _of_stored(self, stored: Array) -> Compared:
        assert self._space is not None
        return Compared(self._space, self._centers, lambda: stored, coarse=self._rounding.on)

    def _meet(self, near: Near, rows: Compared, start: int, end: int, least: float) -> None:
        """Compare rows with the centers start:end."""
        before = near.upper
        found, pairs = rows.nearest(start, end, least), len(before) * (end - start)
        self.counters["pairs"] += pairs
        self.counters["coarse"] += pairs * rows.coarse
        while not rows.double and found.vague(before, least):
            self._rounding.on &= not rows.coarse  # bfloat16 tells too little about these rows, and will about others
            rows.refine()
            found = rows.nearest(start, end, least)
            self.counters["finer"] += pairs
        lower, upper, nearer = found.lower, found.upper, found.upper < before
        other = np.minimum(near.other, np.where(nearer, near.lower, lower))
        center = np.where(nearer, in_block(self._centers.before(start)), near.nearest)
        unknown = nearer & (center == UNKNOWN)
        other[unknown] = np.minimum(other, lower)[unknown]
        near.lower = np.where(nearer, lower, near.lower)
        near.upper = np.maximum(np.minimum(before, upper), 0.0)
        near.other, near.nearest = other, center

    def _settle(self, at: Integers) -> Floats:
        """Canonical squared distances of rows that were compared with all centers; they replace the bounds."""
        assert self._space is not None
        (done, sure), centers = self._bounds.known(at), self._centers
        squared = self._bounds.upper[at].astype(np.float64) * self._space.unit
        left = np.flatnonzero(~done)
        for here in self._rows.chunks(left):
            part = at[here].astype(np.intp)
            stored = self._rows.take(part)
            known, rest = np.flatnonzero(sure[here]), np.flatnonzero(~sure[here])
            found, center = np.full(len(part), np.inf), np.empty(len(part), np.intp)
            for some in self._bounds.group(part[known], len(centers)):
                self.counters["rescored"] += len(known)
                value = self._space.pairs(stored, centers.stored, known, some)
                center[known] = np.where(value < found[known], some, center[known])
                found[known] = np.minimum(found[known], value)
            block = self._bounds.block(part[rest])
            for first in np.unique(block):
                some = rest[block == first]
                blocks = centers.blocks(0, self._rounding.on) if first < 0 else [centers.together(first, self._wide)]
                upper = self._bounds.upper[part[some]].astype(np.float64)
                found[some], center[some] = self._decide(stored[some], upper, blocks)
            squared[here] = found
            self._bounds.settle(part, found / self._space.unit, center, centers.count)
        return squared

    def _decide(self, stored: Array, upper: Floats, blocks: Sequence[tuple[int, int]]) -> tuple[Floats, Positions]:
        """The canonical distance to the nearest center, and its number, where the filter cannot tell which one of these
        blocks that is."""
        assert self._space is not None
        rows = self._of_stored(stored)
        squared, nearest_one = np.full(len(stored), np.inf), np.full(len(stored), UNKNOWN)
        for start, end in blocks:
            most, pairs = np.minimum(upper, squared / self._space.unit), len(stored) * (end - start)
            at, center = rows.candidates(most, start, end)
            self.counters["pairs"] += pairs
            self.counters["coarse"] += pairs * rows.coarse
            while len(at) > FEW * len(stored) and rows.refine():
                at, center = rows.candidates(most, start, end)
                self.counters["pairs"] += pairs
                self.counters["finer"] += pairs
            self.counters["rescored"] += len(at)
            value = self._space.pairs(stored, self._centers.stored, at, start + center)
            np.minimum.at(squared, at, value)
            best = value == squared[at]
            nearest_one[at[best]] = start + center[best]
        return squared, nearest_one
