from __future__ import annotations

import numpy as np
import pytest

from alray.data.pool import Pool, PoolError


def pool_of(n: int = 10, classes: int = 3) -> Pool:
    return Pool.of(n, np.arange(2, n), classes)  # rows 0 and 1 are test images


def test_a_pool_is_a_value_and_every_row_is_in_one_place() -> None:
    pool = pool_of()
    held = pool.hold_out(np.array([9, 8]), [0, 1])
    labeled = held.label(np.array([5, 2]), [2, 0])
    assert pool.unlabeled.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]  # unchanged
    assert labeled.unlabeled.tolist() == [3, 4, 6, 7]
    assert labeled.labeled.tolist() == [2, 5]
    assert labeled.held_out.tolist() == [8, 9]
    assert labeled.labels(np.array([5, 2])).tolist() == [2, 0]
    assert labeled.counts().tolist() == [1, 0, 1]
    assert len(labeled) == 6


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([0], [0], "row 0, is not in the pool"),
        ([3], [0], "row 3, is already labeled"),
        ([4], [0], "row 4, is held out"),
        ([5, 6, 5], [0, 0, 0], "row 5 is repeated"),
        ([10], [0], "row 10 is not in the catalog of 10 rows"),
        ([-1], [0], "row -1 is not in the catalog"),
        ([5], [3], "row 5: expected a label from 0 to 2, got 3"),
        ([5], [-1], "row 5: expected a label from 0 to 2, got -1"),
        ([5, 6], [0], "expected 2 labels, one per row"),
        ([5], [0.0], "expected class numbers"),
        ([5.0], [0], "expected rows as a list of integers"),
    ],
)
def test_what_is_no_fact_is_refused(rows: list[float], labels: list[float], message: str) -> None:
    pool = pool_of().label(np.array([3]), [1]).hold_out(np.array([4]), [1])
    before = (pool.status.copy(), pool.known.copy())
    with pytest.raises(PoolError, match=message):
        pool.label(np.array(rows), labels)
    assert np.array_equal(before[0], pool.status)
    assert np.array_equal(before[1], pool.known)


def test_labels_of_unlabeled_rows_are_not_known() -> None:
    with pytest.raises(PoolError, match="row 5 has no label yet"):
        pool_of().labels(np.array([5]))
