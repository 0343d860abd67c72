"""Statistics of learning curves over seeds: intervals, areas under the budget curve, label efficiency.

Letters: s seeds, r rounds. Values are accuracies as fractions, seeds first; runs of the same seed are paired
(same seed set, same validation set, same initial weights). `comparisons` tests differences. SciPy is imported inside of
functions: its import takes half a second, and a run that is refused writes no report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Axis = Literal["linear", "log"]

LEVEL = 0.95
RESAMPLES = 2000


class StatisticsError(ValueError):
    """The values do not allow the computation; the message says why."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval; low and high are NaN for a single seed.

    mean, low, high: of one shape; n: seeds.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: int


def mean_interval(values: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Student's confidence interval of the mean over seeds, for each column by itself. values (s, ...)."""
    from scipy.special import stdtrit

    x = _seeds_first(values)
    mean = x.mean(axis=0)
    if len(x) == 1:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), 1)
    half = stdtrit(len(x) - 1, (1 + level) / 2) * x.std(axis=0, ddof=1) / np.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x))


def bootstrap_interval(
    values: npt.ArrayLike, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean over seeds (Efron 1987). values (s,).

    It assumes no distribution, but is too narrow for few seeds: for normally distributed values, the 95 % interval
    contains the true mean in 83 % of cases with five seeds and in 90 % with ten. Tables therefore show Student's
    interval, too.
    """
    from scipy.stats import bootstrap

    x = _seeds_first(values)
    mean = np.asarray(x.mean(axis=0))
    if len(x) == 1:
        return Interval(mean, np.asarray(np.nan), np.asarray(np.nan), 1)
    if np.ptp(x) == 0:
        return Interval(mean, mean, mean, len(x))
    found = bootstrap(
        (x,), np.mean, n_resamples=resamples, confidence_level=level, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(mean, np.asarray(found.low), np.asarray(found.high), len(x))


def area(labels: npt.ArrayLike, values: npt.ArrayLike, axis: Axis = "linear") -> Floats:
    """Area under the budget curve by trapezoids, divided by the width of the budget: the mean accuracy over the budget.

    labels (r,) ascending, values (..., r) -> (...). linear: every label has the same weight; log: every doubling of the
    labels has, so that early rounds have more. Raises StatisticsError for fewer than two rounds.
    """
    x, y = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    if len(x) < 2 or (np.diff(x) <= 0).any() or x[0] <= 0:
        raise StatisticsError(
            f"area under the budget curve: expected two or more ascending label counts, got {x.tolist()}"
        )
    x = np.log(x) if axis == "log" else x
    return np.asarray(np.trapezoid(y, x, axis=-1) / (x[-1] - x[0]))


def labels_needed(labels: npt.ArrayLike, curve: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """The number of labels with which the reference reaches the accuracy that a strategy has in each of its rounds.

    labels (r,) ascending, curve and reference (r,) -> (r,). inf: the reference never reaches the accuracy; -inf: it is
    above the accuracy in its first round. Both curves are made non-decreasing (isotonic regression), because otherwise
    noise in later rounds would favour one of them, and are interpolated linearly between rounds. If the reference has
    the accuracy for a range of labels, the number nearest to the strategy's is taken, so that a curve compared with
    itself needs exactly its own labels.
    """
    x = np.asarray(labels, np.float64)
    return np.asarray([_needed(x, curve, reference, at) for at in range(len(x))])


def _needed(x: Floats, curve: npt.ArrayLike, reference: npt.ArrayLike, at: int) -> float:
    return _labels_at(float(_rising(curve)[at]), x, _rising(reference), float(x[at]))


def _rising(values: npt.ArrayLike) -> Floats:
    y = np.asarray(values, np.float64)
    if (y[1:] >= y[:-1]).all():
        return y
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(y).x)


def _labels_at(wanted: float, x: Floats, y: Floats, near: float) -> float:
    """Labels at which y, non-decreasing, is `wanted`; where that holds for a range of labels, the nearest to `near`."""
    first, behind = (int(np.searchsorted(y, wanted, side=side)) for side in ("left", "right"))
    if behind > first:
        return float(np.clip(near, x[first], x[behind - 1]))
    if first in (0, len(y)):
        return np.inf if first else -np.inf
    share = (wanted - y[first - 1]) / (y[first] - y[first - 1])
    return float(x[first - 1] + share * (x[first] - x[first - 1]))


@dataclass(frozen=True)
class Efficiency:
    """Labels with which the reference reaches the accuracy of a strategy, and a bootstrap interval over paired seeds.

    labels: those that the strategy used; accuracy: of its mean curve, made non-decreasing; needed, low, high: labels of
    the reference (inf: more than in its last round; -inf: fewer than in its first); n: seeds.
    """

    labels: float
    accuracy: float
    needed: float
    low: float
    high: float
    n: int


def label_efficiency(
    labels: npt.ArrayLike,
    values: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    at: int = -1,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Efficiency:
    """How many labels the reference needs for the strategy's mean accuracy at round `at`. Raises StatisticsError for
    values of other shapes.

    labels (r,); values and reference (s, r), a row per seed, in the same order. The interval resamples seeds, both
    curves of a seed together. Its percentiles are moved outwards as far as Student's quantiles lie outside the normal's
    (expanded percentiles, Hesterberg 2015), without which it is much too narrow for ten seeds and fewer.
    """
    from scipy.special import ndtr, stdtrit

    x, ours, theirs = np.asarray(labels, np.float64), _seeds_first(values), _seeds_first(reference)
    if ours.shape != theirs.shape or ours.shape[1] != len(x):
        raise StatisticsError(
            f"label efficiency: expected {len(x)} rounds of paired seeds, got {ours.shape}, {theirs.shape}"
        )
    n, mean = len(ours), ours.mean(axis=0)
    accuracy, needed = float(_rising(mean)[at]), _needed(x, mean, theirs.mean(axis=0), at)
    if n == 1:
        return Efficiency(float(x[at]), accuracy, needed, np.nan, np.nan, 1)
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    means = zip(ours[drawn].mean(axis=1), theirs[drawn].mean(axis=1), strict=True)
    again = [_needed(x, one, other, at) for one, other in means]
    tail = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2))
    # Take observed values: one cannot interpolate between a number and infinity.
    low, high = np.quantile(again, [tail, 1 - tail], method="closest_observation")
    return Efficiency(float(x[at]), accuracy, needed, float(low), float(high), n)


def mean_ranks(values: npt.ArrayLike) -> Floats:
    """Mean rank of each strategy over blocks, each a seed of a setting; 1 is the best, equal values share their mean
    rank.

    values (blocks, strategies), higher is better -> (strategies,).
    """
    from scipy.stats import rankdata

    return np.asarray(rankdata(-np.asarray(values, np.float64), axis=1).mean(axis=0))


def on_grid(grid: npt.ArrayLike, labels: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """A curve interpolated linearly at other label counts (g,); NaN outside of its range. Gives (g,)."""
    x, y = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    return np.asarray(np.interp(np.asarray(grid, np.float64), x, y, left=np.nan, right=np.nan))


def _seeds_first(values: npt.ArrayLike) -> npt.NDArray[Any]:
    x = np.asarray(values, np.float64)
    if x.ndim == 0 or len(x) == 0:
        raise StatisticsError(f"expected values of one seed or more, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise StatisticsError("expected finite values; a seed without a value has to be left out first")
    return x
