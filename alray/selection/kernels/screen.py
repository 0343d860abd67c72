"""Which rows can score as much as rows that were seen before: told by one exponential of each float32 logit.

With S = sum exp(z) and B = sum exp(z) z over all classes, and e = exp(z_(1)), the uncertainty of a row is

    odds     S / e - 1,
    margin   1 - e (1 - exp(-gap)) / S,
    entropy  log S - B / S.

That is all that plain code computes. Where rows are certain, these differences cancel: thresholds that are so small are
not screened. An argument of an exp is good to 104 u, the exp to 3 ulp, a sum of t float32 terms to t u. So S and e are
good to w = (120 + t) u, relatively, and the entropy to w (2 |z_(1)| + 2 log c + 3), as the mean of z_(1) - z is at most
the entropy. If every logit moves by eps, S / e is multiplied by at most exp(2 eps). Letters: m rows, c classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.selection.kernels.logits import Floats, Singles, U
from alray.selection.kernels.short_sums import TERMS, roundings, row_products, row_sums

_RANGE = 60.0  # float32 holds exp(z_(1)) up to so much above and below, and all terms that matter beside it
BY_CLASS = 48  # with so many classes or fewer, a block is worked on class by class
_SHORT = 512  # columns of rows whose largest numbers `reduceat` finds faster
_SUMS = 8  # float32 sums of a row at most
_ROUNDING = 2.0**-38  # of scores in float64
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Totals:
    """total S, weighted B (S unless asked for), top e, each (m,), of logits from which one number was subtracted;
    rounded: w; eps (m,), or (1,) for all; reach: the largest |z_(1)| and the logarithm of c."""

    total: Floats
    weighted: Floats
    top: Floats
    rounded: float
    eps: Floats
    reach: float

    @property
    def wide(self) -> Floats:
        """With rounding and errors of the logits, S / e is off by a factor of at most 1 + `wide`."""
        with np.errstate(over="ignore"):
            return np.asarray(2 * (self.rounded + np.expm1(2 * self.eps)))


@dataclass(frozen=True)
class Screen:
    """could(totals, gap, least): the rows (m,) that may score `least`. smallest: thresholds under it are not screened.
    weighted: whether `could` reads B; gapped: whether it reads gaps."""

    could: Callable[[Totals, Floats, float], Mask]
    smallest: float
    weighted: bool = False
    gapped: bool = False

    def rows(self, z: Singles, eps: Floats, gap: Floats, least: float) -> Mask | None:
        """The rows of usable logits (m, c) that may score `least`; None where that is not told. gap: z_(1) - z_(2),
        (m,), if it is read."""
        if not least > self.smallest:
            return None
        totals = totals_of(z, eps if eps.any() else np.zeros(1), self.weighted)
        return None if totals is None else self.could(totals, gap, least - _ROUNDING)


def _odds(totals: Totals, gap: Floats, least: float) -> Mask:
    return np.asarray(totals.total * (1 + totals.wide) >= (1 + np.exp(least)) * totals.top)


def _margin(totals: Totals, gap: Floats, least: float) -> Mask:
    apart = -np.expm1(-np.maximum(gap - 2 * totals.eps, 0.0))
    return np.asarray(totals.top * apart <= (_ROUNDING - np.expm1(least)) * totals.total * (1 + totals.wide))


def _entropy(totals: Totals, gap: Floats, least: float) -> Mask:
    entropy = np.log(totals.total) - totals.weighted / totals.total
    entropy += totals.rounded * (2.1 * totals.reach + 3)
    return np.asarray(entropy >= np.exp(least - 2 * totals.eps))


ODDS = Screen(_odds, -5.0)
MARGIN = Screen(_margin, -5.0, gapped=True)
ENTROPY = Screen(_entropy, -3.0, weighted=True)


def totals_of(z: Singles, eps: Floats, weighted: bool) -> Totals | None:
    """What the scores of rows are made of; None where the largest logits differ too much from row to row."""
    classes, axis = z.shape[1], int(z.shape[1] > BY_CLASS)
    z = np.ascontiguousarray(z if axis else z.T)
    top = _largest(z) if axis else z.max(axis=0)
    low, high = float(top.min()), float(top.max())
    if not high - low < 2 * _RANGE:
        return None
    if max(-low, high) > _RANGE:
        middle = np.float32((low + high) / 2)
        z, top = z - middle, top - middle
    e = np.exp(z)
    terms = max(TERMS, -(-classes // _SUMS))
    total = row_sums(e, terms) if axis else e.sum(axis=0).astype(np.float64)
    summed = total
    if weighted:
        summed = row_products(e, z, terms) if axis else np.einsum("cm,cm->m", e, z).astype(np.float64)
    reach = max(-float(top.min()), float(top.max()), 0.0) + np.log(classes)
    return Totals(
        total, summed, np.exp(top).astype(np.float64), 1.01 * (120 + roundings(classes, terms)) * U, eps, reach
    )


def _largest(z: Singles) -> Singles:
    """The largest number of each row of a contiguous matrix."""
    if z.shape[1] > _SHORT:
        return np.asarray(z.max(axis=1))
    return np.asarray(np.maximum.reduceat(z.ravel(), np.arange(0, z.size, z.shape[1])))
