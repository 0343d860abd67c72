"""The exponentials of a block's logits, for confidence, margin and entropy: fast with bounds, and exact.

Letters: m rows of a block, c classes; top the largest logit of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Block
from alray.selection.kernels.logits import Floats, Logits, Positions, Singles, U

ROUNDING = 2.0**-48  # of scores in float64
_UNDERFLOW = 2.0**-120  # of one exp in float32


@dataclass(frozen=True)
class Soft:
    """Float32 exponentials of logits that may be wrong by eps (m,).

    below (m, c): top - z; e (m, c): exp(-below), but 0 at the predicted class; rest (m,): their sum R, whose true value
    lies between R / factor and (R + underflow) factor; where `usable` (m,) is false nothing is known.
    """

    below: Singles
    e: Singles
    rest: Floats
    factor: Floats
    underflow: float
    eps: Floats
    top: Positions
    usable: npt.NDArray[np.bool_]


def filtered(logits: Logits, block: Block) -> Soft:
    """Exponentials of a block.

    Moving every logit by at most eps changes each exp(z - top) by a factor of at most exp(2 eps), in float32 a little
    more: exp is good to 3 ulp, its argument t to t u with t < 105 (else e is 0), a sum of c terms to c u.
    """
    approximate = logits.approximate(block)
    z, rows = approximate.z, np.arange(len(block))
    with np.errstate(all="ignore"):  # rows that are not usable may hold NaN or infinity
        top = z.argmax(axis=1)
        below = z[rows, top, None] - z
        e = np.exp(-below)
        e[rows, top] = 0.0
        rest = e.sum(axis=1).astype(np.float64)
        factor = np.minimum(np.exp(2 * approximate.eps) * (1 + 2 * (z.shape[1] + 128) * U), 1e100)
    return Soft(below, e, rest, factor, z.shape[1] * _UNDERFLOW, approximate.eps, top, approximate.usable)


def exponentials(z: Floats) -> tuple[Floats, Floats]:
    """exp(z - top) (m, c) and its correctly rounded sums (m,), float64."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e, sums(e)


def sums(values: Floats) -> Floats:
    """Correctly rounded sums of rows: the same in whatever order of classes."""
    return np.array([math.fsum(row) for row in values.tolist()])
