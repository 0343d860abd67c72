"""Subsets of labeled and unlabeled rows as the BASE paper's code draws them."""

from __future__ import annotations

import numpy as np
import pytest

from alray.selection.protocol import SelectionError
from alray.selection.select import select
from alray.selection.subset import subset

LABELED, UNLABELED = np.arange(0, 30), np.arange(30, 200)


@pytest.mark.parametrize(
    ("nl", "nu", "known", "pool"),
    [(0, 0, 30, 170), (50, 80, 30, 100), (20, 80, 20, 80), (50, 500, 30, 170)],
)
def test_what_labeled_rows_leave_goes_to_the_unlabeled(nl: int, nu: int, known: int, pool: int) -> None:
    one, other = subset(LABELED, UNLABELED, nl, nu, 10, 0, 0)
    assert (len(one), len(other)) == (known, pool)
    assert np.isin(one, LABELED).all()
    assert np.isin(other, UNLABELED).all()
    assert (np.diff(one) > 0).all()
    assert (np.diff(other) > 0).all()


def test_another_draw_each_round() -> None:
    draws = [
        subset(LABELED, UNLABELED, 10, 50, 10, seed, round)[1].tolist() for seed, round in ((0, 0), (0, 1), (1, 0))
    ]
    assert draws[0] == subset(LABELED, UNLABELED, 10, 50, 10, 0, 0)[1].tolist()
    assert draws[0] != draws[1] != draws[2]


def test_a_selection_sees_the_subset_only() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    known, pool = subset(LABELED, UNLABELED, 10, 50, 20, 3, 1)
    inside = np.concatenate([known, pool])
    picks = select(
        "k_center", 20, embedding=x, labeled=LABELED, subset_labeled=10, subset_unlabeled=50, seed=3, round=1,
        num_shards=3,
    )  # fmt: skip
    alone = select("k_center", 20, embedding=x[inside], labeled=np.arange(len(known)))
    np.testing.assert_array_equal(picks.rows, inside[alone.rows])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(SelectionError, match="subset_unlabeled: expected at least the budget of 60 rows, got 50"):
        subset(LABELED, UNLABELED, 10, 50, 60, 0, 0)
    with pytest.raises(SelectionError, match="subset_unlabeled of at least 1 .*, got 10 and 0"):
        subset(LABELED, UNLABELED, 10, 0, 60, 0, 0)
