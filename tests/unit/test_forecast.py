"""A learning curve is continued with an interval that covers what comes."""

from __future__ import annotations

import numpy as np
import pytest

from alray.report.forecast import ForecastError, fit

LABELS = 1000.0 * np.arange(1, 9)


def curve(n, floor=0.05, slope=0.3, exponent=0.5):
    return 1 - floor - slope * (np.asarray(n) / 1000) ** -exponent


def test_a_curve_without_noise_is_continued_exactly():
    low, middle, high = fit(LABELS, curve(LABELS)).accuracy([32_000.0])[0]
    truth = curve(32_000)
    assert low <= truth <= high
    assert abs(middle - truth) < 0.004


def test_intervals_cover_nine_of_ten_future_accuracies():
    rng, covered = np.random.default_rng(0), []
    for case in range(200):
        floor, slope, exponent = rng.uniform(0, 0.2), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.9)
        every = 1000.0 * np.arange(1, 17)
        measured = curve(every, floor, slope, exponent) + 0.004 * rng.standard_normal(16)
        ends = fit(every[:8], np.clip(measured[:8], 0, 1), case).accuracy(every[8:])
        covered.append(((measured[8:] >= ends[:, 0]) & (measured[8:] <= ends[:, 2])).mean())
    assert 0.8 <= np.mean(covered) <= 0.97


def test_the_labels_for_a_target_are_found_and_a_target_above_the_floor_is_not_reached():
    found = fit(LABELS, curve(LABELS)).needs(0.85)  # 1 - .05 - .3 (n / 1000)^-.5 = .85 at 9,000
    assert found.low <= 9_000 <= found.high
    assert abs(found.middle / 9_000 - 1) < 0.05
    assert not found.far
    assert fit(LABELS, curve(LABELS)).needs(0.93).far
    away = fit(LABELS, curve(LABELS, floor=0.3)).needs(0.99)
    assert np.isinf(away.middle)
    assert away.reached < 0.2


def test_a_target_that_is_reached_already_needs_no_more_labels():
    assert fit(LABELS, curve(LABELS)).needs(0.7).high <= 8_000


@pytest.mark.parametrize(
    ("labels", "accuracy", "said"),
    [([1, 2, 3], [0.1, 0.2, 0.3], "at least 4 rounds"), ([1, 2, 3, 3], [0.1, 0.2, 0.3, 0.4], "ascending"),
     ([1, 2, 3, 4], [10, 20, 30, 40], "from 0 to 1"), ([1, 2, 3, 4], [0.1, 0.2, np.nan, 0.3], "from 0 to 1")],
)  # fmt: skip
def test_a_curve_that_cannot_be_fitted_is_refused(labels, accuracy, said):
    with pytest.raises(ForecastError, match=said):
        fit(labels, accuracy)
