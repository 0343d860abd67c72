"""What may be said of learning curves over seeds: intervals, areas under the budget curve, label efficiency.

Letters: s seeds, r rounds. Values are accuracies as fractions, seeds first; runs of the same seed are paired
(same seed set, same validation set, same initial weights). Whether a difference is real is asked in `comparisons`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import isotonic_regression
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]
Axis = Literal["linear", "log"]

LEVEL = 0.95
RESAMPLES = 2000


class StatisticsError(ValueError):
    """Values from which no such number can be computed."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and where the true one lies; low and high are NaN when one seed says nothing about the spread.

    mean, low, high: of one shape; n: seeds.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: int


def mean_interval(values: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Student's confidence interval of the mean over seeds, for each column of its own. values (s, ...)."""
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

    Assumes no distribution, but needs seeds: below about ten it is too narrow, which is why tables show Student's, too.
    """
    x = _seeds_first(values)
    mean = np.asarray(x.mean(axis=0))
    if len(x) == 1:
        return Interval(mean, np.asarray(np.nan), np.asarray(np.nan), 1)
    if np.ptp(x) == 0:
        return Interval(mean, mean, mean, len(x))
    found = stats.bootstrap(
        (x,), np.mean, n_resamples=resamples, confidence_level=level, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(mean, np.asarray(found.low), np.asarray(found.high), len(x))


def area(labels: npt.ArrayLike, values: npt.ArrayLike, axis: Axis = "linear") -> Floats:
    """Area under the budget curve by trapezoids, over the width of the budget: an accuracy, the mean over the budget.

    labels (r,) ascending, values (..., r) -> (...). linear: every label counts the same; log: every doubling does, so
    that the first rounds count more. Raises StatisticsError for fewer than two rounds.
    """
    x, y = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    if len(x) < 2 or (np.diff(x) <= 0).any() or x[0] <= 0:
        raise StatisticsError(
            f"area under the budget curve: expected two or more ascending label counts, got {x.tolist()}"
        )
    x = np.log(x) if axis == "log" else x
    return np.asarray(np.trapezoid(y, x, axis=-1) / (x[-1] - x[0]))


def labels_for(accuracy: npt.ArrayLike, labels: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """Labels at which a curve reaches an accuracy: the curve is made non-decreasing (isotonic regression) and read
    between its rounds along straight lines.

    labels (r,) ascending, values (r,). inf: higher than the curve ever gets; -inf: lower than where it starts, so that
    it needed fewer labels than were measured.
    """
    x = np.asarray(labels, np.float64)
    y = np.asarray(isotonic_regression(np.asarray(values, np.float64)).x)
    found = []
    for wanted in np.atleast_1d(np.asarray(accuracy, np.float64)):
        after = int(np.searchsorted(y, wanted, side="left"))  # the first round at least as good
        if after == len(y):
            found.append(np.inf)
        elif after == 0:
            found.append(x[0] if wanted == y[0] else -np.inf)
        else:
            share = (wanted - y[after - 1]) / (y[after] - y[after - 1])
            found.append(x[after - 1] + share * (x[after] - x[after - 1]))
    return np.asarray(found).reshape(np.shape(accuracy))


@dataclass(frozen=True)
class Efficiency:
    """Labels the reference needs for what a strategy reaches, and a bootstrap interval over paired seeds.

    labels: what the strategy used; accuracy: its mean there; needed, low, high: labels of the reference (inf: more than
    it was given; -inf: fewer than its first round has). The quotient of both is 1 where the strategy gains nothing.
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
    """How many labels the reference needs for the strategy's mean accuracy at round `at`.

    labels (r,); values and reference (s, r): row by row the same seed. The interval resamples seeds, both curves of a
    seed together.
    """
    x, ours, theirs = np.asarray(labels, np.float64), _seeds_first(values), _seeds_first(reference)
    if ours.shape != theirs.shape or ours.shape[1] != len(x):
        raise StatisticsError(
            f"label efficiency: expected {len(x)} rounds of paired seeds, got {ours.shape}, {theirs.shape}"
        )
    accuracy = float(ours[:, at].mean())
    needed = float(labels_for(accuracy, x, theirs.mean(axis=0)))
    n = len(ours)
    if n == 1:
        return Efficiency(float(x[at]), accuracy, needed, np.nan, np.nan, 1)
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    again = [float(labels_for(ours[d, at].mean(), x, theirs[d].mean(axis=0))) for d in drawn]
    # infinities have no place between two numbers: take one that was drawn
    low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2], method="closest_observation")
    return Efficiency(float(x[at]), accuracy, needed, float(low), float(high), n)


def mean_ranks(values: npt.ArrayLike) -> Floats:
    """Mean rank of each strategy over blocks (a seed of a setting each), 1 the best; equal values share their ranks.

    values (blocks, strategies), higher is better -> (strategies,).
    """
    return np.asarray(stats.rankdata(-np.asarray(values, np.float64), axis=1).mean(axis=0))


def on_grid(grid: npt.ArrayLike, labels: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """A curve read at other label counts, along straight lines; NaN beyond what was measured. Gives (g,)."""
    x, y = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    return np.asarray(np.interp(np.asarray(grid, np.float64), x, y, left=np.nan, right=np.nan))


def _seeds_first(values: npt.ArrayLike) -> npt.NDArray[Any]:
    x = np.asarray(values, np.float64)
    if x.ndim == 0 or len(x) == 0:
        raise StatisticsError(f"expected values of one seed or more, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise StatisticsError("expected finite values; a seed without a value has to be left out first")
    return x
