"""Cluster-Margin (Citovsky et al. 2021): small margins, spread over clusters.

1. The candidates: `candidates` times the budget rows with the smallest softmax margins.
2. Average-linkage clustering of their embeddings, cut into `clusters` clusters. Linkage takes quadratic memory. Where
   there are more than `points` candidates, a k-center summary of that size is clustered, and every candidate belongs
   to the cluster of its nearest summary row. (This differs from the original, which clusters the whole pool once, on
   one machine, to a distance threshold.)
3. Round robin over the clusters, the smallest cluster first, clusters of equal size by a hash of their rows; each turn
   takes the smallest margin that is left in the cluster (as in the BASE paper's code; the original draws at random
   inside a cluster).

Letters: n candidates, s summary rows, k picks, d width.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from alray.features.arrays import EMBEDDING, LOGITS, ArraySource, Block, Rows, Shard
from alray.selection.case import Case, likeliest, number
from alray.selection.kernels.logits import needed
from alray.selection.kernels.top_rows import TopRows
from alray.selection.options import Count, with_options
from alray.selection.protocol import Context, Picks, Scores, Shards, Strategy, Ties
from alray.selection.strategies.margin import Margin


@with_options
class ClusterMargin(Strategy):
    """Score: that of `Margin`. The picks are in the order of the round robin."""

    candidates: Count = 10
    """The rows with the smallest margins are candidates, this many times the budget."""
    clusters: Count = 20
    """The number of clusters that the candidates are cut into."""
    points: Annotated[int, Field(ge=2)] = 2000
    """The most candidates that are clustered directly; more are clustered through a summary of this size. Memory grows
    with its square."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS, EMBEDDING})

    def open(self, shard: Shard, context: Context) -> MarginVectors:
        """The shard-side state."""
        return MarginVectors(Margin().open(shard, context), needed(shard, frozenset({EMBEDDING})))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, round robin."""
        rows, score, cluster = self._candidates(shards, budget, context)
        at = _round_robin(cluster, rows, score, budget, context.ties)
        return Picks(rows[at], score[at])

    def _candidates(self, shards: Shards, budget: int, context: Context) -> tuple[Rows, Scores, np.ndarray]:
        """The candidates, ascending, their margins and their clusters."""
        most = min(self.candidates * budget, sum(shards.map("count")))
        margins = Margin().select(shards, most, context)
        blocks = shards.map("vectors", margins.rows)
        there = [block for block in blocks if len(block)]
        rows = np.concatenate([block.rows for block in there])
        x = np.concatenate([block[EMBEDDING] for block in there])[np.argsort(rows)]
        score = margins.scores[np.argsort(margins.rows)]
        rows = np.sort(rows)
        return rows, score, _clusters(rows, x, self.clusters, self.points)

    def reasons(self, case: Case) -> list[str]:
        """Its cluster and what was taken from it. For that the margins of all rows are read once more."""
        from alray.selection.in_process import InProcess

        budget, needs = len(case.picks), self.needs
        if not case.took_part:
            return [case.absent]
        if case.columns is None or case.shard(case.offered[:1], needs) is None:
            return case.standing()
        with InProcess([case.columns(case.offered)], self, case.context) as shards:
            rows, score, cluster = self._candidates(shards, budget, case.context)
        if case.row not in rows:
            own = Margin().score_of(case)
            mine = "" if own is None else f" Its own is {number(own)}."
            return [
                f"It was not among the {len(rows):,} candidates, the images with the highest scores by margin; the "
                f"last of them had {number(score.min())}.{mine}",
                *likeliest(case),
            ]
        at = int(np.searchsorted(rows, case.row))
        beside = rows[cluster == cluster[at]]
        taken = int(np.isin(beside, case.picks.rows).sum())
        about = (
            f"It was one of {len(beside):,} candidates in its cluster, of which {taken:,} were taken, the highest "
            f"scores by margin first; the {len(np.unique(cluster)):,} clusters take turns, small ones first."
        )
        place = case.place() or [f"Its score by margin was {number(score[at])}; it was not its turn in time."]
        return [*place, about, *likeliest(case)]


class MarginVectors:
    """The state of one shard: its margins, and the embeddings of the rows that the driver asks for."""

    def __init__(self, margins: TopRows, shard: Shard) -> None:
        self._shard, self._rows = shard, shard.rows()
        self.propose, self.answer = margins.propose, margins.answer

    def count(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def vectors(self, rows: Rows) -> Block:
        """Those of the rows that are in this shard, with their embeddings."""
        return self._shard.take(np.intersect1d(rows, self._rows))


def _clusters(rows: Rows, x: np.ndarray, clusters: int, points: int) -> np.ndarray:
    """The cluster of each candidate (n,)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(rows) == 1:
        return np.zeros(1, int)
    summary, nearest = _summary(rows, x, points)
    tree = linkage(summary.astype(np.float64), method="average")
    return np.asarray(np.asarray(fcluster(tree, clusters, criterion="maxclust"))[nearest])


def _summary(rows: Rows, x: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """A k-center summary of at most `points` candidates, and the position in it of every candidate's nearest row."""
    if len(rows) <= points:
        return x, np.arange(len(rows))
    from alray.selection.in_process import InProcess
    from alray.selection.kernels.distance import Space, nearest
    from alray.selection.strategies.k_center import KCenter

    with InProcess([ArraySource(rows, {EMBEDDING: x})], KCenter(), Context()) as shards:
        picks = KCenter().select(shards, points, Context())
    summary = x[np.searchsorted(rows, np.sort(picks.rows))]
    space = Space.around("l2", summary)
    parts = [nearest(space, x[start : start + 1024], summary) for start in range(0, len(x), 1024)]
    return summary, np.concatenate(parts)


def _round_robin(cluster: np.ndarray, rows: Rows, score: np.ndarray, budget: int, ties: Ties) -> np.ndarray:
    """Positions in the order of choice. Clusters are ordered by (size, lowest hash of their rows), rows in a cluster by
    (score descending, hash)."""
    names, inverse, size = np.unique(cluster, return_inverse=True, return_counts=True)
    hashes, lowest = ties.hashes(rows), np.full(len(names), np.iinfo(np.uint64).max)
    np.minimum.at(lowest, inverse, hashes)
    place = np.empty(len(names), int)
    place[np.lexsort((lowest, size))] = np.arange(len(names))
    turn = place[inverse]
    order = ties.order(rows, -score, turn)
    lap = np.arange(len(rows)) - np.searchsorted(turn[order], turn[order])
    return order[np.lexsort((turn[order], lap))][:budget]
