"""Margin sampling (Scheffer et al. 2001): the rows whose two most probable classes are nearest to each other.

Letters: m rows of a block, c classes; z logits, p their softmax.
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

_CERTAIN = 2.0**-60  # a 1 - margin that vanishes in float64


@with_options
class Margin(ScoreStrategy):
    """Score -(p_(1) - p_(2)), the negative difference of the two largest softmax probabilities; with one class, -1."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def scorer(self, shard: Shard, context: Context) -> _MarginScorer:
        """Scores by margin."""
        return _MarginScorer(logits_of(shard, context))


@dataclass(frozen=True)
class _MarginScorer:
    logits: Logits

    def bounds(self, block: Block) -> tuple[Scores, Scores]:
        """An interval around 1 - margin = (R + e2) / (1 + R): e = exp(z - top), e2 the largest other one, R their sum.

        The value depends on the sorted logits alone, and moving every logit by at most eps moves each of the sorted
        ones by at most eps: e2 and R change by a factor of at most f (see `filtered`). The value grows with both.
        """
        soft = filtered(self.logits, block)
        usable, f, rest = soft.usable, soft.factor, soft.rest
        with np.errstate(all="ignore"):
            second = soft.e.max(axis=1).astype(np.float64)
            low = (rest + second) / (f + rest)
            rest, second = (rest + soft.underflow) * f, np.minimum((second + soft.underflow) * f, 1.0)
            high = (rest + second) / (1 + rest)
        certain = usable & (high < _CERTAIN)  # the margin is exactly -1 in float64: no exact score is needed
        low = np.where(certain, 0.0, np.where(usable, low - ROUNDING, -np.inf))
        high = np.where(certain, 0.0, np.where(usable, high + ROUNDING, np.inf))
        return low - 1, high - 1

    def exact(self, block: Block) -> Scores:
        """The margin in float64; the softmax's denominator is a correctly rounded sum, in whatever order of classes."""
        z = self.logits.exact_rows(block)
        e, total = exponentials(z)
        if z.shape[1] == 1:
            return -np.ones(len(block))
        second = np.partition(e, z.shape[1] - 2, axis=1)[:, -2]
        margin: Scores = 1.0 / total - second / total
        return 0.0 - margin  # 0 - x: no negative zero
