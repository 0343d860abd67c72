"""Accuracies that are estimated from drawn images: unbiased, with intervals that hold, against a slow twin."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from reference import lure_mean

from alray import lure

POOL = 12


def odds(order, weights):
    """The probability of draws in this order, and of each of them."""
    left, q = sum(weights), []
    for row in order:
        q.append(weights[row] / left)
        left -= weights[row]
    return float(np.prod(q)), np.array(q)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_over_all_possible_draws_the_mean_estimate_is_the_accuracy(size):
    """Exactly: every sequence of draws of a pool of five, with its probability."""
    weights, right = [0.4, 0.3, 0.15, 0.1, 0.05], np.array([False, True, False, True, True])
    total = naive = mass = 0.0
    for order in permutations(range(5), size):
        chance, q = odds(order, weights)
        found = lure.estimate(q, 5, right[list(order)], np.ones(size, bool))
        v = lure.weights_of(q, 5)
        assert lure_mean(q.tolist(), 5, (~right[list(order)]).tolist()) == pytest.approx(
            (v * ~right[list(order)]).mean()
        )
        total += chance * (1 - (v * ~right[list(order)]).mean())
        naive += chance * found.unweighted
        mass += chance
    assert mass == pytest.approx(1)
    assert total == pytest.approx(right.mean(), abs=1e-12)
    if size < 5:
        assert abs(naive - right.mean()) > 0.05


def test_even_draws_have_weights_of_one_and_the_interval_of_a_share():
    q = 1 / (1000 - np.arange(50))
    np.testing.assert_allclose(lure.weights_of(q, 1000), 1)
    right = np.arange(50) >= 10
    found = lure.estimate(q, 1000, right, np.ones(50, bool))
    assert found.accuracy == pytest.approx(0.8)
    assert found.unweighted == pytest.approx(0.8)
    assert found.standard_error == pytest.approx(np.sqrt(0.16 / 49 * 0.95), rel=0.02)
    assert 0.66 < found.low < 0.8 < found.high < 0.9


def test_the_whole_population_leaves_no_doubt_and_one_draw_is_not_enough():
    q = 1 / (20 - np.arange(20))
    found = lure.estimate(q, 20, np.arange(20) < 15, np.ones(20, bool))
    assert (found.accuracy, found.low, found.high, found.standard_error) == (0.75, 0.75, 0.75, 0)
    with pytest.raises(ValueError, match="two draws or more"):
        lure.estimate(q[:1], 20, np.array([True]), np.array([True]))
    with pytest.raises(ValueError, match="got 20 with 0"):
        lure.estimate(q, 20, np.arange(20) < 15, np.zeros(20, bool))


def test_a_draw_depends_on_seed_stream_and_rows_alone_and_has_its_probabilities():
    rows, weights = np.arange(POOL) * 7, np.arange(1.0, POOL + 1)
    chosen, q = lure.draw(rows, weights, 5, 3, "test 0")
    assert len(set(chosen.tolist())) == 5
    np.testing.assert_allclose(q, odds((chosen // 7).tolist(), weights)[1])
    mixed = np.random.default_rng(0).permutation(POOL)
    again, same = lure.draw(rows[mixed], weights[mixed], 5, 3, "test 0")
    assert again.tolist() == chosen.tolist()
    np.testing.assert_allclose(same, q)
    assert lure.draw(rows, weights, 5, 3, "test 1")[0].tolist() != chosen.tolist()
    first = [lure.draw(rows, weights, 2, seed, "test 0")[0] // 7 for seed in range(20_000)]
    count = np.bincount([one[0] for one in first], minlength=POOL) / 20_000
    np.testing.assert_allclose(count, weights / weights.sum(), atol=0.012)
    second = [one[1] for one in first if one[0] == POOL - 1]
    others = np.bincount(second, minlength=POOL)[:-1] / len(second)
    np.testing.assert_allclose(others, weights[:-1] / weights[:-1].sum(), atol=0.035)


def simulated(seed, sure):
    """2,000 images, and a model that is right in 90 % and `sure` times as certain as it should be."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(2.8, 1.5, 2000)
    right = rng.random(2000) < 1 / (1 + np.exp(-logit))
    return right, np.maximum(1 / (1 + np.exp(-sure * logit)), 0.1)


@pytest.mark.parametrize("sure", [1.0, 2.0])
def test_active_draws_are_unbiased_where_the_share_of_right_answers_is_not(sure):
    right, probability = simulated(0, sure)
    rows, weights, found = np.arange(2000), lure.expected_loss(probability), []
    for seed in range(400):
        chosen, q = lure.draw(rows, weights, 100, seed, "test 0")
        found.append(lure.estimate(q, 2000, right[chosen], np.ones(100, bool)))
    accuracy = np.array([one.accuracy for one in found])
    error = accuracy.std() / np.sqrt(len(found))
    assert abs(accuracy.mean() - right.mean()) < 3 * error
    assert right.mean() - np.mean([one.unweighted for one in found]) > 0.05
    covered = np.mean([one.low <= right.mean() <= one.high for one in found])
    assert 0.93 <= covered <= 1
    assert np.mean([one.standard_error for one in found]) == pytest.approx(accuracy.std(), rel=0.15)


def test_draws_without_a_label_are_left_out_of_the_population():
    right, probability = simulated(1, 1.0)
    usable = np.random.default_rng(2).random(2000) < np.where(right, 0.9, 0.6)  # people skip what is hard
    rows, weights, found = np.arange(2000), lure.expected_loss(probability), []
    for seed in range(300):
        chosen, q = lure.draw(rows, weights, 200, seed, "test 0")
        found.append(lure.estimate(q, 2000, right[chosen], usable[chosen]))
    truth = right[usable].mean()
    assert abs(np.mean([one.accuracy for one in found]) - truth) < 0.004 < abs(right.mean() - truth)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93


def test_a_model_that_is_certain_of_everything_is_drawn_from_evenly():
    np.testing.assert_allclose(lure.expected_loss(np.ones(5)), 0.2)
    weights = lure.expected_loss(np.array([0.5, 1.0]))
    np.testing.assert_allclose(weights, [0.75, 0.25])
