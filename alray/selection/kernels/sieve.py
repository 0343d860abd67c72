"""The sieve: which rows of a shard are still far from all centers, the shard's side of the exact k-center.

Distances to the nearest center only shrink as picks are added, so that every known distance stays an upper bound. A row
is compared with one block of centers after the other, and no longer once its bound falls below a threshold: only rows
that may still be picked are compared with all centers. Letters: n rows of the shard, m centers (labeled rows in a fixed
random order, then the picks), d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alray.features.arrays import EMBEDDING, Array, Block, Rows, Shard
from alray.keyed import order, priorities, uniform
from alray.models.device import best_device
from alray.selection.kernels.centers import Centers
from alray.selection.kernels.distance import FEW, Space, View, bound, double_bounds, nearest, products
from alray.selection.kernels.logits import Floats, Positions, nonzero, paired_dots
from alray.selection.kernels.one_center import Answer, Central, Landmarks
from alray.selection.protocol import Key

Counts = npt.NDArray[np.int64]

_STREAM = 1024  # centers compared while streaming over all rows; the few rows left are gathered for the other centers
_CHUNK = 1 << 21  # numbers per view of a chunk of rows: 8 MB
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
        self._space: Space | None = None
        self._central: Central | None = None
        self._forget()

    def _forget(self) -> None:
        n = len(self.rows)
        self._upper = np.full(n, np.inf)  # bound of the squared distance, in units of the views
        self._seen = np.zeros(n, np.int64)  # centers it was compared with
        self._nearest = np.full(n, -1, np.int64)  # the nearest of them, unless unsure
        self._unsure = np.zeros(n, bool)
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
            value = np.concatenate([_squares(self._take(part)) for part in self._chunks(np.arange(len(self.rows)))])
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
        at = at[~np.isin(self.rows[at], picks.rows)]
        self._compare(at, -np.inf)
        return self._upper[at] * space.unit

    def far(self, space: Space, picks: Block, held: Rows, threshold: float, most: int) -> Far:
        """The rows with a squared distance of `threshold` or more, without those that the driver holds already; at most
        the `most` farthest of them."""
        self._begin(space, picks)
        free = ~np.isin(self.rows, held)
        least = threshold / space.unit
        self._compare(np.flatnonzero(free & (self._upper >= least)), least)
        alive = np.flatnonzero(free & (self._upper >= least))
        self.counters["survivors"] += len(alive)
        squared = self._settle(alive)
        there = squared >= threshold
        alive, squared = alive[there], squared[there]
        first = np.sort(np.lexsort((self.rows[alive], -squared))[:most])  # vectors are read in row order
        alive, squared = alive[first], squared[first]
        free[alive] = False
        return Far(self.rows[alive], self._take(alive), squared, self._farthest(free, space.unit))

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
            for block in _shuffled(self._labeled):
                self._centers.add(block)
        if len(picks) > len(self._picks):
            self._centers.add(picks[EMBEDDING][len(self._picks) :])
            self._picks = picks.rows

    def _compare(self, at: Positions, least: float) -> None:
        """Compare the rows with further centers, until their bound is below `least`."""
        fresh = at[self._seen[at] == 0]
        if 2 * len(fresh) > len(self.rows):  # stream over the files once
            for part in self._chunks(fresh):
                self._run(part, least, _STREAM)
        at = at[self._upper[at] >= least]
        for seen in np.unique(self._seen[at]):
            for part in self._chunks(at[self._seen[at] == seen]):
                self._run(part, least, len(self._centers))

    def _chunks(self, at: Positions) -> list[Positions]:
        return [at[start : start + self._chunk] for start in range(0, len(at), self._chunk)]

    def _run(self, at: Positions, least: float, stop: int) -> None:
        """Compare rows with the next centers. All of them have been compared with the same centers so far."""
        if not len(at):
            return
        assert self._space is not None
        view: View | None = None
        for start, end in self._centers.blocks(int(self._seen[at[0]])):
            if start >= stop or not len(at):
                return
            if view is None:
                view = self._space.view(self._take(at)).to(self._device)
            self._meet(at, view, start, end)
            alive = self._upper[at] >= least
            if not alive.all():
                keep = np.flatnonzero(alive)
                at, view = at[keep], view[keep]

    def _meet(self, at: Positions, view: View, start: int, end: int) -> None:
        """Compare rows with the centers start:end."""
        g = products(view.x, self._centers.view[start:end])
        eps = bound(view.squares, self._centers.largest, self._width)
        lowest = torch.min(g, dim=1)
        low = lowest.values.cpu().numpy().astype(np.float64) + view.squares
        self.counters["pairs"] += len(at) * (end - start)
        self._seen[at] = end
        before = self._upper[at]
        with np.errstate(invalid="ignore"):
            near = np.flatnonzero(~(low - eps > before))  # the nearest center may be among these
        if not len(near):
            return
        there = torch.from_numpy(near).to(g.device)
        g, indices = g[there], lowest.indices[there]
        g.scatter_(1, indices[:, None], torch.inf)
        closest = indices.cpu().numpy()
        low, eps, before, at = low[near], eps[near], before[near], at[near]
        second = g.amin(dim=1).cpu().numpy().astype(np.float64) + view.squares[near]
        with np.errstate(invalid="ignore"):
            alone = second - low > 2 * eps  # no other center of this block can be as near
            new = low + eps < before - 2 * eps  # nor one that came before
        sure = alone & (new | (before == np.inf))
        self._nearest[at] = np.where(sure, start + closest, self._nearest[at])
        self._unsure[at] = ~sure
        self._upper[at] = np.fmin(before, low + eps)

    def _settle(self, at: Positions) -> Floats:
        """Canonical squared distances of rows that were compared with all centers; they replace the bounds."""
        assert self._space is not None
        squared = np.empty(len(at))
        for start in range(0, len(at), self._chunk):
            part = at[start : start + self._chunk]
            stored = self._take(part)
            unsure = self._unsure[part] | (self._nearest[part] < 0)
            known, rest = np.flatnonzero(~unsure), np.flatnonzero(unsure)
            here = np.full(len(part), np.inf)
            here[known] = self._space.pairs(stored, self._centers.stored, known, self._nearest[part[known]])
            self.counters["rescored"] += len(known)
            if len(rest):
                here[rest] = self._decide(stored[rest], self._upper[part[rest]])
            squared[start : start + len(part)] = here
        self._upper[at] = squared / self._space.unit
        return squared

    def _decide(self, stored: Array, upper: Floats) -> Floats:
        """The canonical distance to the nearest center where the filter cannot tell which one that is."""
        assert self._space is not None
        view = self._space.view(stored).to(self._device)
        eps = bound(view.squares, self._centers.largest, self._width)
        squared = np.full(len(stored), np.inf)
        for start, end in self._centers.blocks(0):
            g = products(view.x, self._centers.view[start:end])
            with np.errstate(invalid="ignore"):
                limit = np.minimum(upper, squared / self._space.unit) + eps - view.squares
            limit = np.where(np.isnan(limit), np.inf, limit)
            reach = torch.from_numpy(np.nextafter(limit.astype(np.float32), np.float32(np.inf)))
            at, center = np.nonzero((g <= reach.to(g.device)[:, None]).cpu().numpy())
            self.counters["pairs"] += g.numel()
            if len(at) > FEW * len(stored):
                once = np.unique(at)
                least = np.minimum(upper[once] * self._space.unit, squared[once])
                here, center = self._finer(stored[once], least, start, end)
                at = once[here]
            self.counters["rescored"] += len(at)
            np.minimum.at(squared, at, self._space.pairs(stored, self._centers.stored, at, start + center))
        return squared

    def _finer(self, stored: Array, least: Floats, start: int, end: int) -> tuple[Positions, Positions]:
        """Pairs of stored rows (m, d) and the centers start:end, without those that float64 products show to be
        farther than `least` (m,) or than another of these centers."""
        assert self._space is not None
        low, high = double_bounds(self._space, stored, self._centers.stored[start:end])
        self.counters["finer"] += low.size
        return nonzero(low <= np.minimum(least, high.min(axis=1))[:, None])

    def _take(self, at: Positions) -> Array:
        if not len(at):
            return np.empty((0, self._width), np.float32)
        return self._shard.take(self.rows[at])[EMBEDDING]

    @property
    def _chunk(self) -> int:
        return max(256, _CHUNK // max(1, self._width))

    @property
    def _width(self) -> int:
        segments = self._shard.segments
        return int(segments[0].columns[EMBEDDING].shape[1]) if segments else 0


def _squares(stored: Array) -> Floats:
    x = np.asarray(stored, np.float64)
    return paired_dots(x, x)


def _shuffled(labeled: Shard) -> list[Array]:
    """All labeled vectors in a fixed random order: neighbours in a file are often neighbours in space."""
    rows = labeled.rows()
    if not len(rows):
        return []
    block = labeled.take(rows)
    at = np.searchsorted(block.rows, order(0, "k_center/labeled", block.rows))
    return [block[EMBEDDING][at]]
