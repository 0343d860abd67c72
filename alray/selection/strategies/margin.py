"""Margin sampling (Scheffer et al. 2001): the rows whose two most probable classes are nearest to each other.

Letters: p_(1) and p_(2) the two largest softmax probabilities.
"""

from __future__ import annotations

from typing import ClassVar

from alray.features.arrays import LOGITS, Shard
from alray.selection.case import Case, likeliest
from alray.selection.kernels.gap_scorer import BLOCK, SHARD, GapScorer
from alray.selection.kernels.logits import logits_of
from alray.selection.kernels.screen import MARGIN
from alray.selection.kernels.softmax import Gaps
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context


@with_options
class Margin(ScoreStrategy):
    """Score log(1 - (p_(1) - p_(2))): 0 where two classes are equally probable, very negative where one is certain.

    The order is that of p_(2) - p_(1), which saturates at -1 where the model is certain; the logarithm does not (see
    `alray.selection.kernels.softmax`). With one class alone it is -infinity.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})
    checks_values: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True
    stored: ClassVar[int] = BLOCK
    shard_size: ClassVar[tuple[int, int]] = SHARD

    def scorer(self, shard: Shard, context: Context) -> GapScorer:
        """Scores by margin."""
        return GapScorer(logits_of(shard, context), Gaps.margin, MARGIN, gapped=True)

    def reasons(self, case: Case) -> list[str]:
        """Its score, and the two likeliest classes."""
        return [*super().reasons(case), *likeliest(case)]
