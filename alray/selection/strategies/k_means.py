"""k-means (as a start where nothing is labeled): the rows nearest to the centroids of the embeddings.

FAISS finds the centroids on a keyed random sample on the driver, the same for every cut of the pool; it starts from an
approximation of k-means++ (AFK-MC2, Bachem et al. 2016). The sample has about 256 rows per centroid (FAISS's advice; 39
is what it calls too few), but at most 2 GiB of float32: 262,144 rows at d = 2048, so more than 6,700 centroids of that
width have fewer than 39. FAISS runs on one thread of the CPU, for sums in another order would be other centroids: tens
of thousands of centroids take hours. Which row is nearest to a centroid is decided over the whole pool in float64.
Letters: n rows, k picks and centroids, d width, m rows of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Array, Rows, Shard
from alray.keyed import order, priorities, stream_key
from alray.selection.kernels.distance import Space, View, bound, products
from alray.selection.kernels.logits import Floats, Positions, needed, nonzero
from alray.selection.protocol import Context, Metric, Picks, Shards, check_choice, check_integer

Singles = npt.NDArray[np.float32]

_PER_CENTROID = 256
_BYTES = 1 << 31  # of the sample; the parts it is put together from are there once more
_BLOCK = 4096  # rows of the sample that are seen in float64 at once
_PAIRS = 1 << 20  # rows times centroids compared at once


@dataclass(frozen=True)
class KMeans:
    """One row per centroid, the centroids of the largest clusters (of the sample) first. Score: minus the distance to
    the centroid.

    metric: "l2", or "cosine" (of the normalised embeddings); iterations of Lloyd's algorithm.
    """

    metric: Metric = "l2"
    iterations: int = 20

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING})

    def __post_init__(self) -> None:
        check_choice("k_means: metric", self.metric, ("l2", "cosine"))
        check_integer("k_means: iterations", self.iterations, 1)

    def open(self, shard: Shard, context: Context) -> Near:
        """The shard-side state."""
        return Near(needed(shard, self.needs))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """The nearest row to each of `budget` centroids; a row that two centroids share goes to the first of them."""
        stream = f"k_means/{context.round}"
        shapes = shards.map("shape")
        n, most = sum(shape[0] for shape in shapes), sample_size(budget, max(shape[1] for shape in shapes))
        share = 2**64 if n <= most else int(most / n * 2**64)
        sample = ordered(shards.map("sample", context.seed, stream, share), self.metric, context.seed, stream)
        space = Space.around(self.metric, sample[:_BLOCK])  # how the pool is seen: no distance depends on it
        centroids = _centroids(sample, budget, self.iterations, stream_key(context.seed, stream))
        del sample
        return self._nearest(space, centroids, shards)

    def _nearest(self, space: Space, centroids: Floats, shards: Shards) -> Picks:
        taken = np.empty(0, np.int64)
        picks = np.full(len(centroids), -1)
        scores = np.zeros(len(centroids))
        while (missing := np.flatnonzero(picks < 0)).size:
            parts = shards.map("nearest", space, centroids[missing], np.sort(taken))
            squared = np.stack([part[1] for part in parts])
            there = np.stack([part[0] for part in parts])
            shard = np.lexsort((there, squared), axis=0)[0]
            at = np.arange(len(missing))
            rows, distance = there[shard, at], squared[shard, at]
            _, first = np.unique(rows, return_index=True)  # of several centroids with one nearest row, the first
            picks[missing[first]], scores[missing[first]] = rows[first], -np.sqrt(distance[first])
            taken = picks[picks >= 0]
            shards.say(len(taken))
        return Picks(picks, scores)


def sample_size(k: int, d: int) -> int:
    """About how many rows the sample has, of a pool that is larger: documented above, and enough for k centroids."""
    return max(256, 2 * k, min(_PER_CENTROID * k, _BYTES // (4 * d)))


def ordered(parts: list[tuple[Rows, Array]], metric: Metric, seed: int, stream: str) -> Singles:
    """The parts of the sample as one (m, d), as the metric sees them and in keyed order. Empties the list on the way,
    so that nothing is there three times."""
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


def _centroids(x: Singles, k: int, iterations: int, seed: int) -> Floats:
    """(k, d), those of the largest clusters first."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums of other threads would come in another order
    try:
        means = faiss.Kmeans(
            x.shape[1], k, niter=iterations, seed=seed % 2**31, min_points_per_centroid=1,
            max_points_per_centroid=len(x),  # no sample of the sample
            init_method=faiss.ClusteringInitMethod_AFK_MC2,
        )  # fmt: skip
        means.train(x)
        _, nearest = means.index.search(x, 1)
    finally:
        faiss.omp_set_num_threads(threads)
    sizes = np.bincount(nearest[:, 0], minlength=k)
    return np.asarray(means.centroids, np.float64)[np.argsort(-sizes, kind="stable")]


class Near:
    """One shard: its part of the sample, and its rows nearest to centroids."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._rows = shard, shard.rows()

    def shape(self) -> tuple[int, int]:
        """Number of rows, and their width: 0 where there are none."""
        return len(self._rows), self._shard.take(self._rows[:1])[EMBEDDING].shape[1] if len(self._rows) else 0

    def sample(self, seed: int, stream: str, share: int) -> tuple[Rows, Array]:
        """Rows of the sample, and their stored vectors: each with probability share / 2^64."""
        rows = self._rows
        if share < 2**64:
            rows = rows[priorities(seed, stream, rows) < np.uint64(share)]
        return (rows, self._shard.take(rows)[EMBEDDING]) if len(rows) else (rows, np.empty((0, 0)))

    def nearest(self, space: Space, centroids: Floats, taken: Rows) -> tuple[Rows, Floats]:
        """Of every centroid (k, d) the nearest row that is not taken, and its squared distance; infinite where the
        shard has none. Ties by row."""
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
                better = value < least[center]  # of equals in another block, the lower row came first
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
