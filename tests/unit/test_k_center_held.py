"""Exact k-center where the driver holds all rows: the picks of the float64 greedy, and when that is the cheaper way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from test_k_center import KINDS, assert_twin, chosen, made, twin

from alray.features.arrays import EMBEDDING, ArraySource, cut
from alray.selection.kernels import active, compared, farthest, settled
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.selection.select import select, select_from
from alray.selection.strategies.k_center import KCenter


def heavy(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray(rng.normal(size=(n, d)) * np.abs(rng.standard_t(3, (n, 1))), np.float32)


def even(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, d), np.float32)


@pytest.mark.parametrize("d", [3, 12])
@pytest.mark.parametrize("m", [2, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_twin(kind: str, m: int, d: int) -> None:
    x = made(kind, d=d)
    labeled = np.random.default_rng(0).permutation(len(x))[:m]
    expected = twin(x, labeled, 150)
    for shards in (1, 7):
        picks = chosen(x, labeled, 150, shards)
        assert_twin(picks, expected)
        assert picks.account["pairs"] == 0  # the shards compare nothing


@pytest.mark.parametrize("kind", ["random", "offset", "duplicates", "float16"])
def test_cosine(kind: str) -> None:
    x = made(kind)
    x[7] = 0
    labeled = np.arange(20, 30)
    picks = chosen(x, labeled, 50, 3, KCenter(metric="cosine"))
    assert_twin(picks, twin(x, labeled, 50, cosine=True))


@pytest.mark.parametrize("d", [2, 12])
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("m", [0, 1, 30])
def test_copies_of_centers_are_picked_last_the_lowest_row_first(m: int, shards: int, d: int) -> None:
    """Fewer rows are different than are picked; zeros with a sign are no copies bit by bit, but as near."""
    x = np.random.default_rng(1).normal(size=(50, d))[np.random.default_rng(2).integers(0, 50, 400)].astype(np.float32)
    x[100:120] = 0.0
    x[110:115] = -0.0
    assert_twin(chosen(x, np.arange(m), 250, shards), twin(x, np.arange(m), 250))


def test_labeled_rows_may_be_stored_in_another_type() -> None:
    x, labeled = made("random"), np.random.default_rng(5).normal(size=(30, 12))
    sources = [ArraySource(np.arange(len(x))[part], {EMBEDDING: x[part]}) for part in cut(len(x), 3)]
    context = Context(labeled=ArraySource(np.arange(1000, 1030), {EMBEDDING: labeled}))
    picks = select_from(sources, build("k_center"), 60, context)
    assert_twin(picks, reference.k_center(x, np.arange(len(x)), 60, labeled))


def test_shards_need_not_be_in_the_order_of_their_rows() -> None:
    x, labeled = made("duplicates"), np.arange(20)
    places = [np.arange(20, 240)[first::3] for first in (2, 0, 1)]
    sources = [ArraySource(rows, {EMBEDDING: x[rows]}) for rows in places]
    context = Context(labeled=ArraySource(labeled, {EMBEDDING: x[labeled]}))
    assert_twin(select_from(sources, build("k_center"), 100, context), twin(x, labeled, 100))


def counted(x: np.ndarray, k: int, m: int) -> dict[str, Any]:
    return select("k_center", k, embedding=x, labeled=np.arange(m), num_shards=1).account


@pytest.mark.parametrize(("d", "pairs"), [(8, False), (32, True)])
def test_rows_are_held_where_many_would_have_to_be_sent(d: int, pairs: bool) -> None:
    """Of even rows, most are as far as those that are picked. Of few columns that need not even be estimated."""
    account = counted(even(20_000, d), 800, 100)
    assert account["survivors"] == 19_900
    assert (account["pairs"] > 0) == pairs


def test_rows_are_sent_where_few_are_enough() -> None:
    assert counted(heavy(20_000, 40), 100, 100)["survivors"] < 12_000


def test_rows_are_sent_where_many_are_labeled() -> None:
    """The driver would compare all rows with all of them, which the shards do together."""
    account = counted(even(6000, 8), 100, 500)
    assert account["pairs"] > 0
    assert counted(even(6000, 8), 200, 500)["pairs"] == 0


def test_no_more_is_held_than_the_driver_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farthest, "_HELD", 8 * 5999)
    assert counted(even(6000, 8), 200, 100)["survivors"] > 0
    assert counted(even(6000, 8), 200, 100)["pairs"] > 0


def test_copies_are_left_out_before_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    x = even(1000, 16)[np.random.default_rng(0).integers(0, 1000, 8000)]
    once = counted(x, 300, 100)["driver_operations"]
    monkeypatch.setattr(farthest, "first_of_copies", lambda rows: np.arange(len(rows)))
    assert once < 0.4 * counted(x, 300, 100)["driver_operations"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_first_of_copies(dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 3, (200, 3)).astype(dtype)
    expected = np.sort(np.unique(x, axis=0, return_index=True)[1])
    assert compared.first_of_copies(x).tolist() == expected.tolist()
    assert compared.first_of_copies(x[:0]).tolist() == []


def test_wide_rows_that_may_be_farthest_are_compared_with_few_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In canonical numbers, on rows of which bounds cannot tell which is farthest."""
    x = even(3000, 200) + 30 * np.random.default_rng(1).random((60, 200))[np.arange(3000) % 60]
    for name in ("_POOR", "_POOR_WIDTH"):
        monkeypatch.setattr(settled, name, 10**9)  # all picks are made one by one
    numbers, norms = [0], active.squared_norms

    def squared(differences: np.ndarray) -> np.ndarray:
        numbers[-1] += differences.size
        return norms(differences)

    monkeypatch.setattr(active, "squared_norms", squared)
    few = select("k_center", 370, embedding=x, num_shards=1)
    monkeypatch.setattr(active, "_ALONE", 10**12)
    numbers.append(0)
    all_ = select("k_center", 370, embedding=x, num_shards=1)
    np.testing.assert_array_equal(few.rows, all_.rows)
    np.testing.assert_array_equal(few.scores, all_.scores)
    assert numbers[0] < 0.5 * numbers[1]
