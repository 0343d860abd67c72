"""Scores of the softmax in a form that does not saturate, fast with bounds, and exact: confidence, margin, entropy.

A probability near 1 loses what distinguishes it from 1. Here only the small parts are computed, as logarithms. Let
z_(1) >= z_(2) be the two largest logits of a row, g = z_(1) - z_(2) their gap, and, with sums over all classes but the
predicted one,

    S = sum exp(z - z_(2)) >= 1,   A = sum exp(z - z_(2)) (z_(1) - z),   R = exp(-g) S,   so that p_(1) = 1 / (1 + R).

    log of the odds (1 - p_(1)) / p_(1)  =  log S - g
    log of 1 - (p_(1) - p_(2))           =  log(S + 1) - g - log(1 + R)
    log of the entropy                   =  log(S log(1 + R) / R + A / (1 + R)) - g

Each is a float64 number that different gaps tell apart as long as the logits themselves do, in a range as wide as that
of the logits. With one class alone each is -infinity. If every logit moves by at most eps, each moves by at most 2 eps:
the gradients of the three have a 1-norm of at most 2. Letters: m rows of a block, c classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Block
from alray.selection.kernels.logits import Approximate, Floats, Logits, U
from alray.selection.kernels.matrices import Matrix, fetched, joined, paired

if TYPE_CHECKING:
    import torch

ROUNDING = 2.0**-48  # of scores in float64, relative to 1 + g
_CACHED = 1 << 14  # float64 numbers worked on at once
_ONE_LEVEL = 1 << 12  # sums of so many numbers are nearly always rounded correctly without a second level of splitting
UNDERFLOW = 2.0**-100  # of one exp in float32, with what it is multiplied by


@dataclass(frozen=True)
class Gaps:
    """What the scores are made of: gap g, total S, weighted A, each (m,) float64."""

    gap: Floats
    total: Floats
    weighted: Floats

    @property
    def rest(self) -> Floats:
        """R, (m,): the sum of all exp(z - z_(1)) but the largest. It may underflow to 0."""
        with np.errstate(all="ignore"):
            rest: Floats = np.exp(-self.gap) * self.total
        return rest

    def odds(self) -> Floats:
        """log((1 - p_(1)) / p_(1)), (m,)."""
        with np.errstate(all="ignore"):
            odds: Floats = np.log(self.total) - self.gap
        return odds

    def margin(self) -> Floats:
        """log(1 - (p_(1) - p_(2))), (m,). A small margin keeps its digits, too."""
        with np.errstate(all="ignore"):
            one = 1 + self.rest
            small = -np.expm1(-self.gap) / one
            large = np.log1p(self.total) - self.gap - np.log(one)
            margin: Floats = np.where(small < 0.5, np.log1p(-small), large) + 0.0  # no negative zero
        return margin

    def entropy(self) -> Floats:
        """log(-sum p log p), (m,)."""
        with np.errstate(all="ignore"):
            rest = self.rest
            share = np.where(rest > 0, np.log1p(rest) / rest, 1.0)
            entropy: Floats = np.log(self.total * share + self.weighted / (1 + rest)) - self.gap
        return entropy


def gaps(z: Floats, weighted: bool = True) -> Gaps:
    """The parts of canonical logits (m, c). Sums are correctly rounded: the order of classes does not matter.

    weighted: compute A too, which only the entropy reads.
    """
    step = max(1, _CACHED // max(1, z.shape[1]))
    parts = [_gaps(z[start : start + step], weighted) for start in range(0, max(1, len(z)), step)]
    return Gaps(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("gap", "total", "weighted")))


def _gaps(z: Floats, weighted: bool) -> Gaps:
    rows, top = np.arange(len(z)), z.argmax(axis=1)
    others = z.copy()
    others[rows, top] = -np.inf
    second, largest = others.max(axis=1), z[rows, top]
    if z.shape[1] == 1:
        return Gaps(np.full(len(z), np.inf), np.zeros(len(z)), np.zeros(len(z)))
    others -= second[:, None]
    e = np.exp(others, out=others)
    total = sums(e)
    return Gaps(largest - second, total, sums(e * (largest[:, None] - z)) if weighted else total)


@dataclass(frozen=True)
class Soft:
    """Float32 view of a block's softmax, from logits that may be wrong by eps (m,).

    below (m, c): z - z_(2); e (m, c): exp(below); both 0 at the predicted class `top` (m,); the three may be on a
    device. gap and total (m,): g and S. wide (m,): how far a score made of them may be from the canonical one. Where
    `usable` (m,) is false nothing is known.
    """

    below: Matrix
    e: Matrix
    gap: Floats
    total: Floats
    eps: Floats
    wide: Floats
    top: Matrix
    usable: npt.NDArray[np.bool_]

    def gaps(self, weighted: bool = False) -> Gaps:
        """The values that scores are computed from. weighted: compute A too, which only the entropy reads."""
        if not weighted:
            return Gaps(self.gap, self.total, self.total)
        below = paired(self.e, self.below).astype(np.float64)
        return Gaps(self.gap, self.total, np.where(self.total > 0, self.gap, 0.0) * self.total - below)

    def interval(self, score: Floats) -> tuple[Floats, Floats]:
        """Lower and upper ends (m,) of the canonical score."""
        with np.errstate(invalid="ignore"):
            low, high = score - self.wide, np.where(score == -np.inf, score, score + self.wide)
        return np.where(self.usable, low, -np.inf), np.where(self.usable, high, np.inf)


def filtered(logits: Logits, block: Block) -> Soft:
    """The softmax of a block in float32."""
    return softened(logits.approximate(block))


def softened(approximate: Approximate) -> Soft:
    """The softmax of float32 logits.

    z_(1) and z_(2) are float32 numbers and their gap is exact. The argument t of an exp is good to t u with t < 105
    (else e is 0), the exp to 3 ulp, a sum of c terms to c u: all sums are good to (c + 128) u, as if logits moved by so
    much.
    """
    z, rows = approximate.z, np.arange(len(approximate.z))
    c = z.shape[1]
    with np.errstate(all="ignore"):  # rows that are not usable may hold NaN or infinity
        top = z.argmax(axis=1)
        below = z.copy()
        below[rows, top] = -np.inf
        second = below.max(axis=1)
        below -= second[:, None]
        below[rows, top] = 0.0
        e = np.exp(below)
        e[rows, top] = 0.0
        gap = z[rows, top].astype(np.float64) - second
        wide = _wide(approximate.eps, c, gap)
        total = e.sum(axis=1).astype(np.float64)
    return Soft(below, e, gap, total, approximate.eps, wide, top, approximate.usable)


def softened_on_device(z: torch.Tensor) -> Soft:
    """The same of exact logits on a device, by the same operations; its exp is good to 2 ulp (CUDA's manual)."""
    m, c = z.shape
    top = z.argmax(dim=1)
    at = top[:, None]
    below = z.scatter(1, at, -np.inf)
    second = below.amax(dim=1, keepdim=True)
    below.sub_(second).scatter_(1, at, 0.0)
    e = below.exp().scatter_(1, at, 0.0)
    ends = z.gather(1, at).double().sub_(second), e.sum(dim=1, keepdim=True).double()
    gap, total = np.ascontiguousarray(fetched(joined(list(ends), axis=1)).T)
    return Soft(below, e, gap, total, np.zeros(m), _wide(np.zeros(m), c, gap), top, np.ones(m, bool))


def _wide(eps: Floats, c: int, gap: Floats) -> Floats:
    return 2 * eps + (4 * c + 600) * U + c * UNDERFLOW + ROUNDING * (1 + gap)


def exponentials(z: Floats) -> tuple[Floats, Floats]:
    """exp(z - top) (m, c) and its correctly rounded sums (m,), float64."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e, sums(e)


def sums(values: Floats) -> Floats:
    """Correctly rounded sums of rows (m, c): the same in whatever order of classes.

    A sum that rounds alike at both ends of its interval is the correctly rounded one; the few others are left to
    `math.fsum`, which takes many times as long.
    """
    found = np.empty(len(values))
    step = max(1, _CACHED // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        part = values[start : start + step]
        low, high = _between(part)
        unsure = np.flatnonzero(~(low == high))  # what is not finite, too
        low[unsure] = [math.fsum(row) for row in part[unsure].tolist()]
        found[start : start + step] = low
    return found


def _between(values: Floats) -> tuple[Floats, Floats]:
    """Sums of rows, rounded down and up from an interval that holds the true ones.

    Every number is split into a multiple of a power of two so large that such multiples have an exact sum in whatever
    order, of many numbers a multiple of a much smaller power, and a remainder (AccSum: Rump, Ogita and Oishi 2008).
    """
    digits = 2 + values.shape[1].bit_length()
    parts = [np.zeros(len(values)), np.zeros(len(values))]
    with np.errstate(all="ignore"):
        largest = np.maximum(values.max(axis=1, initial=0.0), -values.min(axis=1, initial=0.0))
        power = np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] + digits), 0.0)
        rest = values
        for level in range(1 if values.shape[1] <= _ONE_LEVEL else 2):
            split = rest + power[:, None]
            split -= power[:, None]
            parts[level] = split.sum(axis=1)
            np.subtract(rest, split, out=split)
            rest, power = split, power * 2.0 ** (digits - 52)
        total = parts[0] + parts[1]
        back = total - parts[0]
        lost = (parts[0] - (total - back)) + (parts[1] - back) + rest.sum(axis=1)
        bound = values.shape[1] ** 2 * power * 2.0 ** -(digits + 50) + 2.0**-50 * np.abs(lost)
        return total + (lost - bound), total + (lost + bound)
