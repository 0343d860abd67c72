"""Statistics against SciPy and statsmodels, on planted differences, and on strategies that do not differ."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from alray.report.comparisons import (
    detectable,
    friedman,
    holm,
    least_seeds,
    paired,
    tied_with_best,
    tournament,
)
from alray.report.statistics import (
    StatisticsError,
    area,
    bootstrap_interval,
    label_efficiency,
    labels_needed,
    mean_interval,
    mean_ranks,
    on_grid,
)

RNG = np.random.default_rng(0)
A = RNG.normal(0.7, 0.02, 10)
B = A + RNG.normal(0.01, 0.01, 10)


def simulated(strategies: int, seeds: int, gain: float, seed: int, settings: int = 1) -> dict:
    """Accuracies with a part that all strategies of a seed share; the first strategy is better by `gain`."""
    rng = np.random.default_rng(seed)
    scores: dict = {}
    for setting in range(settings):
        shared = rng.normal(0.7, 0.03, seeds)
        own = rng.normal(0, 0.01, (strategies, seeds))
        own[0] += gain
        scores[f"budget {setting}"] = {
            f"s{i}": {k: float(shared[k] + own[i, k]) for k in range(seeds)} for i in range(strategies)
        }
    return scores


def test_mean_interval_is_students() -> None:
    found = mean_interval(np.stack([A, B], axis=1), 0.9)
    for column, values in enumerate((A, B)):
        low, high = stats.t.interval(0.9, 9, values.mean(), stats.sem(values))
        assert found.low[column] == pytest.approx(low, rel=1e-12)
        assert found.high[column] == pytest.approx(high, rel=1e-12)
    one = mean_interval([[0.5, 0.6]])
    assert one.mean.tolist() == [0.5, 0.6]
    assert np.isnan(one.low).all()


def test_intervals_refuse_what_is_not_there() -> None:
    with pytest.raises(StatisticsError, match="finite"):
        mean_interval([0.1, np.nan])
    with pytest.raises(StatisticsError, match="shape"):
        mean_interval([])


def test_mean_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = mean_interval(rng.normal(0.5, 0.1, (6, 4000)), 0.95)
    covered = ((found.low <= 0.5) & (found.high >= 0.5)).mean()
    assert 0.94 < covered < 0.96


def test_bootstrap_is_scipys_and_repeats() -> None:
    found = bootstrap_interval(A, seed=3)
    expected = stats.bootstrap((A,), np.mean, n_resamples=2000, rng=np.random.default_rng(3)).confidence_interval
    assert (float(found.low), float(found.high)) == (expected.low, expected.high)
    assert found.low < A.mean() < found.high
    same = bootstrap_interval([0.5, 0.5, 0.5])
    assert (float(same.low), float(same.high)) == (0.5, 0.5)


@pytest.mark.parametrize("values", [B, A, np.r_[A[:5], B[5:]]])
def test_paired_t_is_scipys(values: np.ndarray) -> None:
    found, expected = paired(values, A), stats.ttest_rel(values, A)
    if np.array_equal(values, A):
        assert (found.p, found.difference) == (1.0, 0.0)
        return
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_paired_wilcoxon_is_scipys() -> None:
    assert paired(B, A, "wilcoxon").p == stats.wilcoxon(B - A).pvalue
    assert paired(A, A, "wilcoxon").p == 1.0


def test_pairing_is_used() -> None:
    """Seeds that are hard for everybody do not hide a small, constant gain."""
    hard = np.linspace(0, 0.3, 8)
    gain = 0.01 + 0.001 * np.arange(8)
    assert paired(0.6 + hard + gain, 0.6 + hard).p < 1e-5
    assert stats.ttest_ind(0.6 + hard + gain, 0.6 + hard).pvalue > 0.5


def test_holm_is_statsmodels() -> None:
    p = np.random.default_rng(0).random(40) ** 4
    assert np.allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.01, np.nan, 0.03])
    assert np.isnan(found[1])
    assert found[[0, 2]].tolist() == pytest.approx([0.02, 0.03])


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_detectable_difference_is_statsmodels(n: int) -> None:
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert detectable(0.02, n) == pytest.approx(0.02 * expected, rel=1e-4)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.05), (6, 0.05), (3, 0.001), (5, 0.001), (5, 0.01)])
def test_detectable_difference_is_found_that_often(n: int, alpha: float) -> None:
    """For few seeds and low levels SciPy's noncentral t has holes, and statsmodels does not find the end."""
    d = np.random.default_rng(0).normal(detectable(0.01, n, alpha), 0.01, (20_000, n))
    p = stats.ttest_1samp(d, 0.0, axis=1).pvalue
    assert [paired(values, 0 * values).p for values in d[:5]] == pytest.approx(p[:5])
    assert 0.79 < (p < alpha).mean() < 0.81


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
@pytest.mark.parametrize("seeds", [5, 8])
def test_without_spread_the_signs_are_counted(test: str, seeds: int) -> None:
    """All seeds gain one image of a hundred: that is rounding, and no proof of any strength."""
    values = np.linspace(0.5, 0.6, seeds)
    found = paired(values + 0.01, values, test)  # type: ignore[arg-type]
    assert found.p == pytest.approx(stats.binomtest(seeds, seeds).pvalue)
    assert found.difference == pytest.approx(0.01)
    assert np.isnan(found.low) and np.isnan(found.high)
    assert paired(values, values, test).p == 1.0  # type: ignore[arg-type]


