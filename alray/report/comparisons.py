"""Whether one strategy is better than another: paired tests over seeds, corrected for the number of comparisons.

Tests: paired t (Student 1908) or Wilcoxon's signed ranks (1945), Holm's correction (1979), Friedman's test (1937) for
ranks. The win matrix counts the settings in which one strategy beats another by the corrected test on one number per
run, the area under the budget curve. It is not the penalty matrix of Ash et al. 2020 (BADGE), which tests at every
budget without a correction and adds 1 / number of budgets for each that is significant.
Letters: s seeds, m strategies, k comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import nctdtr, stdtr, stdtrit

from alray.report.statistics import LEVEL, Floats, StatisticsError, mean_interval

Test = Literal["t", "wilcoxon"]

ALPHA = 0.05
POWER = 0.8
LEAST_SEEDS = 5
"""No claim is made with fewer seeds: the assumption of the t test cannot be checked on so few differences. This number
is a convention of alray's."""


@dataclass(frozen=True)
class Comparison:
    """One strategy minus another, paired by seed. difference with Student's interval (low, high); p: two-sided.

    low and high are NaN where the spread over seeds is unknown: for one seed, and where all seeds have the same
    difference other than 0.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float


def paired(values: npt.ArrayLike, other: npt.ArrayLike, test: Test = "t", level: float = LEVEL) -> Comparison:
    """Compare two strategies, (s,) and (s,), seed by seed. p is NaN for a single seed."""
    one, two = np.asarray(values, np.float64), np.asarray(other, np.float64)
    d, noise = one - two, 1e-12 * max(np.abs(one).max(), np.abs(two).max())  # rounding of floats
    d = np.where(np.abs(d) <= noise, 0.0, d)
    band, alike = mean_interval(d, level), len(d) > 1 and bool(np.ptp(d) <= noise)
    if len(d) < 2:
        p = np.nan
    elif alike and d.any():
        return Comparison(len(d), float(band.mean), np.nan, np.nan, _signs(len(d)))
    else:
        p = _t_test(d) if test == "t" else _wilcoxon(d)
    return Comparison(len(d), float(band.mean), float(band.low), float(band.high), p)


def _t_test(d: Floats) -> float:
    return 1.0 if not d.any() else float(2 * stdtr(len(d) - 1, -abs(d.mean()) / (d.std(ddof=1) / np.sqrt(len(d)))))


def _signs(n: int) -> float:
    """p-value of the exact sign test for n differences of one sign. It replaces the t test where all differences are
    equal, as on tiny test sets, whose accuracies have few values: t would divide by a spread of zero."""
    return float(2.0 ** (1 - n))


def _wilcoxon(d: Floats) -> float:
    return 1.0 if not d.any() else float(stats.wilcoxon(d).pvalue)


def holm(p: npt.ArrayLike) -> Floats:
    """p-values (k,) after Holm's correction: the probability that any of those below alpha is a false claim is at most
    alpha, however they depend on each other. NaN stays NaN and does not count as a comparison."""
    raw = np.asarray(p, np.float64)
    adjusted = np.full(raw.shape, np.nan)
    known = np.flatnonzero(~np.isnan(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    factor = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raw[order] * factor))
    return adjusted


def least_seeds(test: Test, comparisons: int, alpha: float = ALPHA) -> int:
    """The number of seeds that a claim needs. The smallest p-value of Wilcoxon's test is 2^(1-s), times Holm's
    factor."""
    if test == "t":
        return LEAST_SEEDS
    return max(LEAST_SEEDS, int(np.ceil(1 - np.log2(alpha / max(comparisons, 1)))))


def detectable(spread: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The true difference that a paired t test on n seeds finds with the given probability (noncentral t).

    spread: standard deviation of the differences over seeds. NaN for fewer than two seeds.
    """
    if n < 2:
        return np.nan
    critical = stdtrit(n - 1, 1 - alpha / 2)

    def found(effect: float) -> float:
        shift = effect * np.sqrt(n)
        below, above = np.nan_to_num(nctdtr(n - 1, shift, [critical, -critical]))  # NaN: too small for SciPy's series
        return float(1 - below + above)

    low, high = 0.0, 1.0
    while found(high) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < power else (low, middle)
    return high * spread


@dataclass(frozen=True)
class Pair:
    """A comparison of two strategies in one setting. adjusted: its p-value after Holm's correction over all pairs of
    all settings; claimed: whether the difference is significant, with enough seeds."""

    setting: str
    one: str
    other: str
    result: Comparison
    adjusted: float
    claimed: bool


