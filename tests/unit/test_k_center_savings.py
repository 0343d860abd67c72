"""What spares an exact k-center work: each of these rules is seen in a counter, and changes no pick."""

from __future__ import annotations

import numpy as np
import pytest
from test_k_center import assert_twin, chosen, twin

from alray.selection.kernels import coarse, farthest, greedy, held
from alray.selection.kernels.bounds import UNKNOWN, Bounds, Near, in_block
from alray.selection.kernels.distance import Space
from alray.selection.select import select


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def groups(n: int, many: int, spread: float) -> np.ndarray:
    middle = normal(many, 32)
    return middle[np.random.default_rng(1).integers(0, many, n)] + np.float32(spread) * normal(n, 32, seed=2)


def test_rows_are_decided_together_with_those_that_come_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 cannot tell the farthest rows of a block apart again and again, and the block goes on all the same."""
    x, centers = normal(3000, 32), normal(600, 32, seed=1)
    space, together = Space.around("l2", x), greedy._FIRST
    squared = np.min([space.pairs(x, centers, np.arange(len(x)), np.full(len(x), j)) for j in range(600)], axis=0)
    rows, spent, picks = held.Chosen(np.arange(len(x)), x, squared), [], []
    decided: list[int] = []
    settle = held.Held.settle
    monkeypatch.setattr(held.Held, "settle", lambda self, at: (decided.append(len(at)), settle(self, at))[1])
    for first in (together, 1):
        monkeypatch.setattr(greedy, "_FIRST", first)
        found = greedy.greedy(space, rows, 800, (-np.inf, 0))
        picks.append(found.rows)
        spent.append((len(decided), found.spent))
        decided.clear()
    np.testing.assert_array_equal(picks[0], picks[1])
    (few, work), (many, _) = spent
    assert 0 < few < many / 2
    blocks = 800 / (greedy._BLOCK / 4)  # of which a quarter is picked at least
    assert work < 2 * blocks * greedy._BLOCK * (greedy._BLOCK + 800) * (1 + x.shape[1] / 25)


@pytest.mark.parametrize("shards", [1, 5])
def test_a_survivor_is_compared_again_with_one_block_of_centers(
    shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "useful", lambda *_: True)
    n, m = 3000, 1000
    x = normal(n, 32)
    with coarse.forced(True):
        picks = chosen(x, np.arange(m), 60, shards)
    assert_twin(picks, twin(x, np.arange(m), 60))
    assert picks.account["coarse"] > 0
    again = picks.account["pairs"] - (n - m) * m  # all of them survive
    assert again < 0.7 * (n - m) * m


def test_a_block_of_centers_is_remembered_in_the_place_of_a_center() -> None:
    some, at = Bounds(5), np.arange(5)
    nearest = np.array([UNKNOWN, 3, in_block(0), in_block(7), in_block(4000)])
    some.store(at, Near(np.ones(5), np.zeros(5), np.ones(5), nearest), 1)
    for more in (100, 61_441, 10_000_000):
        some.make_room(more, 1)
        assert some.block(at).tolist() == [-1, -1, 0, 7, 4000]
        assert some.known(at)[1].tolist() == [False, True, False, False, False]
        np.testing.assert_array_equal(some.load(at).nearest[[0, 2, 3, 4]], nearest[[0, 2, 3, 4]])
    assert in_block(1_000_000) == UNKNOWN
    some.store(at, Near(np.ones(5), np.zeros(5), np.full(5, 0.5), nearest), 1)  # another block may be nearer
    assert some.block(at).tolist() == [-1] * 5


def test_more_rows_are_asked_for_where_the_farthest_ones_are_neighbours() -> None:
    """Of a group about one can be picked each, until distances inside the groups count."""
    alone, together = normal(2000, 32), groups(2000, 300, 0.01)
    asked = []
    for x in (alone, together):
        space = Space.around("l2", x)
        squared = np.sort(np.random.default_rng(0).uniform(1, 2, len(x)))[::-1]
        asked.append(farthest._enough(space, x, squared, 60_000, 100, 4096, 6 * 4096))
    assert asked[0] == 4096
    assert 2 * 4096 < asked[1] <= 6 * 4096
    assert farthest._enough(space, x, squared, 60_000, 290, 4096, 6 * 4096) == 4096  # no number would do
    assert farthest._enough(space, x[:0], squared[:0], 60_000, 100, 4096, 6 * 4096) == 4096


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_in_groups_take_one_round(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farthest, "_AT_LEAST", 400)
    x, labeled = groups(12_000, 600, 0.05), np.arange(100)
    expected = select("k_center", 200, embedding=x, labeled=labeled, num_shards=shards)
    monkeypatch.setattr(farthest, "_WIDER", 0)
    once = select("k_center", 200, embedding=x, labeled=labeled, num_shards=shards)
    np.testing.assert_array_equal(once.rows, expected.rows)
    np.testing.assert_array_equal(once.scores, expected.scores)
    assert expected.account["exchanges"] < once.account["exchanges"]
