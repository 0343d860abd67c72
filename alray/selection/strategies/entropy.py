"""Entropy sampling (Shannon 1948; Settles 2009): the rows whose predicted distribution is the flattest.

Letters: m rows of a block, c classes; p the softmax of the logits z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alray.features.arrays import LOGITS, Block, Shard
from alray.selection.kernels.logits import Floats, Logits, U, logits_of
from alray.selection.kernels.softmax import ROUNDING, exponentials, filtered, sums
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context, Scores


@with_options
class Entropy(ScoreStrategy):
    """Score -sum p log p, in nats."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def scorer(self, shard: Shard, context: Context) -> _EntropyScorer:
        """Scores by entropy."""
        return _EntropyScorer(logits_of(shard, context))


@dataclass(frozen=True)
class _EntropyScorer:
    logits: Logits

    def bounds(self, block: Block) -> tuple[Scores, Scores]:
        """H = log T + A / T with e = exp(z - top), T their sum, A = sum e (top - z).

        dH = -sum p (log p + H) dz, so logits that are wrong by eps change H by at most 2 eps log c. In float32 e is
        good to 3 ulp and the rounding of its argument, which is below 105 (else e is 0); sums of c terms to c u; and
        A / T <= H <= log c.
        """
        soft = filtered(self.logits, block)
        c = soft.e.shape[1]
        most = math.log(c) if c > 1 else 0.0
        with np.errstate(all="ignore"):
            total = 1 + soft.rest
            entropy = np.log(total) + np.einsum("mc,mc->m", soft.e, soft.below, dtype=np.float32) / total
            wide = 2 * soft.eps * most + (4 * c + 600) * U * (1 + most) + c * 2.0**-100 + ROUNDING
        low, high = entropy - wide, entropy + wide
        return np.where(soft.usable, low, -np.inf), np.where(soft.usable, high, np.inf)

    def exact(self, block: Block) -> Scores:
        """The entropy in float64."""
        return entropies(self.logits.exact_rows(block))


def entropies(z: Floats) -> Scores:
    """-sum p log p of the softmax of logits (m, c), in nats; sums are correctly rounded, in any order of classes."""
    e, total = exponentials(z)
    below = z.max(axis=1, keepdims=True) - z
    return np.log(total) + sums(e * below) / total
