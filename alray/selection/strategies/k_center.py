"""k-center greedy (Sener & Savarese 2018, algorithm 1), exact, on the whole pool in a few exchanges.

Every pick is the row farthest from all labeled and picked rows (Gonzalez 1985). The covering radius is then at most
twice the smallest possible one. Each shard sends only its few farthest rows, and an upper bound on the distances of its
other rows (`alray.selection.kernels.sieve`). As long as the farthest of the sent rows exceeds that bound, it is the
farthest of all rows, because a pick can only reduce distances. Where that would be most of the rows, the driver takes
all of them (`alray.selection.kernels.farthest`). Letters: n rows, m labeled, k picks, d width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alray.features.arrays import EMBEDDING, Shard
from alray.selection.case import Case, covered
from alray.selection.kernels.logits import needed
from alray.selection.options import with_options
from alray.selection.protocol import LABELED, Context, Metric, Picks, Shards, Strategy
from alray.selection.zero_vectors import counted, remarks

if TYPE_CHECKING:
    from alray.selection.kernels.sieve import Sieve

First = Literal["largest_norm", "random", "one_center"]


@with_options
class KCenter(Strategy):
    """Picks the farthest row first. Score: the distance to the nearest labeled or picked row at the time of the pick.
    Radius: the largest such distance of the remaining rows after the pick. If nothing is labeled, the first pick has an
    infinite score."""

    metric: Metric = "l2"
    """l2: distance of the embeddings; cosine: distance of the normalised embeddings."""
    first: First = "largest_norm"
    """The first pick if nothing is labeled. largest_norm: the row with the largest embedding. random: a seeded draw.
    one_center: the row whose farthest row is nearest; exact, in a number of passes over the pool that depends on the
    data."""

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING, LABELED})
    checks_values: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    def open(self, shard: Shard, context: Context) -> Sieve:
        """The state of one shard."""
        return counted(self._state(shard, context), shard, self.metric)

    def _state(self, shard: Shard, context: Context) -> Sieve:
        """The same, which counts no zero vectors."""
        from alray.selection.kernels.sieve import Sieve

        labeled = context.labeled.open() if context.labeled else Shard([])
        return Sieve(needed(shard, self.needs), needed(labeled, self.needs))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """Choose `budget` rows, the farthest first."""
        from alray.selection.kernels.farthest import Search

        search = Search(self.metric, self.first, shards, context)
        more = min(budget + 1, search.n)  # the distance of one more pick is the last radius
        rows, squared = search.until(more)
        distance = np.sqrt(np.append(squared, 0.0))
        return Picks(rows[:budget], distance[:budget], distance[1 : budget + 1], search.account())

    def remarks(self, picks: Picks) -> list[str]:
        """How many zero vectors there are for the cosine metric."""
        return remarks("k_center", picks)

    def reasons(self, case: Case) -> list[str]:
        """What was nearest to it."""
        return covered(case, self.metric)
