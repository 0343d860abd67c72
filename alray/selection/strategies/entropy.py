"""Entropy sampling (Shannon 1948; Settles 2009): the rows whose predicted distribution is the flattest.

Letters: p the softmax of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alray.features.arrays import LOGITS, Block, Shard
from alray.selection.kernels.logits import Logits, logits_of
from alray.selection.kernels.softmax import filtered, gaps
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context, Scores


@with_options
class Entropy(ScoreStrategy):
    """Score log(-sum p log p): the logarithm of the entropy in nats.

    The order is that of the entropy. Where the model is certain the entropy is tiny and its logarithm keeps all digits
    (see `alray.selection.kernels.softmax`). With one class alone it is -infinity.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def scorer(self, shard: Shard, context: Context) -> _EntropyScorer:
        """Scores by entropy."""
        return _EntropyScorer(logits_of(shard, context))


@dataclass(frozen=True)
class _EntropyScorer:
    logits: Logits

    def bounds(self, block: Block) -> tuple[Scores, Scores]:
        soft = filtered(self.logits, block)
        return soft.interval(soft.gaps(weighted=True).entropy())

    def exact(self, block: Block) -> Scores:
        return gaps(self.logits.exact_rows(block)).entropy()
