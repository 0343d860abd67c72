"""k-center greedy (Sener & Savarese 2018, algorithm 1), exact, on the whole pool in a few exchanges.

Again and again the row farthest from everything labeled or picked (Gonzalez 1985): at most twice the best possible
covering radius. Shards sieve (`alray.selection.kernels.sieve`): they ship the few rows that are far, with a bound on
all others. While the farthest shipped row beats that bound it is the farthest of all, whatever happened to the others,
for distances only shrink. Letters: n rows, m labeled, k picks, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alray.features.arrays import EMBEDDING, Shard
from alray.selection.kernels.logits import needed
from alray.selection.protocol import LABELED, Context, Metric, Picks, Shards, check_choice

if TYPE_CHECKING:
    from alray.selection.kernels.sieve import Sieve

First = Literal["largest_norm", "random", "one_center"]


@dataclass(frozen=True)
class KCenter:
    """Farthest first. Score: the distance to the nearest labeled or picked row when picked; radius: the largest
    distance of a row that is then left.

    metric: "l2", or "cosine" (distance of the normalised embeddings). first: who is picked where nothing is labeled,
    "largest_norm", "random" (seeded), or "one_center" (the row whose farthest row is nearest: exact, in a number of
    passes over the pool that depends on the data); its score is infinite.
    """

    metric: Metric = "l2"
    first: First = "largest_norm"

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING, LABELED})

    def __post_init__(self) -> None:
        check_choice("k_center: metric", self.metric, ("l2", "cosine"))
        check_choice("k_center: first", self.first, ("largest_norm", "random", "one_center"))

    def open(self, shard: Shard, context: Context) -> Sieve:
        """The shard-side state."""
        from alray.selection.kernels.sieve import Sieve  # torch is imported by those who use it: it takes seconds

        labeled = context.labeled.open() if context.labeled else Shard([])
        return Sieve(needed(shard, self.needs), needed(labeled, self.needs))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, farthest first."""
        from alray.selection.kernels.farthest import Search

        search = Search(self.metric, self.first, shards, context)
        more = min(budget + 1, search.n)  # the row that would come next tells the last radius
        rows, squared = search.until(more)
        distance = np.sqrt(np.append(squared, 0.0))
        return Picks(rows[:budget], distance[:budget], distance[1 : budget + 1])
