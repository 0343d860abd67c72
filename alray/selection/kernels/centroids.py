"""The arithmetic of k-means: the sample, its centroids by FAISS, and every centroid's nearest row, exact.

Letters: n rows, k centroids, d width, m rows of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Array, Rows, Shard
from alray.keyed import order, priorities
from alray.selection.kernels.distance import FEW, Space, bound, double_bounds, products
from alray.selection.kernels.logits import Floats, Positions, distinct, nonzero
from alray.selection.protocol import Metric

Singles = npt.NDArray[np.float32]

_PER_CENTROID = 256
_BYTES = 1 << 31  # of the sample; while it is put together its parts take as much again
_BLOCK = 4096  # rows of the sample that are held in float64 at once
_PAIRS = 1 << 20  # rows times centroids compared at once


def space_of(metric: Metric, sample: Singles) -> Space:
    """The space in which the pool is compared with centroids: no canonical distance depends on it."""
    return Space.around(metric, sample[:_BLOCK])


def sample_size(k: int, d: int) -> int:
    """About how many rows the sample of a larger pool has: about 256 per centroid, at most 2 GiB of float32, and never
    fewer than two per centroid."""
    return max(256, 2 * k, min(_PER_CENTROID * k, _BYTES // (4 * d)))


def ordered(parts: list[tuple[Rows, Array]], metric: Metric, seed: int, stream: str) -> Singles:
    """The parts of the sample as one array (m, d), as the metric compares them and in keyed order. Each part is
    removed from the list once it is copied, so that memory holds the sample at most twice."""
    at = np.argsort(order_of(np.concatenate([part[0] for part in parts]), seed, stream))
    width = max(part[1].shape[1] for part in parts)
    sample = np.empty((len(at), width), np.float32)
    space, start = Space(metric, np.zeros(width)), 0
    while parts:
        _, stored = parts.pop(0)
        for first in range(0, len(stored), _BLOCK):
            block = stored[first : first + _BLOCK]
            sample[at[start : start + len(block)]] = space.canonical(block)
            start += len(block)
    return sample


def order_of(rows: Rows, seed: int, stream: str) -> Rows:
    """Positions of the rows in keyed order, whatever order they came in."""
    ascending = np.argsort(rows)
    return ascending[np.searchsorted(rows[ascending], order(seed, stream, rows[ascending]))]


def centroids_of(x: Singles, k: int, iterations: int, seed: int) -> Floats:
    """Centroids (k, d) of the sample x (m, d), those of the largest clusters first."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with several threads the order of summation, and so the centroids, would vary
    try:
        means = faiss.Kmeans(
            x.shape[1], k, niter=iterations, seed=seed % 2**31, min_points_per_centroid=1,
            max_points_per_centroid=len(x),  # FAISS must not sample again
            init_method=faiss.ClusteringInitMethod_AFK_MC2,
        )  # fmt: skip
        means.train(x)
        _, nearest = means.index.search(x, 1)
    finally:
        faiss.omp_set_num_threads(threads)
    sizes = np.bincount(nearest[:, 0], minlength=k)
    return np.asarray(means.centroids, np.float64)[np.argsort(-sizes, kind="stable")]


