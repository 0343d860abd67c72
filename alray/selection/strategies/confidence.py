"""Least confidence (Lewis & Gale 1994): the rows whose most probable class is the least probable.

Letters: p the softmax of the logits.
"""

from __future__ import annotations

from typing import ClassVar

from alray.features.arrays import LOGITS, Shard
from alray.selection.case import Case, likeliest
from alray.selection.kernels.gap_scorer import BLOCK, SHARD, GapScorer
from alray.selection.kernels.logits import logits_of
from alray.selection.kernels.screen import ODDS
from alray.selection.kernels.softmax import Gaps
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context


@with_options
class Confidence(ScoreStrategy):
    """Score log((1 - max p) / max p): the logarithm of the odds against the predicted class.

    The order is that of -max p, which saturates at -1 where the model is certain; the logarithm does not (see
    `alray.selection.kernels.softmax`). max p = 1 / (1 + exp(score)). With one class alone it is -infinity.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})
    checks_values: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True
    stored: ClassVar[int] = BLOCK
    shard_size: ClassVar[tuple[int, int]] = SHARD

    def scorer(self, shard: Shard, context: Context) -> GapScorer:
        """Scores by confidence."""
        return GapScorer(logits_of(shard, context), Gaps.odds, ODDS)

    def reasons(self, case: Case) -> list[str]:
        """Its score, and the two likeliest classes."""
        return [*super().reasons(case), *likeliest(case)]
