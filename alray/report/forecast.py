"""How many labels does an accuracy need? A learning curve is fitted and continued, with an interval.

The error falls as a power of the number of labels n towards a floor: e(n) = a + b n^-c (Hestness et al. 2017; Mahmood
et al. 2022). The parameters are weighed by how well they fit (a grid over c and a, with b and the noise integrated in
closed form under weak priors), and curves are drawn from them: a parametric bootstrap. An interval therefore covers
both the uncertainty of the curve and, for an accuracy that is yet to be measured, the noise of that measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.report.metrics import is_metric
from alray.rundir import RunDir
from alray.scalars import flat

Floats = npt.NDArray[np.float64]

_EXPONENTS = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3])
_FLOORS = np.linspace(0, 1, 41)  # shares of the smallest error so far
_PRIOR_FREEDOM, _PRIOR_NOISE = 1.0, 0.002  # degrees of freedom and standard deviation of the prior of the noise
_DRAWS = 4000
_FAR = 4.0  # times the labels so far; beyond, the power law was not tested
LEAST_POINTS = 4


class ForecastError(ValueError):
    """A forecast cannot be made. The message says what is missing."""


@dataclass(frozen=True)
class Forecast:
    """Labels that a target needs. low, middle, high: quantiles 0.05, 0.5 and 0.95 of the total number of labels,
    infinite where the curve does not reach the target. reached: share of the drawn curves that reach it at all. far:
    whether the middle is so far beyond the measured rounds that the curve is a guess."""

    target: float
    low: float
    middle: float
    high: float
    reached: float
    far: bool


@dataclass(frozen=True)
class Curve:
    """Curves that fit a run. last: the number of labels of the last point; floor, slope, exponent, noise (d,): one
    entry per drawn curve, e(n) = floor + slope (n / last)^-exponent."""

    last: float
    floor: Floats
    slope: Floats
    exponent: Floats
    noise: Floats
    seed: int

    def accuracy(self, labels: Sequence[float] | Floats, level: float = 0.9) -> Floats:
        """(k, 3): low end, median and high end of the accuracy that will be measured with `labels` (k,) labels, with
        this probability between the ends."""
        n = np.asarray(labels, np.float64)
        error = self.floor[:, None] + self.slope[:, None] * (n[None] / self.last) ** -self.exponent[:, None]
        noise = np.random.default_rng(self.seed).standard_normal(error.shape)
        measured = np.clip(1 - error - self.noise[:, None] * noise, 0, 1)
        tail = (1 - level) / 2
        return np.asarray(np.quantile(measured, [tail, 0.5, 1 - tail], axis=0).T)

    def needs(self, target: float) -> Forecast:
        """The labels at which the curve itself, without the noise of a measurement, reaches an accuracy."""
        gap = 1 - target - self.floor
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            needed = self.last * (self.slope / gap) ** (1 / self.exponent)
        needed = np.where(gap > 0, needed, np.inf)
        low, middle, high = np.quantile(needed, [0.05, 0.5, 0.95], method="higher")
        return Forecast(target, low, middle, high, float(np.isfinite(needed).mean()), bool(middle > _FAR * self.last))


def fit(labels: Sequence[float], accuracy: Sequence[float], seed: int = 0) -> Curve:
    """Fit a learning curve. labels (r,) ascending, accuracy (r,) fractions of a test or validation set.

    Raises ForecastError for fewer than 4 points or values that are no accuracies.
    """
    n, y = np.asarray(labels, np.float64), np.asarray(accuracy, np.float64)
    if len(n) < LEAST_POINTS:
        raise ForecastError(f"expected at least {LEAST_POINTS} rounds to fit a learning curve, got {len(n)}")
    if not (np.isfinite(y).all() and (y >= 0).all() and (y <= 1).all() and (np.diff(n) > 0).all() and n[0] > 0):
        raise ForecastError("expected ascending numbers of labels and accuracies from 0 to 1, got others")
    error, scaled = 1 - y, n / n[-1]
    exponent, share = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _FLOORS, indexing="ij"))
    floor = share * error.min()
    x = scaled[None] ** -exponent[:, None]
    above = error[None] - floor[:, None]
    power = (x * x).sum(axis=1)
    slope = np.maximum((x * above).sum(axis=1) / power, 0)
    freedom = len(n) - 2 + _PRIOR_FREEDOM
    spread = ((above - slope[:, None] * x) ** 2).sum(axis=1) + _PRIOR_FREEDOM * _PRIOR_NOISE**2
    weight = -freedom / 2 * np.log(spread) - np.log(power) / 2
    weight = np.exp(weight - weight.max())
    rng = np.random.default_rng(seed)
    at = rng.choice(len(weight), _DRAWS, p=weight / weight.sum())
    noise = np.sqrt(spread[at] / rng.chisquare(freedom, _DRAWS))
    drawn = np.maximum(slope[at] + noise / np.sqrt(power[at]) * rng.standard_normal(_DRAWS), 0)
    return Curve(float(n[-1]), floor[at], drawn, exponent[at], noise, seed)


def sentences(run: RunDir, target: float, measure: str = "", cost: float = 0.0) -> list[str]:
    """A forecast for people. measure: a scalar of the rounds, empty for the accuracy on the test or validation set;
    cost: price of a label. Raises ForecastError."""
    rounds = [flat(run.round(number).metrics()) for number in run.committed()]
    names = [measure] if measure else ["test_top1", "validation_top1"]
    name = next((name for name in names if rounds and rounds[-1].get(name) is not None), None)
    known = [name for name, value in rounds[-1].items() if value is not None and is_metric(name)] if rounds else []
    if measure and known and name not in known:
        raise ForecastError(f"measure: expected one of {', '.join(known)}, got {measure}")
    if not rounds:
        raise ForecastError(f"{run.uri}: expected finished rounds, got none")
    if name is None:
        raise ForecastError(
            f"{run.uri}: expected finished rounds with {' or '.join(names)}, got {len(rounds)} without: a forecast "
            "needs an accuracy after each round. A run has one that is started with a labeled test or validation set "
            "(data.test_root, split.test_share, split.test_list, split.val_size, split.val_list). The accuracy of the "
            f"last round alone can still be estimated: `alray label {run.uri} --test N` asks for labels of N images, "
            f"and `alray estimate {run.uri}` tells it"
        )
    measured = {one["labels"]: one[name] for one in rounds if one.get(name) is not None}
    curve = fit(list(measured), list(measured.values()))
    now, best = int(curve.last), max(measured.values())
    found = [f"{name} is {measured[now]:.3f} with {now:,} labels (at best {best:.3f}), after {len(measured)} rounds."]
    steps = [2 * now, 4 * now]
    for n, (low, middle, high) in zip(steps, curve.accuracy(steps), strict=True):
        found.append(f"With {n:,} labels it will be {middle:.3f} (90 % interval {low:.3f} to {high:.3f}).")
    return found + _needed(curve.needs(target), now, cost)


def _needed(need: Forecast, now: int, cost: float) -> list[str]:
    if need.reached < 0.5:
        return [
            f"{need.target:.3f} is probably never reached this way: only {need.reached:.0%} of the curves that fit get "
            "there with any number of labels. A better backbone or more training may help more than labels."
        ]
    ends = [f"{max(0.0, n - now):,.0f}" if np.isfinite(n) else "no number" for n in (need.low, need.middle, need.high)]
    line = f"{need.target:.3f} needs {ends[1]} more labels (90 % interval {ends[0]} to {ends[2]}"
    if cost:
        money = [f"{cost * max(0.0, n - now):,.2f}" if np.isfinite(n) else "no sum" for n in (need.low, need.high)]
        line += f"; {money[0]} to {money[1]} at {cost:g} per label"
    far = [f"This looks further ahead than {_FAR:g} times the labels so far: take it as a guess."] if need.far else []
    return [f"{line}).", *far]