class Near:
    """The state of one shard: it gives its part of the sample, and its rows nearest to centroids."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._rows = shard, shard.rows()

    def shape(self) -> tuple[int, int]:
        """Number of rows, and their width (0 where there are no rows)."""
        return len(self._rows), self._shard.take(self._rows[:1])[EMBEDDING].shape[1] if len(self._rows) else 0

    def sample(self, seed: int, stream: str, share: int) -> tuple[Rows, Array]:
        """The rows of the sample and their stored vectors. Each row is in it with probability share / 2^64."""
        rows = self._rows
        if share < 2**64:
            rows = rows[priorities(seed, stream, rows) < np.uint64(share)]
        return (rows, self._shard.take(rows)[EMBEDDING]) if len(rows) else (rows, np.empty((0, 0)))

    def nearest(self, space: Space, centroids: Floats, depth: int, taken: Rows) -> Found:
        """For every centroid (k, d) its `depth` nearest rows that are not taken; fewer where the shard has fewer."""
        search = _Search(space, centroids, depth)
        for block in self._shard.blocks(max(64, _PAIRS // len(centroids))):
            free = ~np.isin(block.rows, taken)
            if free.any():
                search.add(block[EMBEDDING][free], block.rows[free])
        return search.result()


@dataclass(frozen=True, eq=False)
class Found:
    """Pairs (centroid, row), sorted by (which, squared, row): which (p,) index of the centroid; rows (p,) int64;
    squared (p,) float64."""

    which: Positions
    rows: Rows
    squared: Floats

    def cut(self, depth: int) -> Found:
        """Sorted, and at most `depth` rows per centroid."""
        order = np.lexsort((self.rows, self.squared, self.which))
        which = self.which[order]
        order = order[np.arange(len(which)) - np.searchsorted(which, which) < depth]
        return Found(self.which[order], self.rows[order], self.squared[order])

    def table(self, k: int, depth: int) -> tuple[Rows, Floats]:
        """Rows and squared distances as tables (k, depth), of sorted pairs; -1 and infinity where there are fewer."""
        rows, squared = np.full((k, depth), -1), np.full((k, depth), np.inf)
        place = np.arange(len(self.which)) - np.searchsorted(self.which, self.which)
        rows[self.which, place], squared[self.which, place] = self.rows, self.squared
        return rows, squared


def joined(parts: Sequence[Found]) -> Found:
    """The pairs of several lists, not sorted."""
    return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("which", "rows", "squared")))


class _Search:
    """One pass over the rows: per centroid the nearest rows so far. Rows come in ascending order, so that a later row
    enters only where it is strictly nearer."""

    def __init__(self, space: Space, centroids: Floats, depth: int) -> None:
        self._space, self._centroids, self._depth = space, centroids, depth
        self._view = space.view(centroids)
        self._found = Found(np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0))
        self._new: list[Found] = []
        self._limit = np.full(len(centroids), np.inf)

    def add(self, x: Array, rows: Rows) -> None:
        """Compare rows (m,) with stored vectors x (m, d): each distinct vector once."""
        first, again = distinct(x)
        at, center = self._close(x[first])
        squared = self._space.pairs(x[first], self._centroids, at, center)
        keep = squared < self._limit[center]
        at, center, squared = at[keep], center[keep], squared[keep]
        copies = np.argsort(again, kind="stable")  # the rows of each distinct vector, ascending
        start = np.searchsorted(again[copies], np.arange(len(first) + 1))
        number = np.minimum(np.diff(start), self._depth)[at]  # further copies come after as many as are wanted
        pair = np.repeat(np.arange(len(at)), number)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(number) - number, number)
        here = rows[copies[start[at[pair]] + place]]
        self._new.append(Found(center[pair], here, squared[pair]))
        if 2 * sum(len(part.rows) for part in self._new) > len(self._limit) * self._depth:
            self._compact()

    def result(self) -> Found:
        """The pairs of all rows so far."""
        self._compact()
        return self._found

    def _compact(self) -> None:
        self._found, self._new = joined([self._found, *self._new]).cut(self._depth), []
        self._limit = self._found.table(len(self._limit), self._depth)[1][:, -1]

    def _close(self, x: Array) -> tuple[Positions, Positions]:
        """Pairs (position, centroid) of vectors that may be nearer than the last of the nearest rows so far, and than
        the `depth` nearest of these vectors."""
        rows = self._space.view(x)
        value = products(rows.x, self._view).astype(np.float64) + rows.squares[:, None]
        eps = bound(rows.squares, self._view.largest, x.shape[1])[:, None]
        unit = self._space.unit
        with np.errstate(invalid="ignore"):
            low, high = (value - eps) * unit * (1 - 1e-9), (value + eps) * unit * (1 + 1e-9)
        found = nonzero(~(low > self._least(high)))
        if len(found[0]) > FEW * len(self._limit) * self._depth:
            low, high = double_bounds(self._space, x, self._centroids)
            found = nonzero(low <= self._least(high))
        return found

    def _least(self, high: Floats) -> Floats:
        """Of upper bounds (m, k): the largest distance that can still be among the nearest, (k,)."""
        if len(high) <= self._depth:
            return self._limit
        least: Floats = np.fmin(self._limit, np.partition(high, self._depth - 1, axis=0)[self._depth - 1])
        return least
