"""Margin sampling (Scheffer et al. 2001): the rows whose two most probable classes are nearest to each other.

Letters: m rows of a block, c classes; z logits, p their softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alray.features.arrays import LOGITS, Block, Shard
from alray.selection.logits import Logits, U, logits_of
from alray.selection.protocol import Context, Scores
from alray.selection.score import ScoreStrategy


@dataclass(frozen=True)
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
        """The margin in float32, give or take its error.

        Moving every logit by at most eps moves a probability by at most eps/2 (|dp_i| <= 2 p_i (1 - p_i) eps) and the
        difference of two order statistics by at most eps. The rest is float32 rounding: of exp (under 3 ulp), of its
        argument (e^-t t u <= 0.4 u), and of a sum of c terms (c u in any order).
        """
        approximate = self.logits.approximate(block)
        z, rows = approximate.z, np.arange(len(block))
        with np.errstate(all="ignore"):  # rows that are not usable may hold NaN or infinity
            top = z.argmax(axis=1)
            e = z - z[rows, top, None]
            np.exp(e, out=e)
            e[rows, top] = 0.0
            margin = (1.0 - e.max(axis=1).astype(np.float64)) / (1.0 + e.sum(axis=1).astype(np.float64))
        error = approximate.eps + 2 * (z.shape[1] + 64) * U
        low = np.where(approximate.usable, -margin - error, -np.inf)
        return low, np.where(approximate.usable, -margin + error, np.inf)

    def exact(self, block: Block) -> Scores:
        """The margin in float64; the softmax's denominator is a correctly rounded sum, in whatever order of classes."""
        z = self.logits.exact_rows(block)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        total = np.array([math.fsum(row) for row in e.tolist()])
        if z.shape[1] == 1:
            return -np.ones(len(block))
        second = np.partition(e, z.shape[1] - 2, axis=1)[:, -2]
        margin: Scores = 1.0 / total - second / total
        return 0.0 - margin  # 0 - x: no negative zero
