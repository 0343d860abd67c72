"""Picks of a k-center from one float64 product: those that it is sure of are the canonical ones, and doubt is told."""

from __future__ import annotations

import numpy as np
import pytest

from alray.selection.kernels import active, settled
from alray.selection.kernels.distance import Space, squared_norms
from alray.selection.kernels.greedy import greedy
from alray.selection.kernels.held import Chosen
from alray.selection.kernels.sure_picks import sure_picks

NO_LIMIT = -np.inf, 0


def carefully(x: np.ndarray, value: np.ndarray, limit: float, most: int) -> tuple[list[int], list[float], np.ndarray]:
    """The picks by canonical distances alone, their distances, and those of all rows afterwards."""
    value, order, squared = value.copy(), list[int](), list[float]()
    while len(order) < most and value.max() > limit:
        best = int(value.argmax())
        order.append(best)
        squared.append(float(value[best]))
        value = np.minimum(value, squared_norms(x - x[best]))
        value[best] = -np.inf
    return order, squared, value


def block(kind: str, seed: int = 0) -> tuple[Space, np.ndarray, np.ndarray]:
    """Rows and their distances to one center, which some of them do not have any more: they are picks."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(121, 7))
    if kind == "grid":
        x = np.rint(x)
    if kind == "offset":
        x += 1e4
    if kind == "outlier":
        x[5] *= 1e6
    value = squared_norms(x[1:] - x[0])
    value[7::20] = -np.inf
    return Space.around("l2", x), x[1:], value


@pytest.mark.parametrize("limit", [-np.inf, 4.0])
@pytest.mark.parametrize("most", [1, 30, 500])
@pytest.mark.parametrize("kind", ["normal", "grid", "offset"])
def test_sure_picks_are_the_canonical_ones(kind: str, most: int, limit: float) -> None:
    space, x, value = block(kind)
    expected = carefully(x, value, limit, most)
    order, squared, sure = sure_picks(space, x, value, np.arange(120), (limit, 0), most, kind == "grid")
    if limit > -np.inf:
        assert sure
        assert len(order) == len(expected[0]) > min(most, 5) - 1
    else:  # the last rows may be in doubt
        assert len(order) >= min(most, 100)
    assert order == expected[0][: len(order)]
    assert squared == expected[1][: len(order)]
    if len(order) == len(expected[0]):
        np.testing.assert_array_equal(value, expected[2])


def test_rows_at_equal_distances_are_in_doubt_unless_products_are_exact() -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    space, value = Space.around("l2", x), np.array([9.0, 9.0, 1.0])
    assert sure_picks(space, x, value.copy(), np.arange(3), NO_LIMIT, 1, False) == ([], [], False)
    assert sure_picks(space, x, value.copy(), np.arange(3), NO_LIMIT, 1, True) == ([0], [9.0], True)


@pytest.mark.parametrize(("limit", "expected"), [(8.0, True), (9.0, False), (10.0, True)])
def test_a_row_that_is_as_far_as_the_limit_is_in_doubt(limit: float, expected: bool) -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0]])
    found = sure_picks(Space.around("l2", x), x, np.array([9.0, 1.0]), np.arange(2), (limit, 0), 1, False)
    assert found == ([0] * (limit < 9), [9.0] * (limit < 9), expected)


def test_nothing_is_sure_where_norms_are_so_large_that_products_say_nothing() -> None:
    space, x, value = block("outlier")
    value[4] = -np.inf  # the outlier is a pick
    assert sure_picks(space, x * 1e5, value, np.arange(120), NO_LIMIT, 9, False)[2] is False


@pytest.mark.parametrize("kind", ["normal", "tied"])
def test_picks_in_doubt_are_made_by_canonical_distances(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in symmetric pairs have equal distances, whose products are not exact."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 9))
    if kind == "tied":
        x = np.concatenate([x, x * np.where(np.arange(9) % 2, 1.0, -1.0)])
    x = np.concatenate([np.zeros((1, 9)), x])
    held = Chosen(np.arange(len(x) - 1), x[1:], squared_norms(x[1:]))
    made = []
    monkeypatch.setattr(
        settled._Settled,
        "_carefully",
        lambda self, *some, before=settled._Settled._carefully: made.append(1) or before(self, *some),
    )
    monkeypatch.setattr(active, "_TURNED", 20)
    picks = greedy(Space.around("l2", x), held, 300, NO_LIMIT)
    expected = carefully(x[1:], held.squared, -np.inf, 300)
    assert picks.rows.tolist() == expected[0]
    assert picks.squared.tolist() == expected[1]
    assert bool(made) is (kind == "tied")


def nearly_tied(seed: int) -> tuple[np.ndarray, float]:
    """Rows (41, d) whose distances differ by about as much as float64 products round, and a limit."""
    rng = np.random.default_rng(seed)
    kind, d = ("clusters", "offset", "steps")[seed % 3], int(rng.choice([1, 2, 5, 17, 64]))
    x = rng.normal(size=(41, d))
    if kind == "clusters":
        x = rng.normal(size=(4, d))[rng.integers(0, 4, 41)] + x * 10.0 ** rng.integers(-14, -7)
    elif kind == "offset":
        x = x * 10.0 ** -float(rng.integers(0, 8)) + 10.0 ** rng.integers(2, 9)
    else:
        x = 3 + np.rint(3 * x) * 2.0 ** -float(rng.integers(26, 50))
    return x, float(rng.choice(squared_norms(x[1:] - x[0]))) if rng.random() < 0.5 else -np.inf


# The first six are picked in another order without the doubt about two distances, the last six if products were 256
# times as exact as they are.
@pytest.mark.parametrize("seed", [383, 395, 641, 965, 1058, 1388, 1827, 4743, 5331, 5754, 6375, 6438])
def test_rounding_of_products_changes_no_pick(seed: int) -> None:
    x, limit = nearly_tied(seed)
    value = squared_norms(x[1:] - x[0])
    before = value.copy()
    order, squared, sure = sure_picks(Space.around("l2", x), x[1:], value, np.arange(40), (limit, 40), 30, exact=False)
    expected = carefully(x[1:], before, limit, 30 if sure else len(order))
    assert (order, squared) == expected[:2]
    np.testing.assert_array_equal(value, expected[2])
