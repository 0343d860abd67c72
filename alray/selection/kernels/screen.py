"""Which rows can score as much as rows that were seen before, and what they score: told by one exponential per logit.

With S = sum exp(z) and B = sum exp(z) z over all classes, and e = exp(z_(1)), the uncertainty of a row, whose logarithm
is the score, is

    odds     S / e - 1,
    margin   1 - e (1 - exp(-gap)) / S,
    entropy  log S - B / S.

That is all that plain code computes. Where rows are certain, these differences cancel: thresholds that are so small are
not screened. An argument of an exp is good to 104 u, the exp to 3 ulp, a sum of t float32 terms to t u. So S and e are
good to w = (120 + t) u, relatively, and the entropy to w (2 |z_(1)| + 2 log c + 3), as the mean of z_(1) - z is at most
the entropy; z_(1) is between log S - log c and log S. If every logit moves by eps, S / e is multiplied by at most
exp(2 eps), and a score moves by at most 2 eps. Letters: m rows, c classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from alray.selection.kernels.logits import Floats, Positions, Singles, U
from alray.selection.kernels.room import Room
from alray.selection.kernels.short_sums import roundings, row_products, row_sums

_RANGE = 60.0  # float32 holds sums of exp(z) from exp(-60) to exp(60), and all terms that matter beside them
BY_CLASS = 48  # with so many classes or fewer, a block is worked on class by class
_SHORT = 512  # columns of rows whose largest numbers `reduceat` finds faster
_ROUNDING = 2.0**-38  # of scores in float64
_ROUGH = 2.0**-10  # an interval of scores that is wider is too wide
Mask = npt.NDArray[np.bool_]
Interval = tuple[Floats, Floats]


@dataclass(frozen=True)
class Totals:
    """total S, and other: B or e, whichever the uncertainty is made of, each (m,), of logits from which one number was
    subtracted; rounded: w; eps (m,), or (1,) for all; reach: at least the largest |z_(1)|, and the logarithm of c."""

    total: Floats
    other: Floats
    rounded: float
    eps: Floats
    reach: float

    def __getitem__(self, at: Positions) -> Totals:
        eps = self.eps if len(self.eps) == 1 else self.eps[at]
        return Totals(self.total[at], self.other[at], self.rounded, eps, self.reach)

    @cached_property
    def wide(self) -> Floats:
        """With rounding and errors of the logits, S / e is off by a factor of at most 1 + `wide`."""
        with np.errstate(over="ignore"):
            return np.asarray(2 * (self.rounded + np.expm1(2 * self.eps)))


@dataclass(frozen=True)
class Told:
    """Rows that may score what is wanted: their positions (p,), ascending, both ends of their scores (p,), and which
    intervals are too wide to be of use (p,)."""

    at: Positions
    low: Floats
    high: Floats
    rough: Mask


@dataclass(frozen=True)
class Screen:
    """could(totals, gap, least): the rows (m,) that may score `least`. ends(totals, gap): both ends (m,) of their
    uncertainty. smallest: thresholds under it are not screened. weighted: whether B is read, else e; gapped: whether
    gaps are read."""

    could: Callable[[Totals, Floats, float], Mask]
    ends: Callable[[Totals, Floats], Interval]
    smallest: float
    weighted: bool = False
    gapped: bool = False

    def rows(self, z: Singles, eps: Floats, gap: Floats, least: float, room: Room) -> Told | None:
        """The rows of usable logits (m, c) that may score `least`, all for -infinity; None where that is not told. gap:
        z_(1) - z_(2), (m,), if it is read."""
        if -np.inf < least <= self.smallest:
            return None
        totals = totals_of(z, eps if eps.any() else np.zeros(1), self.weighted, room)
        if totals is None:
            return None
        if least == -np.inf:
            at, few = np.arange(len(z)), totals
        else:
            at = np.flatnonzero(self.could(totals, gap, least - _ROUNDING))
            few, gap = totals[at], gap[at] if self.gapped else gap
        with np.errstate(all="ignore"):  # the ends may be negative or infinite
            low, high = self.ends(few, gap)
            return Told(at, np.log(low) - _ROUNDING, np.log(high) + _ROUNDING, ~(high <= low * (1 + _ROUGH)))


def _odds(totals: Totals, gap: Floats, least: float) -> Mask:
    return np.asarray(totals.total * (1 + totals.wide) >= (1 + np.exp(least)) * totals.other)


def _odds_between(totals: Totals, gap: Floats) -> Interval:
    ratio, wide = totals.total / totals.other, 1 + totals.wide
    return ratio / wide - 1, ratio * wide - 1


def _margin(totals: Totals, gap: Floats, least: float) -> Mask:
    apart = -np.expm1(-np.maximum(gap - 2 * totals.eps, 0.0))
    return np.asarray(totals.other * apart <= (_ROUNDING - np.expm1(least)) * totals.total * (1 + totals.wide))


def _margin_between(totals: Totals, gap: Floats) -> Interval:
    share, wide, off = totals.other / totals.total, 1 + totals.wide, 2 * totals.eps
    return 1 + np.expm1(-(gap + off)) * share * wide, 1 + np.expm1(-np.maximum(gap - off, 0.0)) * share / wide


def _entropy(totals: Totals, gap: Floats, least: float) -> Mask:
    entropy = np.log(totals.total) - totals.other / totals.total
    entropy += _entropy_off(totals)
    return np.asarray(entropy >= np.exp(least - 2 * totals.eps))


def _entropy_between(totals: Totals, gap: Floats) -> Interval:
    entropy, off = np.log(totals.total) - totals.other / totals.total, _entropy_off(totals)
    return (entropy - off) * np.exp(-2 * totals.eps), (entropy + off) * np.exp(2 * totals.eps)


def _entropy_off(totals: Totals) -> float:
    return totals.rounded * (2.1 * totals.reach + 3)


ODDS = Screen(_odds, _odds_between, -5.0)
MARGIN = Screen(_margin, _margin_between, -5.0, gapped=True)
ENTROPY = Screen(_entropy, _entropy_between, -3.0, weighted=True)


def totals_of(z: Singles, eps: Floats, weighted: bool, room: Room) -> Totals | None:
    """What the scores of rows are made of; None where logits differ too much from row to row, or are not finite."""
    lines = np.ascontiguousarray(z) if z.shape[1] > BY_CLASS else room.transposed(z)
    with np.errstate(all="ignore"):
        middle = float(z[0].max())
        totals = _totals_around(lines, z.shape[1], eps, weighted, middle if abs(middle) > _RANGE else 0.0, room)
        if totals is not None:
            return totals
        top = largest(lines, z.shape[1])
        low, high = float(top.min()), float(top.max())
        if not high - low < 2 * _RANGE:
            return None
        return _totals_around(lines, z.shape[1], eps, weighted, (low + high) / 2, room)


def _totals_around(
    lines: Singles, classes: int, eps: Floats, weighted: bool, middle: float, room: Room
) -> Totals | None:
    """Totals of logits from which `middle` is subtracted. lines: (m, c), or (c, m) for few classes."""
    by_row, z = classes > BY_CLASS, lines
    if middle:
        z = np.subtract(lines, np.float32(middle), out=room.take("around", lines.shape))
    e = np.exp(z, out=room.take("exponentials", lines.shape))
    total = row_sums(e) if by_row else e.sum(axis=0).astype(np.float64)
    low, high = np.log(float(total.min())), np.log(float(total.max()))
    if not -_RANGE < low <= high < _RANGE:
        return None
    if not weighted:
        other = largest(e, classes).astype(np.float64)
    else:
        other = row_products(e, z) if by_row else np.einsum("cm,cm->m", e, z).astype(np.float64)
        if not np.isfinite(other).all():
            return None
    reach = max(high, np.log(classes) - low) + np.log(classes)
    return Totals(total, other, 1.01 * (120 + roundings(classes)) * U, eps, reach)


def largest(lines: Singles, classes: int) -> Singles:
    """The largest number of each row, (m,). lines: (m, c), or (c, m) for few classes."""
    if classes <= BY_CLASS:
        return np.asarray(lines.max(axis=0))
    if classes > _SHORT:
        return np.asarray(lines.max(axis=1))
    return np.asarray(np.maximum.reduceat(lines.ravel(), np.arange(0, lines.size, classes)))
