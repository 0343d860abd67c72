"""The arithmetic of k-means: the sample, its centroids by FAISS, and every centroid's nearest row, exact.

Letters: n rows, k centroids, d width, m rows of the sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Array, Rows, Shard
from alray.keyed import order, priorities
from alray.selection.kernels.distance import Space, View, bound, products
from alray.selection.kernels.logits import Floats, Positions, nonzero
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

    def nearest(self, space: Space, centroids: Floats, taken: Rows) -> tuple[Rows, Floats]:
        """For every centroid (k, d) the nearest row that is not taken, and its squared distance, infinite where the
        shard has no such row. Ties go to the lower row."""
        rows, least = np.full(len(centroids), np.iinfo(np.int64).max), np.full(len(centroids), np.inf)
        view = space.view(centroids)
        for block in self._shard.blocks(max(64, _PAIRS // len(centroids))):
            free = ~np.isin(block.rows, taken)
            x, here = block[EMBEDDING][free], block.rows[free]
            if len(here):
                at, center = _close(space, x, view, least)
                squared = space.pairs(x, centroids, at, center)
                order = np.lexsort((here[at], squared, center))
                center, first = np.unique(center[order], return_index=True)
                value = squared[order[first]]
                better = value < least[center]  # an equal distance in a later block belongs to a higher row
                rows[center[better]] = here[at[order[first[better]]]]
                least[center[better]] = value[better]
        return rows, least


def _close(space: Space, x: Array, centroids: View, least: Floats) -> tuple[Positions, Positions]:
    """Pairs (position of a row, centroid) that may be nearer than `least` (k,) and than all other rows of the block."""
    rows = space.view(x)
    value = products(rows.x, centroids).numpy().astype(np.float64) + rows.squares[:, None]
    eps = bound(rows.squares, centroids.largest, x.shape[1])[:, None]
    with np.errstate(invalid="ignore"):
        limit = np.minimum(least, (value + eps).min(axis=0) * space.unit * (1 + 1e-9))
        near = ~((value - eps) * space.unit * (1 - 1e-9) > limit)
    return nonzero(near)
