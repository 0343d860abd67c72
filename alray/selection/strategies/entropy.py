"""Entropy sampling (Shannon 1948; Settles 2009): the rows whose predicted distribution is the flattest.

Letters: p the softmax of the logits.
"""

from __future__ import annotations

from typing import ClassVar

from alray.features.arrays import LOGITS, Shard
from alray.selection.case import Case, likeliest
from alray.selection.kernels.gap_scorer import BLOCK, SHARD, GapScorer
from alray.selection.kernels.logits import logits_of
from alray.selection.kernels.screen import ENTROPY
from alray.selection.kernels.softmax import Gaps
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context


@with_options
class Entropy(ScoreStrategy):
    """Score log(-sum p log p): the logarithm of the entropy in nats.

    The order is that of the entropy. Where the model is certain the entropy is tiny and its logarithm keeps all digits
    (see `alray.selection.kernels.softmax`). With one class alone it is -infinity.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})
    checks_values: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True
    stored: ClassVar[int] = BLOCK
    shard_size: ClassVar[tuple[int, int]] = SHARD

    def scorer(self, shard: Shard, context: Context) -> GapScorer:
        """Scores by entropy."""
        return GapScorer(logits_of(shard, context), Gaps.entropy, ENTROPY, weighted=True)

    def reasons(self, case: Case) -> list[str]:
        """Its score, and the two likeliest classes."""
        return [*super().reasons(case), *likeliest(case)]