@dataclass(frozen=True)
class Tournament:
    """All pairs of strategies in all settings.

    wins (m, m): settings in which the strategy of the row beats that of the column; met (m, m): settings in which both
    were compared; comparisons: tests made, all of one family; needed: the number of seeds that a claim needs.
    """

    strategies: tuple[str, ...]
    pairs: tuple[Pair, ...]
    wins: npt.NDArray[np.int64]
    met: npt.NDArray[np.int64]
    test: Test
    alpha: float
    comparisons: int
    needed: int

    def pair(self, setting: str, one: str, other: str) -> Pair | None:
        """The comparison of two strategies as one minus other; None where they were not compared."""
        for pair in self.pairs:
            if pair.setting == setting and (pair.one, pair.other) == (one, other):
                return pair
            if pair.setting == setting and (pair.one, pair.other) == (other, one):
                r = pair.result
                turned = Comparison(r.n, -r.difference, -r.high, -r.low, r.p)
                return Pair(setting, one, other, turned, pair.adjusted, pair.claimed)
        return None


Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""setting -> strategy -> seed -> value (higher is better)."""


def tournament(scores: Scores, test: Test = "t", alpha: float = ALPHA, reference: str | None = None) -> Tournament:
    """Compare every pair of strategies in every setting on the seeds they share, corrected over all comparisons.

    reference: compare only with this strategy. These are fewer comparisons, so that each is corrected less.
    """
    names = tuple(sorted({name for methods in scores.values() for name in methods}))
    met = [
        (setting, one, other, common)
        for setting, methods in scores.items()
        for one, other in combinations(sorted(methods), 2)
        if reference in (None, one, other) and (common := sorted(methods[one].keys() & methods[other].keys()))
    ]
    results = [
        paired([scores[s][a][seed] for seed in common], [scores[s][b][seed] for seed in common], test, 1 - alpha)
        for s, a, b, common in met
    ]
    adjusted = holm([result.p for result in results])
    tests = sum(not np.isnan(result.p) for result in results)
    needed = least_seeds(test, tests, alpha)
    pairs = tuple(
        Pair(s, a, b, result, float(p), bool(p < alpha and result.n >= needed))
        for (s, a, b, _), result, p in zip(met, results, adjusted, strict=True)
    )
    return Tournament(names, pairs, *_matrices(names, pairs), test, alpha, tests, needed)


def _matrices(names: Sequence[str], pairs: Sequence[Pair]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    at = {name: i for i, name in enumerate(names)}
    wins, met = np.zeros((2, len(names), len(names)), np.int64)
    for pair in pairs:
        i, j = at[pair.one], at[pair.other]
        met[i, j] += 1
        met[j, i] += 1
        if pair.claimed:
            winner, loser = (i, j) if pair.result.difference > 0 else (j, i)
            wins[winner, loser] += 1
    return wins, met


def tied_with_best(
    result: Tournament, setting: str, scores: Mapping[str, Mapping[int, float]]
) -> tuple[str, frozenset[str]]:
    """The best strategy of a setting, and those that are not significantly worse.

    The best has the highest mean over the seeds that all strategies have, among the strategies that are not
    significantly worse than another. scores: strategy -> seed -> value. Gives "" and an empty set where no seed is
    common to all. Raises StatisticsError for no strategy.
    """
    if not scores:
        raise StatisticsError(f"{setting}: no strategy to rank")
    means = common_means(scores)
    if not means:
        return "", frozenset()
    # A pair is compared on all seeds that it shares: the strategy with the highest mean on fewer seeds may lose there.
    beaten = {
        pair.other if pair.result.difference > 0 else pair.one
        for pair in result.pairs
        if pair.setting == setting and pair.claimed
    }
    best = max(means.keys() - beaten or means, key=lambda name: (means[name], name))
    pairs = {name: result.pair(setting, best, name) for name in means if name != best}
    return best, frozenset(n for n, pair in pairs.items() if not (pair and pair.claimed and pair.result.difference > 0))


def common_means(scores: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Mean of each strategy over the seeds that all of them have, because means over different seeds cannot be
    compared. Empty where no seed is common to all."""
    common = sorted(set.intersection(*(set(values) for values in scores.values())))
    return {n: float(np.mean([values[seed] for seed in common])) for n, values in scores.items()} if common else {}


def friedman(values: npt.ArrayLike) -> float:
    """p-value of Friedman's test of the hypothesis that all strategies have the same rank. values (blocks, m); NaN for
    fewer than 3 strategies or 2 blocks."""
    x = np.asarray(values, np.float64)
    if x.shape[0] < 2 or x.shape[1] < 3:
        return np.nan
    if (x == x[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*x.T).pvalue)
