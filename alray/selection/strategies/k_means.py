"""k-means, meant as a start where nothing is labeled: the rows nearest to the centroids of the embeddings.

FAISS finds the centroids on the driver, from a keyed random sample that is the same for every cut of the pool. It
starts from an approximation of k-means++ (AFK-MC2, Bachem et al. 2016). The sample has about 256 rows per centroid
(FAISS's advice; it warns below 39), but at most 2 GiB of float32. At d = 2048 that is 262,144 rows, so that more than
6,700 centroids of that width have fewer than 39 rows each. FAISS runs on one thread of the CPU, because sums in another
order would give other centroids: tens of thousands of centroids take hours. Which row is nearest to a centroid is
decided over the whole pool in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from alray.features.arrays import EMBEDDING, Shard
from alray.keyed import stream_key
from alray.selection.case import Case
from alray.selection.kernels.logits import Floats, needed
from alray.selection.options import Count, with_options
from alray.selection.protocol import Context, Metric, Picks, Shards, Strategy, Use

if TYPE_CHECKING:
    from alray.selection.kernels.centroids import Near
    from alray.selection.kernels.distance import Space

_SLOW = 5_000  # centroids: with more of them, k-means on one thread takes hours


@with_options
class KMeans(Strategy):
    """One row per centroid, the centroids of the largest clusters (of the sample) first. Score: minus the distance to
    the centroid."""

    metric: Metric = "l2"
    """l2: distance of the embeddings; cosine: distance of the normalised embeddings."""
    iterations: Count = 20
    """Iterations of Lloyd's algorithm."""

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING})
    seed_set_how: ClassVar[str] = "k_means"

    def notes(self, use: Use) -> list[str]:
        """A note where the number of centroids makes k-means take hours."""
        if use.size <= _SLOW:
            return []
        return [
            f"k_means: {use.size:,} centroids are found by one thread (with more, picks could depend on their number): "
            "expect hours"
        ]

    def open(self, shard: Shard, context: Context) -> Near:
        """The shard-side state."""
        from alray.selection.kernels.centroids import Near  # imports torch, which takes seconds

        return Near(needed(shard, self.needs))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """The nearest row to each of `budget` centroids; a row that two centroids share goes to the first of them."""
        from alray.selection.kernels.centroids import centroids_of, ordered, sample_size, space_of

        stream = f"k_means/{context.round}"
        shapes = shards.map("shape")
        n, most = sum(shape[0] for shape in shapes), sample_size(budget, max(shape[1] for shape in shapes))
        share = 2**64 if n <= most else int(most / n * 2**64)
        sample = ordered(shards.map("sample", context.seed, stream, share), self.metric, context.seed, stream)
        space = space_of(self.metric, sample)
        centroids = centroids_of(sample, budget, self.iterations, stream_key(context.seed, stream))
        del sample
        return self._nearest(space, centroids, shards)

    def reasons(self, case: Case) -> list[str]:
        """Its place, and what the score means."""
        if case.rank is None:
            none = f"Another image was nearer to each of the {len(case.picks):,} centroids."
            return [none] if case.took_part else [case.absent]
        what = "The score is minus the distance to the centroid to which it was nearest of all images."
        return [*case.place(), f"{what} Centroids of large clusters come first."]

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
            _, first = np.unique(rows, return_index=True)  # a row that several centroids share goes to the first
            picks[missing[first]], scores[missing[first]] = rows[first], -np.sqrt(distance[first])
            taken = picks[picks >= 0]
            shards.report_progress(len(taken))
        return Picks(picks, scores)
