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

from alray.features.arrays import EMBEDDING, Rows, Shard
from alray.keyed import stream_key
from alray.selection.case import Case
from alray.selection.kernels.logits import Floats, Positions, distinct, needed
from alray.selection.options import Count, with_options
from alray.selection.protocol import Context, Metric, Picks, Shards, Strategy
from alray.selection.use import Use
from alray.selection.zero_vectors import counted, remarks

if TYPE_CHECKING:
    from alray.selection.kernels.centroids import Near
    from alray.selection.kernels.distance import Space

_DEEPER = 4  # the next pass lists so many times as many rows
_PAIRS = 1 << 22  # (centroid, row) pairs that a shard sends at once: 100 MB
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
        from alray.selection.kernels.centroids import Near

        return counted(Near(needed(shard, self.needs)), shard, self.metric)

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

    def remarks(self, picks: Picks) -> list[str]:
        """How many zero vectors there are for the cosine metric."""
        return remarks("k_means", picks)

    def reasons(self, case: Case) -> list[str]:
        """Its place, and what the score means."""
        if case.rank is None:
            none = f"Another image was nearer to each of the {len(case.picks):,} centroids."
            return [none] if case.took_part else [case.absent]
        what = "The score is minus the distance to the centroid to which it was nearest of all images."
        return [*case.place(), f"{what} Centroids of large clusters come first."]

    def _nearest(self, space: Space, centroids: Floats, shards: Shards) -> Picks:
        """Each centroid's nearest row that is free; where several have the same one, the first takes it and the others
        look again.

        One pass over the pool lists several rows of each centroid, and each pass more than the one before, so that
        their number stays small where all centroids want the same rows.
        """
        from alray.selection.kernels.centroids import joined

        picks, scores, depth = np.full(len(centroids), -1), np.zeros(len(centroids)), 1
        while (missing := np.flatnonzero(picks < 0)).size:
            first, again = distinct(centroids[missing])  # copies of a centroid have the same list
            depth = min(depth, len(missing), max(1, _PAIRS // len(first)))
            taken = np.sort(picks[picks >= 0])
            found = joined(shards.map("nearest", space, centroids[missing[first]], depth, taken)).cut(depth)
            lists, distances = found.table(len(first), depth)
            rows, squared = lists[again], distances[again]
            at, place = _served(rows)
            picks[missing[at]], scores[missing[at]] = rows[at, place], -np.sqrt(squared[at, place])
            shards.report_progress(int(np.count_nonzero(picks >= 0)))
            depth *= _DEEPER
        return Picks(picks, scores)


def _served(lists: Rows) -> tuple[Positions, Positions]:
    """Which of the lists (k, depth) get a row, and the place of that row in them, as long as every list that has none
    knows its nearest free row; -1 stands for no row.

    In every round each list names its first row that is not taken, and the first of the lists that name it takes it.
    """
    left, place = np.arange(len(lists)), np.zeros(len(lists), np.intp)
    served, taken = list[Positions](), np.empty(0, np.int64)
    while len(left):
        while (behind := np.isin(lists[left, place[left]], taken)).any():
            place[left[behind]] += 1
            if place[left].max() == lists.shape[1]:
                return np.concatenate(served), place[np.concatenate(served)]
        named = lists[left, place[left]]
        if (named < 0).any():
            break
        _, first = np.unique(named, return_index=True)
        served.append(left[first])
        taken = np.append(taken, named[first])
        left = np.delete(left, first)
    at = np.concatenate(served)
    return at, place[at]
