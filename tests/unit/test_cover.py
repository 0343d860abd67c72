"""The order in which rows are compared with labeled centers spares comparisons, and changes no pick."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_k_center import assert_twin, chosen, twin

from alray.selection.kernels import coarse, cover, rounding, sieve
from alray.selection.kernels.bounds import Bounds, Near
from alray.selection.kernels.centers import Centers
from alray.selection.kernels.cover import covering
from alray.selection.kernels.distance import Space
from alray.selection.select import select


def test_each_center_is_near_to_as_many_rows_as_possible_that_none_before_it_is_near_to() -> None:
    near = np.zeros((7, 5), bool)
    near[:4, 1] = near[:3, 0] = near[4:6, 3] = near[6, 4] = True
    assert covering(near).tolist() == [1, 3, 4, 0, 2]
    assert covering(near[:0]).tolist() == [0, 1, 2, 3, 4]


def pool(n: int, m: int) -> np.ndarray:
    """Most rows lie around few of the labeled ones."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 16))
    x[m:] = x[rng.integers(0, 20, n - m)] + 0.5 * x[m:]
    x[m : m + 900] *= 4
    return x.astype(np.float32)


@pytest.mark.parametrize("shards", [1, 3])
def test_centers_that_most_rows_are_near_to_come_first(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)
    monkeypatch.setattr("alray.selection.kernels.farthest._AT_LEAST", 1000)
    x, labeled = pool(50_000, 1000), np.arange(1000)
    with coarse.forced(False):
        picks = select("k_center", 100, embedding=x, labeled=labeled, num_shards=shards)
        monkeypatch.setattr(cover, "_CENTERS", 1001)
        other = select("k_center", 100, embedding=x, labeled=labeled, num_shards=shards)
    np.testing.assert_array_equal(picks.rows, other.rows)
    np.testing.assert_array_equal(picks.scores, other.scores)
    assert picks.account["survivors"] == other.account["survivors"]
    assert picks.account["pairs"] < 0.9 * other.account["pairs"]


@pytest.mark.parametrize(("labeled", "expected"), [(1000, True), (5000, False)])
def test_centers_are_arranged_only_where_few_pairs_tell_their_order(
    labeled: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)
    arranged = []
    monkeypatch.setattr(cover, "covering", lambda near: arranged.append(near.size) or covering(near))
    x = pool(40_000, labeled)
    with coarse.forced(False):
        select("k_center", 50, embedding=x, labeled=np.arange(labeled), num_shards=1)
    assert bool(arranged) is expected
    assert sum(arranged) <= 4 * len(x)


@pytest.mark.parametrize("kind", [False, True])
def test_arranged_centers_change_no_pick(kind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)
    monkeypatch.setattr("alray.selection.kernels.farthest._AT_LEAST", 60)
    for name, value in (("_CENTERS", 2), ("_LEAST", 1), ("_OTHERS", 0), ("_MOST", 30)):
        monkeypatch.setattr(cover, name, value)
    monkeypatch.setattr(cover, "_OTHERS", 1)
    arranged = []
    monkeypatch.setattr(cover, "covering", lambda near: arranged.append(1) or covering(near))
    x, labeled = pool(3000, 300), np.arange(300)
    x[3] *= 1000  # in a block of its own, which stays the last one
    expected = twin(x, labeled, 80)
    with coarse.forced(kind):
        for shards in (1, 2, 7, 30):
            assert_twin(chosen(x, labeled, 80, shards), expected)
    assert arranged


def test_arranged_centers_are_in_blocks_of_the_same_sizes_with_norms_of_their_own() -> None:
    x = np.random.default_rng(0).normal(size=(400, 8)) * np.geomspace(1, 3, 400)[:, None]
    x[7] *= 1000
    centers = Centers(Space.around("l2", x))
    centers.add(x)
    edges, order = list(centers.edges), np.arange(centers.usual)[::-1]
    before, last = centers.stored.copy(), centers.usual
    centers.arrange(order)
    np.testing.assert_array_equal(centers.stored[:last], before[order])
    np.testing.assert_array_equal(centers.stored[last:], before[last:])
    assert centers.edges == edges
    assert centers.largest == [centers.view[a:b].largest for a, b in itertools.pairwise(edges)]


def test_a_row_whose_nearest_center_is_forgotten_may_have_any() -> None:
    bounds = Bounds(2)
    bounds.store(
        np.arange(2), Near(np.array([4.0, 4.0]), np.array([3.0, 4.0]), np.array([9.0, 9.0]), np.array([5, 5])), 1
    )
    assert bounds.known(np.arange(2))[1].all()
    bounds.forget_nearest()
    done, sure = bounds.known(np.arange(2))
    assert done.tolist() == [False, True]
    assert not sure[0]
    assert bounds.below(np.arange(2)).tolist() == [3.0, 4.0]
    assert bounds.block(np.arange(2)).tolist() == [-1, -1]


def test_rows_that_bfloat16_was_too_coarse_for_have_their_nearest_center_in_the_whole_wide_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)
    monkeypatch.setattr(sieve, "TOLD", 9)
    rng = np.random.default_rng(7)
    x = rng.normal(size=(1500, 128)) + np.where(np.arange(1500) % 2, 1e3, -1e3)[:, None]
    labeled = np.arange(750)
    picks = []
    for use in (False, True):
        with coarse.forced(use):
            picks.append(select("k_center", 500, embedding=x.astype(np.float32), labeled=labeled, num_shards=1))
    assert picks[1].account["coarse"] > 0
    np.testing.assert_array_equal(picks[0].rows, picks[1].rows)
    np.testing.assert_array_equal(picks[0].scores, picks[1].scores)


def test_where_pytorch_is_imported_the_centers_of_the_first_rows_decide_on_bfloat16() -> None:
    space = Space.around("l2", np.random.default_rng(0).normal(size=(9, 128)))
    with coarse.forced(True):
        asked = rounding.Rounding(None)
        for rows, centers, expected in ((10**7, 90.0, False), (0, 1000.0, False), (2000, 300.0, True)):
            asked.expect(space, rows, centers)
            assert asked.on is expected
            assert asked.undecided is not expected
        asked.look_first()
        assert asked.undecided
        assert not asked.on
        asked.expect(space, 10**7, 90.0)
        assert not asked.on


@pytest.mark.parametrize(("spread", "expected"), [(0.01, False), (3.0, True)])
def test_rows_that_are_dropped_early_are_not_compared_in_bfloat16(
    spread: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows lie around 20 labeled ones, close or not; only those of the sample meet all centers."""
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)
    monkeypatch.setattr(sieve, "useful", lambda *_: True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 32))
    x[1000:] = x[rng.integers(0, 20, 39_000)] + spread * x[1000:]
    x[-300:] *= 9
    with coarse.forced(True):
        account = select("k_center", 50, embedding=x.astype(np.float32), labeled=np.arange(1000), num_shards=1).account
    assert account["coarse"] > 0
    assert (account["coarse"] > 5_000 * 1000) is expected
