"""What spares an exact k-center work: each of these rules is seen in a counter, and changes no pick."""

from __future__ import annotations

import numpy as np
import pytest
from test_k_center import assert_twin, chosen, twin

from alray.selection.kernels import coarse, farthest, greedy, held, sieve
from alray.selection.kernels.bounds import UNKNOWN, Bounds, Near, in_block
from alray.selection.kernels.distance import Space
from alray.selection.select import select


@pytest.fixture(autouse=True)
def _the_driver_does_not_hold_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def groups(n: int, many: int, width: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    middle, group = rng.normal(size=(many, width)), np.sort(rng.integers(0, many, n))
    return np.asarray(middle[group] + spread * rng.normal(size=(n, width)), np.float32)


def test_rows_are_decided_together_with_those_that_come_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms are so much larger than distances that float32 cannot tell the farthest rows of a block apart."""
    x = normal(3200, 96) / np.sqrt(np.arange(1, 97, dtype=np.float32))
    x[:, 0] += 4 * normal(3200, 1, seed=1)[:, 0]
    x, centers, space = x[200:], x[:200], Space.around("l2", x)
    squared = np.min([space.pairs(x, centers, np.arange(len(x)), np.full(len(x), j)) for j in range(200)], axis=0)
    rows, decided = held.Held.settle, [0]

    def settle(self: held.Held, at: np.ndarray) -> np.ndarray:
        decided[-1] += 1
        return rows(self, at)

    monkeypatch.setattr(held.Held, "settle", settle)
    ahead = greedy.greedy(space, held.Chosen(np.arange(len(x)), x, squared), 1000, (-np.inf, 0))
    monkeypatch.setattr(greedy, "_FIRST", 1)
    decided.append(0)
    alone = greedy.greedy(space, held.Chosen(np.arange(len(x)), x, squared), 1000, (-np.inf, 0))
    np.testing.assert_array_equal(ahead.rows, alone.rows)
    np.testing.assert_array_equal(ahead.squared, alone.squared)
    assert 0 < decided[0] < decided[1] / 2


def test_what_a_block_costs_is_counted_before_its_end_is_judged() -> None:
    """Rows were decided many times: dear beside no work at all, but not beside the matrix of this block."""
    x = normal(600, 64)
    space, found = Space.around("l2", x), []
    for cost in (0.0, 1e9):
        rows = held.Held(space, held.Chosen(np.arange(600), x, np.full(600, 1e4)), 300)
        rows.decided = 100.0
        greedy._pick(rows, np.arange(600), (-np.inf, 0), 300, cost)
        found.append(len(rows.picked))
    assert found[0] < found[1] == 300


@pytest.mark.parametrize("shards", [1, 5])
def test_a_survivor_is_compared_again_with_one_block_of_centers(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieve, "useful", lambda *_: True)
    monkeypatch.setattr(sieve, "TOLD", 3)
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
    """Of each of ten groups one row can be picked, until the threshold is below the distances inside of them."""
    squared = 2 * np.exp(-np.arange(2000) / 200)
    asked = []
    for x in (normal(2000, 32), np.random.default_rng(0).permutation(groups(2000, 10, 32, 0.1))):
        space = Space.around("l2", x)
        asked.append(farthest._enough(space, x, squared, 60_000, 100, 4096, 6 * 4096))
        assert farthest._enough(space, x, squared, 60_000, 100_000, 4096, 6 * 4096) == 0  # no number would do
        assert farthest._enough(space, x[:0], squared[:0], 60_000, 100, 4096, 6 * 4096) == 4096
    assert farthest._enough(space, np.repeat(x[:1], 2000, axis=0), squared, 60_000, 100, 4096, 6 * 4096) == 0
    assert asked[0] == 4096
    assert 5500 < asked[1] < 12_000


def test_no_more_rows_are_asked_for_where_the_farthest_ones_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to none of them can be picked; the rows behind them would be enough."""
    x = normal(2000, 32)
    x[:200], squared = x[0], 2 * np.exp(-np.arange(2000) / 200)
    space, asked = Space.around("l2", x), []
    for hopeless in (farthest._HOPELESS, 1e9):
        monkeypatch.setattr(farthest, "_HOPELESS", hopeless)
        asked.append(farthest._enough(space, x, squared, 60_000, 100, 4096, 6 * 4096))
    assert asked[0] == 0 < asked[1]


@pytest.mark.parametrize("shards", [1, 3])
def test_neighbours_are_sent_in_one_round(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farthest, "_AT_LEAST", 600)
    x, labeled = groups(20_000, 40, 16, 1.0), np.arange(300)
    once = select("k_center", 300, embedding=x, labeled=labeled, num_shards=shards)
    monkeypatch.setattr(farthest, "_WIDER", 0)
    more = select("k_center", 300, embedding=x, labeled=labeled, num_shards=shards)
    np.testing.assert_array_equal(once.rows, more.rows)
    np.testing.assert_array_equal(once.scores, more.scores)
    assert once.account["exchanges"] < more.account["exchanges"]
