"""The sieve: which rows of a shard are still far from all centers, the shard's side of the exact k-center.

Distances to the nearest center only shrink as picks are added, so that every known distance stays an upper bound. A row
is compared with one block of centers after the other, and no longer once its bound falls below a threshold: only rows
that may still be picked are compared with all centers. Of several copies of a row only the lowest is sent: as long as
it is not picked it comes before them, and afterwards their distance is 0. Letters: n rows of the shard, m centers
(labeled rows in a fixed random order, then the picks), d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Array, Block, Rows, Shard
from alray.keyed import priorities, uniform
from alray.models.device import best_device
from alray.selection.kernels.centers import Centers, shuffled
from alray.selection.kernels.compared import COARSE, Compared, copies_of, two_nearest
from alray.selection.kernels.distance import FEW, Space, lengths, nearest
from alray.selection.kernels.logits import Floats, Positions, nonzero
from alray.selection.kernels.one_center import Answer, Central, Landmarks
from alray.selection.kernels.resident import Resident, uploaded
from alray.selection.kernels.thin import few_columns, measured
from alray.selection.protocol import Key

Counts = npt.NDArray[np.int64]

_STREAM = 1024  # centers compared while streaming over all rows; the few rows left are gathered for the other centers
_CHUNK = 1 << 21  # numbers per view of a chunk of rows: 8 MB
_ROWS = 1 << 14  # rows of a chunk: their products with a block of centers are 16 MB
_CHUNK_ON_GPU, _ROWS_ON_GPU = 1 << 26, 1 << 16  # the same where each step costs the launch of a kernel
_VIEWS_ON = ("cuda",)  # views of rows are made on these devices
_UNKNOWN, _EXACT = -1, -2  # instead of the nearest center: it may be any; the bounds are the canonical distance
_SAMPLE = "k_center/sample"


@dataclass(frozen=True, eq=False)
class Far:
    """What a shard sends: rows (s,), their stored vectors (s, d), their canonical squared distances (s,), and the key
    (upper bound of the squared distance, row) of the farthest row that it does not send."""

    rows: Rows
    vectors: Array
    squared: Floats
    rest: Key


class Sieve:
    """The state of one shard. It holds only cached bounds: a rebuilt shard gives the same answers."""

    def __init__(self, shard: Shard, labeled: Shard) -> None:
        self.rows = shard.rows()
        self.counters = {"pairs": 0, "rescored": 0, "survivors": 0, "finer": 0}
        self._shard, self._labeled = shard, labeled
        self._device = best_device()
        self._resident = Resident(shard, EMBEDDING, self._device)
        self._space: Space | None = None
        self._central: Central | None = None
        self._forget()

    def _forget(self) -> None:
        n = len(self.rows)
        self._upper = np.full(n, np.inf)  # bound of the squared distance to all centers seen, in units of the views
        self._lower = np.full(n, np.inf)  # the same from below, for the block of the nearest center
        self._other = np.full(n, np.inf)  # and for all other centers, where the nearest one is known
        self._nearest = np.full(n, _UNKNOWN, np.int32)
        self._seen = np.zeros(n, np.int32)  # number of centers that it was compared with
        self._centers, self._picks = Centers(), np.empty(0, np.int64)

    def count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def first(self, rule: str, seed: int, round: int) -> tuple[Key, Array] | None:
        """The first pick where nothing is labeled, among this shard's rows: ((value, row), stored vector)."""
        if not len(self.rows):
            return None
        if rule == "random":
            value = uniform(seed, f"k_center/first/{round}", self.rows)
        else:
            value = np.concatenate([lengths(self._take(part)) for part in self._chunks(np.arange(len(self.rows)))])
        at = np.flatnonzero(value == value.max())[:1]
        return (float(value[at[0]]), int(self.rows[at[0]])), self._take(at)

    def central(self, space: Space, landmarks: Landmarks) -> Answer:
        """This shard's answer in the search for the 1-center, see `alray.selection.kernels.one_center`."""
        if self._central is None:
            self._central = Central(self._shard, EMBEDDING)
        return self._central.answer(space, landmarks)

    def sample(self, size: int) -> Array:
        """Stored vectors of the rows in the sample. Each row is in it with probability size / 2^64, for any cut."""
        return self._take(self._sampled(size)) if len(self.rows) else np.empty((0, 0), np.float32)

    def estimate(self, space: Space, picks: Block, size: int) -> Floats:
        """Upper bounds of the squared distances of the sampled rows to all centers. Only a guess uses them, no pick."""
        self._begin(space, picks)
        at = self._sampled(size)
        at = at[~self._among(picks.rows)[at]]
        self._compare(at, -np.inf)
        return self._upper[at] * space.unit

    def far(self, space: Space, picks: Block, held: Rows, threshold: float, most: int) -> Far:
        """The rows with a squared distance of `threshold` or more, without those that the driver holds already; at most
        the `most` farthest of them."""
        self._begin(space, picks)
        free = ~self._among(held)
        least = threshold / space.unit
        if threshold <= 0 and (len(self._centers) == 1 or few_columns(self._width)):
            self._measure(np.flatnonzero(free))
        else:
            self._compare(np.flatnonzero(free & (self._upper >= least)), least)
        alive = np.flatnonzero(free & (self._upper >= least))
        self.counters["survivors"] += len(alive)
        squared = self._settle(alive)
        there = squared >= threshold
        alive, squared = alive[there], squared[there]
        lowest = copies_of(alive, squared, self._take)
        alone = np.flatnonzero(lowest == np.arange(len(alive)))
        first = alone
        if len(alone) > most:
            first = alone[np.sort(np.lexsort((self.rows[alive[alone]], -squared[alone]))[:most])]  # read in row order
        sent = np.zeros(len(alive), bool)
        sent[first] = True
        copies = alive[sent[lowest] & ~sent]
        free[alive[first]] = free[copies] = False
        rest = self._farthest(free, space.unit)
        if len(copies) and rest[0] <= 0:  # once what they are copies of is picked, their distances are 0
            row = int(self.rows[copies].min())
            rest = 0.0, row if rest[0] < 0 else min(row, rest[1])
        return Far(self.rows[alive[first]], self._take(alive[first]), squared[first], rest)

    def weigh(self, space: Space, centers: Array) -> Counts:
        """How many rows of the shard are nearest to each of the stored centers (p, d), (p,)."""
        counts = np.zeros(len(centers), np.int64)
        size = max(64, _CHUNK // max(1, len(centers)))
        for start in range(0, len(self.rows), size):
            part = np.arange(start, min(start + size, len(self.rows)))
            counts += np.bincount(nearest(space, self._take(part), centers), minlength=len(centers))
        return counts

    def _farthest(self, free: Any, unit: float) -> Key:
        if not free.any():
            return -np.inf, 0
        upper = np.where(free, self._upper, -np.inf)
        top = float(upper.max())
        return top * unit, int(self.rows[int(np.argmax(upper == top))])  # rows ascend: the first is the lowest

    def _among(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows of the shard are among these, (n,)."""
        found = np.zeros(len(self.rows), bool)
        at = np.searchsorted(self.rows, rows)
        there = at < len(self.rows)
        at = at[there]
        found[at[self.rows[at] == rows[there]]] = True
        return found

    def _sampled(self, size: int) -> Positions:
        if size >= 2**64:
            return np.arange(len(self.rows))
        return np.flatnonzero(priorities(0, _SAMPLE, self.rows) < np.uint64(size))

    def _begin(self, space: Space, picks: Block) -> None:
        if not np.array_equal(self._picks, picks.rows[: len(self._picks)]):
            self._forget()  # these picks do not continue the ones before: another selection began
        if self._space is None or not len(self._centers):
            self._space = space
            self._centers = Centers(space, self._device)
            for block in shuffled(self._labeled):
                self._centers.add(block)
        if len(picks) > len(self._picks):
            self._centers.add(picks[EMBEDDING][len(self._picks) :])
            self._picks = picks.rows

    def _compare(self, at: Positions, least: float) -> None:
        """Compare the rows with further centers, until their bound is below `least`."""
        at = at[(self._upper[at] > 0) | (self._nearest[at] != _EXACT)]  # nothing is nearer than a copy
        fresh = at[self._seen[at] == 0]
        if 2 * len(fresh) > len(self.rows):  # stream over the files once
            for part in self._chunks(fresh):
                self._run(part, least, _STREAM)
        at = at[self._upper[at] >= least]
        for seen in np.flatnonzero(np.bincount(self._seen[at])):
            for part in self._chunks(at[self._seen[at] == seen]):
                self._run(part, least, len(self._centers))

    def _measure(self, at: Positions) -> None:
        """The canonical distances of rows to all centers, where they take no longer than their bounds."""
        assert self._space is not None
        for part in self._chunks(at[self._seen[at] < len(self._centers)]):
            squared, pairs = measured(self._space, self._take(part), self._centers.stored)
            self.counters["pairs"] += pairs
            self._upper[part] = self._lower[part] = squared / self._space.unit
            self._other[part], self._nearest[part], self._seen[part] = np.inf, _EXACT, len(self._centers)

    def _chunks(self, at: Positions) -> list[Positions]:
        return [at[start : start + self._chunk] for start in range(0, len(at), self._chunk)]

    def _run(self, at: Positions, least: float, stop: int) -> None:
        """Compare rows with the next centers. All of them have been compared with the same centers so far."""
        if not len(at):
            return
        rows: Compared | None = None
        for start, end in self._centers.blocks(int(self._seen[at[0]])):
            if start >= stop or not len(at):
                return
            if rows is None:
                rows = self._compared(at)
            self._meet(at, rows, start, end, least)
            alive = self._upper[at] >= least
            if not alive.all():
                keep = np.flatnonzero(alive)
                at = at[keep]
                rows.keep(keep)

    def _compared(self, at: Positions) -> Compared:
        assert self._space is not None
        if self._device.type not in _VIEWS_ON or not self._space.sees_on_device(self._stored_type):
            return self._of_stored(self._take(at))
        x = self._resident.take(at)
        if x is None:  # the shard is too large to stay there
            x = uploaded(self._take(at), self._device)
        return Compared(self._space, self._centers, self._space.view_on_device(x), lambda: self._take(at))

    def _of_stored(self, stored: Array) -> Compared:
        assert self._space is not None
        return Compared(self._space, self._centers, self._space.view(stored).to(self._device), lambda: stored)

    def _meet(self, at: Positions, rows: Compared, start: int, end: int, least: float) -> None:
        """Compare rows with the centers start:end."""
        before = self._upper[at]
        g, eps = rows.products(start, end)
        low = g.amin(dim=1).cpu().numpy() + rows.squares
        self.counters["pairs"] += len(at) * (end - start)
        if not rows.double:
            with np.errstate(invalid="ignore"):
                open_ = ~(low - eps > before) & ~(low + eps < least) & (eps > COARSE * np.maximum(low, least))
            if 2 * np.count_nonzero(open_) > len(at):
                rows.refine()
                g, eps = rows.products(start, end)
                low = g.amin(dim=1).cpu().numpy() + rows.squares
                self.counters["finer"] += len(at) * (end - start)
        with np.errstate(invalid="ignore"):
            lower, upper = np.where(np.isinf(eps), -np.inf, low - eps), np.where(np.isinf(eps), np.inf, low + eps)
        nearer = upper < before
        other = np.minimum(self._other[at], np.where(nearer, self._lower[at], lower))
        inside = np.flatnonzero(nearer & (upper >= least) & (eps > 0))
        center = np.where(nearer, _UNKNOWN, self._nearest[at])
        if len(inside):
            where, second = two_nearest(g if len(inside) == len(at) else g[inside])
            center[inside] = start + where
            other[inside] = np.minimum(other[inside], second + rows.squares[inside] - eps[inside])
        unknown = nearer & (center == _UNKNOWN)
        other[unknown] = np.minimum(other, lower)[unknown]
        self._other[at], self._nearest[at] = other, center
        self._lower[at] = np.where(nearer, lower, self._lower[at])
        self._upper[at] = np.minimum(before, upper)
        self._seen[at] = end

    def _settle(self, at: Positions) -> Floats:
        """Canonical squared distances of rows that were compared with all centers; they replace the bounds."""
        assert self._space is not None
        squared = self._upper[at] * self._space.unit
        done = (np.minimum(self._lower[at], self._other[at]) >= self._upper[at]) | (self._upper[at] <= 0)
        sure = (self._other[at] >= self._upper[at]) & (self._nearest[at] >= 0)
        left = np.flatnonzero(~done)
        for start in range(0, len(left), self._chunk):
            here = left[start : start + self._chunk]
            part = at[here]
            stored = self._take(part)
            known, rest = np.flatnonzero(sure[here]), np.flatnonzero(~sure[here])
            found = np.full(len(part), np.inf)
            found[known] = self._space.pairs(
                stored, self._centers.stored, known, self._nearest[part[known]].astype(np.intp)
            )
            self.counters["rescored"] += len(known)
            if len(rest):
                found[rest] = self._decide(stored[rest], self._upper[part[rest]])
            squared[here] = found
        self._upper[at] = self._lower[at] = squared / self._space.unit
        self._other[at], self._nearest[at] = np.inf, _EXACT
        return squared

    def _decide(self, stored: Array, upper: Floats) -> Floats:
        """The canonical distance to the nearest center where the filter cannot tell which one that is."""
        assert self._space is not None
        rows = self._of_stored(stored)
        squared = np.full(len(stored), np.inf)
        for start, end in self._centers.blocks(0):
            at, center = self._candidates(rows, np.minimum(upper, squared / self._space.unit), start, end)
            if len(at) > FEW * len(stored) and rows.refine():
                self.counters["finer"] += len(stored) * (end - start)
                at, center = self._candidates(rows, np.minimum(upper, squared / self._space.unit), start, end)
            self.counters["rescored"] += len(at)
            np.minimum.at(squared, at, self._space.pairs(stored, self._centers.stored, at, start + center))
        return squared

    def _candidates(self, rows: Compared, most: Floats, start: int, end: int) -> tuple[Positions, Positions]:
        """Pairs of rows and of the centers start:end whose squared distance may be the row's smallest and at most
        `most` (m,)."""
        g, eps = rows.products(start, end)
        self.counters["pairs"] += g.numel()
        with np.errstate(invalid="ignore"):
            nearest_here = g.amin(dim=1).cpu().numpy() + rows.squares + eps
            limit = np.fmin(most, nearest_here) + eps - rows.squares
        return nonzero((g <= rows.reach(limit, g.device)).cpu().numpy())

    def _take(self, at: Positions) -> Array:
        if not len(at):
            return np.empty((0, self._width), np.float32)
        return self._shard.take(self.rows[at])[EMBEDDING]

    @property
    def _chunk(self) -> int:
        numbers, most = (_CHUNK, _ROWS) if self._device.type == "cpu" else (_CHUNK_ON_GPU, _ROWS_ON_GPU)
        return min(most, max(256, numbers // max(1, self._width)))

    @cached_property
    def _stored_type(self) -> np.dtype[Any]:
        return self._take(np.zeros(1, np.intp)).dtype

    @property
    def _width(self) -> int:
        segments = self._shard.segments
        return int(segments[0].columns[EMBEDDING].shape[1]) if segments else 0
