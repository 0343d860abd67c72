"""k-center greedy (Sener & Savarese 2018, algorithm 1), exact, on the whole pool in a few exchanges.

Every pick is the row farthest from all labeled and picked rows (Gonzalez 1985); the covering radius is then at most
twice the best possible one. The shards sieve (`alray.selection.kernels.sieve`): they send the few rows that are far,
with a bound on all others. While the farthest of the sent rows exceeds that bound it is the farthest of all rows,
because the distances of the others can only have shrunk. Letters: n rows, m labeled, k picks, d width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alray.features.arrays import EMBEDDING, Shard
from alray.selection.kernels.logits import needed
from alray.selection.options import with_options
from alray.selection.protocol import LABELED, Context, Metric, Picks, Shards, Strategy

if TYPE_CHECKING:
    from alray.selection.kernels.sieve import Sieve

First = Literal["largest_norm", "random", "one_center"]


@with_options
class KCenter(Strategy):
    """Farthest first. Score: the distance to the nearest labeled or picked row when picked; radius: the largest
    distance of a row that is then left. The first pick where nothing is labeled has an infinite score."""

    metric: Metric = "l2"
    """l2: distance of the embeddings; cosine: distance of the normalised embeddings."""
    first: First = "largest_norm"
    """The first pick where nothing is labeled. largest_norm: the row with the largest embedding. random: a seeded draw.
    one_center: the row whose farthest row is nearest; exact, in a number of passes over the pool that depends on the
    data."""

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING, LABELED})

    def open(self, shard: Shard, context: Context) -> Sieve:
        """The shard-side state."""
        from alray.selection.kernels.sieve import Sieve  # imports torch, which takes seconds

        labeled = context.labeled.open() if context.labeled else Shard([])
        return Sieve(needed(shard, self.needs), needed(labeled, self.needs))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, farthest first."""
        from alray.selection.kernels.farthest import Search

        search = Search(self.metric, self.first, shards, context)
        more = min(budget + 1, search.n)  # the distance of the row that would come next is the last radius
        rows, squared = search.until(more)
        distance = np.sqrt(np.append(squared, 0.0))
        return Picks(rows[:budget], distance[:budget], distance[1 : budget + 1])
