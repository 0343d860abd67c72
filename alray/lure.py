"""Draw images with known probabilities, and estimate an accuracy from them without bias (LURE).

The estimator is that of Farquhar, Gal and Rainforth 2021, *On Statistical Bias in Active Learning* (R_LURE); to draw
test images by the loss that is expected of them is active testing (Kossen et al. 2021, eq. 4 has the weights).

Letters: N images of the population; M draws, one after another and without replacement; q_m the probability with which
draw m took its image, given the draws before; x_m the loss of that image, 1 where the model is wrong and 0 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray import keyed

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

FLOOR = 0.5  # share of the probability that is spread evenly: the weight of the first draw is at most 1 / FLOOR
_Z = 1.959963984540054  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Estimate:
    """An accuracy of a population, as a fraction. low, high: a 95 % interval; standard_error: its standard error;
    unweighted: the share of right answers without weights, which is biased unless all q are equal; draws (M), answered
    (draws with a label) and population (N): numbers of images."""

    accuracy: float
    low: float
    high: float
    standard_error: float
    unweighted: float
    draws: int
    answered: int
    population: int


def expected_loss(probability: Floats) -> Floats:
    """The weights of active draws, (n,) > 0, of images whose predicted classes have these probabilities (n,): the loss
    that the model expects of itself, 1 - probability, mixed with an even share, because a model that is wrong and sure
    would otherwise hide its errors."""
    loss = np.clip(1 - np.asarray(probability, np.float64), 0, 1)
    even = np.full(len(loss), 1 / len(loss))
    return even if loss.sum() == 0 else (1 - FLOOR) * loss / loss.sum() + FLOOR * even


def draw(rows: Rows, weights: Floats, size: int, seed: int, stream: str) -> tuple[Rows, Floats]:
    """Draw `size` of the rows without replacement, each draw in proportion to the weights of the rows that are left.

    rows (N,) int64, weights (N,) > 0. Returns the rows (size,) in order of their draws, and q (size,). The draw is a
    race of exponential clocks, which depend on (seed, stream, row) alone: the first to ring have the same
    probabilities as draws one by one.
    """
    assert 0 < size <= len(rows)
    assert (weights > 0).all()
    clocks = -np.log1p(-keyed.uniform(seed, stream, rows)) / weights
    order = np.lexsort((rows, clocks))
    weights = weights[order]
    left = np.cumsum(weights[::-1])[::-1]  # summed from the end, so that small rests keep their digits
    return rows[order[:size]], weights[:size] / left[:size]


def weights_of(q: Floats, population: int) -> Floats:
    """LURE's weights v_m = 1 + (N - M) / (N - m) (1 / ((N - m + 1) q_m) - 1), (M,): the mean of v_m x_m is an unbiased
    estimate of the mean loss of the population. If the whole population was drawn they are 1."""
    m, n = np.arange(1, len(q) + 1), population
    if len(q) == n:
        return np.ones(n)
    return 1 + (n - len(q)) / (n - m) * (1 / ((n - m + 1) * q) - 1)


def estimate(q: Floats, population: int, right: npt.NDArray[np.bool_], answered: npt.NDArray[np.bool_]) -> Estimate:
    """Estimate the accuracy of a population from draws with probabilities q (M,).

    right (M,): whether the model is right, without meaning where answered (M,) is False. With an answer for every draw
    the estimate is unbiased. Otherwise it is one of the images that people can label: the ratio of two such estimates,
    whose bias falls as 1 / M. Raises ValueError for fewer than two draws, and without any answer.
    """
    if len(q) < 2 or not answered.any():
        raise ValueError(f"expected two draws or more with an answer, got {len(q)} with {int(answered.sum())}")
    v, loss = weights_of(q, population), np.where(answered, ~right, False).astype(np.float64)
    share = 1.0 if answered.all() else float((v * answered).mean())
    mean = float((v * loss).mean()) / share
    residual = loss if answered.all() else answered * (loss - mean) / share
    error = _standard_error(q, population, residual)
    left = population - len(q)  # even draws of a large part of the population know more than few of many
    most = float(answered.sum()) * population / left if left else np.inf
    low, high = _wilson(mean, error, most)
    naive = float(right[answered].mean())
    accuracy = float(np.clip(1 - mean, 0, 1))
    return Estimate(accuracy, 1 - high, 1 - low, error, naive, len(q), int(answered.sum()), population)


def _standard_error(q: Floats, population: int, x: Floats) -> float:
    """The standard error of the mean of v_m x_m for two draws or more; 0 if the whole population was drawn.

    LURE is the mean of c_m a_m with a_m = x_m / (N q_m) + sum_{t < m} x_t / N, whose expectation is the same for any
    draws before, and c_m = N (N - M) / ((N - m) (N - m + 1)): that is how the paper finds v_m. So the terms are
    uncorrelated, and the variance is the sum of theirs.
    """
    n, m = population, np.arange(1, len(q) + 1)
    if len(q) == n:
        return 0.0
    a = x / (n * q) + (np.cumsum(x) - x) / n
    c = n * (n - len(q)) / ((n - m) * (n - m + 1))
    mean = float((c * a).mean())
    return float(np.sqrt((c**2 * (a - mean) ** 2).sum() / (len(q) * (len(q) - 1))))


def _wilson(mean: float, error: float, most: float) -> tuple[float, float]:
    """Wilson's interval of a mean loss, for the number of even draws that would have this standard error, but for no
    more than `most`. Otherwise a model that is wrong and sure, whose errors are drawn seldom, would look certain."""
    mean = min(mean, 1.0)
    if not np.isfinite(most):
        return mean, mean
    n = min(mean * (1 - mean) / error**2, most) if error > 0 and 0 < mean < 1 else most
    middle = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