def test_one_image_more_or_less_is_not_declared_different() -> None:
    """Each of five seeds gains or loses one image by chance: in 2 of 32 cases all do the same, which is no claim."""
    signs = np.array(list(product([-1, 1], repeat=5)))
    assert np.mean([paired(0.5 + 0.01 * s, np.full(5, 0.5)).p < 0.05 for s in signs]) < 0.05


def test_area_by_hand() -> None:
    assert area([100, 200, 400], [0.2, 0.4, 0.6]) == pytest.approx((100 * 0.3 + 200 * 0.5) / 300)
    assert area([100, 200, 400], [0.2, 0.4, 0.6], "log") == pytest.approx((0.3 + 0.5) / 2)
    assert area([1, 5, 9], [[0.5] * 3, [0.7] * 3], "log").tolist() == pytest.approx([0.5, 0.7])
    for labels in ([100], [100, 100], [200, 100], [0, 100]):
        with pytest.raises(StatisticsError, match="ascending"):
            area(labels, np.zeros(len(labels)))


def test_labels_for_an_accuracy() -> None:
    labels, curve = [100, 200, 300, 400], [0.5, 0.6, 0.58, 0.7]  # isotonic: 0.5, 0.59, 0.59, 0.7
    assert labels_needed(labels, [0.5, 0.545, 0.59, 0.645], curve).tolist() == pytest.approx([100, 150, 300, 350])
    assert labels_needed(labels, [0.49, 0.59, 0.7, 0.71], curve).tolist() == [-np.inf, 200, 400, np.inf]


def test_label_efficiency_of_a_known_gain() -> None:
    """The strategy reaches with n labels what random reaches with 2 n."""
    labels = np.array([100.0, 200, 300, 400, 500, 600, 700, 800])
    noise = np.random.default_rng(0).normal(0, 0.003, (10, 1))
    random = 0.1 * np.log2(labels / 100) + noise
    ours = random + 0.1
    at_400 = label_efficiency(labels, ours, random, at=3)
    assert (at_400.labels, at_400.needed) == (400, pytest.approx(800, rel=0.02))
    assert at_400.low <= at_400.needed <= at_400.high
    assert label_efficiency(labels, ours, random).needed == np.inf
    same = label_efficiency(labels, random, random, at=3)
    assert (same.needed, same.low, same.high) == pytest.approx((400, 400, 400))
    with pytest.raises(StatisticsError, match="paired"):
        label_efficiency(labels, ours, random[:5])


DIPS = ([0.60, 0.68, 0.70, 0.695, 0.702], [0.5, 0.6, 0.62, 0.6, 0.61], [0.7, 0.6, 0.6, 0.5, 0.4])
FIVE = np.array([100.0, 200, 300, 400, 500])


@pytest.mark.parametrize("curve", DIPS)
def test_a_curve_needs_its_own_labels(curve: list[float]) -> None:
    """Exactly, in every round and every resample, whatever rounds noise has bent down."""
    same = np.array(curve) + np.random.default_rng(0).normal(0, 0.003, (10, 5))
    assert labels_needed(FIVE, curve, curve).tolist() == FIVE.tolist()
    for at in range(5):
        found = label_efficiency(FIVE, same, same, at=at, resamples=200)
        assert (found.needed, found.low, found.high) == (FIVE[at],) * 3


