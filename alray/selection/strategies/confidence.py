"""Least confidence (Lewis & Gale 1994): the rows whose most probable class is the least probable.

Letters: m rows of a block, c classes; p the softmax of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alray.features.arrays import LOGITS, Block, Shard
from alray.selection.kernels.logits import Logits, logits_of
from alray.selection.kernels.softmax import ROUNDING, exponentials, filtered
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context, Scores


@with_options
class Confidence(ScoreStrategy):
    """Score -max p, the negative softmax probability of the predicted class."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def scorer(self, shard: Shard, context: Context) -> _ConfidenceScorer:
        """Scores by confidence."""
        return _ConfidenceScorer(logits_of(shard, context))


@dataclass(frozen=True)
class _ConfidenceScorer:
    logits: Logits

    def bounds(self, block: Block) -> tuple[Scores, Scores]:
        """-1 / (1 + R) grows with R, the sum of the other classes' exp(z - top)."""
        soft = filtered(self.logits, block)
        low, high = -1 / (1 + soft.rest / soft.factor), -1 / (1 + (soft.rest + soft.underflow) * soft.factor)
        low, high = low - ROUNDING, high + ROUNDING
        return np.where(soft.usable, low, -np.inf), np.where(soft.usable, high, np.inf)

    def exact(self, block: Block) -> Scores:
        """-max p in float64."""
        _, total = exponentials(self.logits.exact_rows(block))
        scores: Scores = -1.0 / total
        return scores
