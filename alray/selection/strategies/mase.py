"""MASE (Emam et al. 2021, section 3.1): the rows nearest to any decision boundary, in embedding space.

Letters: m rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alray.features.arrays import LOGITS, Block, Shard
from alray.selection.case import Case, number
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.logits import logits_of
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import HEAD, Context, Scores


@with_options
class Mase(ScoreStrategy):
    """Score -min over c != y of (z_y - z_c) / |w_y - w_c|, y the predicted class: the negative distance.

    The score is -inf where no other class has other weights: such a row is taken last.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS, HEAD})
    checks_values: ClassVar[bool] = True

    def scorer(self, shard: Shard, context: Context) -> _MaseScorer:
        """Scores by distance."""
        return _MaseScorer(Boundaries(logits_of(shard, context), context))

    def reasons(self, case: Case) -> list[str]:
        """Its score, and its nearest boundary."""
        return [*super().reasons(case), *nearest_boundary(case)]


def nearest_boundary(case: Case) -> list[str]:
    """The predicted class of a row, and the nearest boundary with its distance."""
    found = case.block(Mase.needs)
    if found is None:
        return []
    boundaries = Boundaries(logits_of(found[0], case.context), case.context)
    y = boundaries.predicted(found[1], boundaries.logits.approximate(found[1]))
    own, distances = int(y[0]), boundaries.table(found[1], y)[0]
    nearest = distances[own]
    distances[own] = np.inf
    if not np.isfinite(nearest):
        return [f"The model predicted {case.class_name(own)}; no other class has a boundary to it."]
    other = case.class_name(int(np.argmin(distances)))
    return [
        f"The model predicted {case.class_name(own)}; the nearest boundary was that to {other}, at the distance "
        f"{number(nearest)}."
    ]


@dataclass(frozen=True)
class _MaseScorer:
    boundaries: Boundaries

    def bounds(self, block: Block, least: float = -np.inf) -> tuple[Scores, Scores]:
        low, high = self.boundaries.nearest_bounds(self.boundaries.filter(block))
        return -high, -low

    def exact(self, block: Block) -> Scores:
        filtered = self.boundaries.filter(block)
        return 0.0 - self.boundaries.exact(block, filtered, np.arange(len(block)), filtered.y)  # no negative zero