def equals(curve: list[float], seeds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two strategies with the same true curve, and a part that a seed shares."""
    shared, noise = rng.normal(0, 0.01, (seeds, 1)), rng.normal(0, 0.006, (2, seeds, 5))
    one, other = np.array(curve) + shared + noise
    return one, other


@pytest.mark.parametrize("at", [1, 2, 3])
def test_of_equal_strategies_none_saves_labels_more_often(at: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [equals([0.5, 0.60, 0.605, 0.605, 0.606], 10, rng) for _ in range(400)]
    needed = np.array([label_efficiency(FIVE, *pair, at=at, resamples=1).needed for pair in pairs])
    assert 0.44 < (needed > FIVE[at]).mean() < 0.56
    assert 0.44 < (needed < FIVE[at]).mean() < 0.56


def test_the_interval_of_label_efficiency_covers() -> None:
    """Percentiles that are not moved outwards hold the true labels in 85 % of cases at five seeds."""
    rng = np.random.default_rng(0)
    pairs = [equals([0.5, 0.55, 0.6, 0.65, 0.7], 5, rng) for _ in range(200)]
    found = [label_efficiency(FIVE, *pair, at=2, resamples=400) for pair in pairs]
    assert 0.9 < np.mean([one.low <= 300 <= one.high for one in found]) < 0.99


def test_where_the_reference_stands_still_the_nearest_labels_count() -> None:
    flat = [0.5, 0.6, 0.6, 0.6, 0.7]
    assert labels_needed(FIVE, [0.4, 0.5, 0.5, 0.6, 0.8], flat).tolist() == [-np.inf, 100, 100, 400, np.inf]
    assert labels_needed(FIVE, [0.6, 0.6, 0.6, 0.6, 0.6], flat).tolist() == [200, 200, 300, 400, 400]


def test_mean_ranks_and_friedman() -> None:
    values = np.array([[0.9, 0.8, 0.8], [0.7, 0.9, 0.1]])
    assert mean_ranks(values).tolist() == [1.5, 1.75, 2.75]
    x = np.random.default_rng(0).random((12, 4))
    assert friedman(x) == pytest.approx(stats.friedmanchisquare(*x.T).pvalue)
    assert np.isnan(friedman(x[:, :2]))
    assert friedman(np.ones((5, 3))) == 1.0


def test_on_grid_reads_between_and_not_beyond() -> None:
    found = on_grid([50, 150, 250], [100, 200], [0.1, 0.3])
    assert found[1] == pytest.approx(0.2)
    assert np.isnan(found[[0, 2]]).all()


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_a_planted_difference_is_found_and_no_other(test: str) -> None:
    found = tournament(simulated(5, 12, 0.03, seed=0, settings=2), test)  # type: ignore[arg-type]
    first = found.strategies.index("s0")
    assert found.wins[first].tolist() == [0, 2, 2, 2, 2]
    assert found.wins.sum() == 8
    assert (found.met + np.diag([2] * 5) == 2).all()
    assert found.comparisons == 20


@pytest.mark.parametrize(("test", "seeds"), [("t", 5), ("t", 10), ("wilcoxon", 12)])
def test_equal_strategies_are_not_declared_different(test: str, seeds: int) -> None:
    """Over many sweeps of six equal strategies, one with any claim comes at most as often as the level says."""
    sweeps = 400 if test == "t" else 150  # SciPy needs a millisecond for each of Wilcoxon's
    claimed = [tournament(simulated(6, seeds, 0.0, seed=i), test).wins.any() for i in range(sweeps)]  # type: ignore[arg-type]
    assert stats.binomtest(int(np.sum(claimed)), sweeps, 0.05, alternative="greater").pvalue > 0.01
    assert test == "wilcoxon" or np.sum(claimed) > 0  # the check can fail


def test_without_the_correction_equal_strategies_would_be_declared_different() -> None:
    raw = [min(pair.result.p for pair in tournament(simulated(6, 10, 0.0, seed=i)).pairs) < 0.05 for i in range(100)]
    assert np.mean(raw) > 0.2


def test_too_few_seeds_claim_nothing() -> None:
    few = tournament(simulated(3, 4, 0.5, seed=0))
    assert few.needed == 5
    assert not few.wins.any()
    assert min(pair.adjusted for pair in few.pairs) < 0.05
    assert least_seeds("wilcoxon", 15) == 10  # 2^-9 * 15 = 0.03; with nine seeds 0.06
    assert least_seeds("wilcoxon", 1) == 6
    single = tournament(simulated(3, 1, 0.5, seed=0))
    assert (single.comparisons, single.wins.sum()) == (0, 0)


def test_only_shared_seeds_are_compared() -> None:
    scores = simulated(2, 8, 0.05, seed=0)
    del scores["budget 0"]["s0"][3]
    scores["budget 0"]["s1"][99] = 0.0
    (pair,) = tournament(scores).pairs
    assert pair.result.n == 7
    expected = [scores["budget 0"]["s0"][k] - scores["budget 0"]["s1"][k] for k in (0, 1, 2, 4, 5, 6, 7)]
    assert pair.result.difference == pytest.approx(np.mean(expected))


def test_against_a_reference_fewer_comparisons_are_corrected_for() -> None:
    scores = simulated(5, 10, 0.02, seed=0)
    everyone, against = tournament(scores), tournament(scores, reference="s0")
    assert (everyone.comparisons, against.comparisons) == (10, 4)
    assert all("s0" in (pair.one, pair.other) for pair in against.pairs)
    one, other = (found.pair("budget 0", "s0", "s3") for found in (everyone, against))
    assert one is not None and other is not None
    assert one.result == other.result
    assert other.adjusted <= one.adjusted


def test_the_best_and_its_ties() -> None:
    scores = simulated(3, 12, 0.0, seed=1)
    for k in range(12):
        scores["budget 0"]["bad"] = {k: scores["budget 0"]["s0"][k] - 0.1 + 0.001 * k for k in range(12)}
    found = tournament(scores)
    best, ties = tied_with_best(found, "budget 0", scores["budget 0"])
    assert {best, *ties} == {"s0", "s1", "s2"}
    turned = found.pair("budget 0", "s0", "bad")
    assert turned is not None
    assert turned.result.difference > 0
    assert turned.result.low < turned.result.difference < turned.result.high
    assert found.pair("budget 0", "s0", "nobody") is None


def test_the_best_is_that_of_the_seeds_that_all_have() -> None:
    """`hard` is the better on every seed that both have, and was alone on three hard ones."""
    hard = {k: 0.6 + 0.02 * k for k in range(10)}
    lucky = {k: hard[k] - 0.001 * (1 + k % 2) for k in range(3, 10)}
    scores = {"": {"hard": hard, "lucky": lucky}}
    assert np.mean(list(lucky.values())) > np.mean(list(hard.values()))
    assert tied_with_best(tournament(scores), "", scores[""]) == ("hard", frozenset())
    disjoint = {"a": {0: 0.5, 1: 0.6}, "b": {2: 0.5, 3: 0.6}}
    assert tied_with_best(tournament({"": disjoint}), "", disjoint) == ("", frozenset())


def test_what_is_shown_to_be_worse_is_not_the_best() -> None:
    """On the one seed that all have, `a` is highest; on all that it shares with `b`, it is shown to be worse."""
    b = {k: 0.6 + 0.02 * k for k in range(10)}
    a = {k: b[k] + (0.05 if k == 0 else -0.09 - 0.001 * k) for k in range(10)}
    scores = {"": {"a": a, "b": b, "c": {0: 0.1}}}
    found = tournament(scores)
    pair = found.pair("", "a", "b")
    assert pair is not None and pair.claimed and pair.result.difference < 0
    assert tied_with_best(found, "", scores[""]) == ("b", frozenset({"c"}))


def test_in_a_circle_of_claims_nobody_is_worse_for_being_better() -> None:
    """Each beats the next on seeds that the third does not have: then the highest mean counts, and its claims."""
    seeds = {0: 0.5}
    scores: dict[str, dict[str, dict[int, float]]] = {"": {name: dict(seeds) for name in "abc"}}
    for start, (winner, loser) in zip((10, 20, 30), ("ab", "bc", "ca"), strict=True):
        for k in range(start, start + 8):
            scores[""][winner][k], scores[""][loser][k] = 0.9 + 0.001 * (k % 3), 0.5
    scores[""]["c"][0] = 0.6
    assert tied_with_best(tournament(scores), "", scores[""]) == ("c", frozenset({"b"}))
