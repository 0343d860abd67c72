"""Ranks found by counting are those of a sort, and compact rows are the rows."""

from __future__ import annotations

import numpy as np
import pytest

from alray.features.arrays import narrow_values, positions_of
from alray.features.row_runs import RowRuns, narrow_rows
from alray.selection.kernels.ranks import Ranked, among
from alray.selection.protocol import Ties

N = 500
RNG = np.random.default_rng(0)
VALUES: dict[str, np.ndarray] = {
    "random": RNG.normal(size=N),
    "float32": RNG.normal(size=N).astype(np.float32),
    "tied": RNG.integers(-2, 3, N).astype(np.float16),
    "equal": np.zeros(N),
    "zeros of both signs": np.where(np.arange(N) % 2, 0.0, -0.0),
    "far apart": np.where(np.arange(N) % 3, 1e300, -1e-300) * RNG.normal(size=N),
    "infinite": np.where(np.arange(N) % 5, np.inf, -np.inf),
}


@pytest.mark.parametrize("kind", list(VALUES))
def test_rows_between_two_ranks_are_those_of_a_sort(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alray.selection.kernels.ranks._BLOCK", 64)
    rows = np.sort(RNG.choice(10_000, N, replace=False)).astype(np.int32)
    values, ties = VALUES[kind], Ties(7, 2)
    order = ties.order(rows.astype(np.int64), -values.astype(np.float64))
    ranked = Ranked(rows, values, ties)
    for first, end in ((0, N), (0, 1), (N - 1, N), (17, 17), (123, 301), (N, N)):
        assert ranked.between(first, end).tolist() == np.sort(rows[order[first:end]]).tolist(), (first, end)
    for rank in (0, 5, 250, N - 1):
        assert ranked.rank(int(order[rank])) == rank


@pytest.mark.parametrize(
    "rows",
    [[], [5], [0, 1, 2, 3, 4], [0, 1, 2, 7, 8, 9, 30, 31, 32, 33], [1, 3, 5, 8], [2**31 - 2, 2**31 - 1, 2**31, 2**40]],
    ids=str,
)
def test_runs_are_the_rows(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 2, 3, 1 << 20):
        monkeypatch.setattr("alray.features.row_runs._BLOCK", block)
        runs = RowRuns.of(np.array(rows, np.int64))
        assert runs.rows().tolist() == rows
        assert runs.rows().dtype == np.int64
        assert len(runs) == len(rows)
        asked = np.array(sorted({0, 6, 10, 2**31 + 1, 2**41, *rows}), np.int64)
        at, missing = runs.places(asked)
        assert missing.tolist() == [row not in rows for row in asked.tolist()]
        assert at[~missing].tolist() == list(range(len(rows)))


def test_a_pool_without_its_labeled_rows_is_a_few_runs() -> None:
    rows = np.delete(np.arange(1_000_000), RNG.choice(1_000_000, 100, replace=False))
    runs = RowRuns.of(rows)
    assert runs.ends is not None
    assert runs.firsts.nbytes + runs.ends.nbytes < 2_000
    assert np.array_equal(runs.rows(), rows)


def test_numbers_become_smaller_only_if_that_changes_none() -> None:
    exact, other = np.array([1.5, np.inf, -0.0]), np.array([1.5, 1e300])
    assert narrow_values(exact).dtype == np.float32
    assert narrow_values(other) is other
    assert narrow_rows(np.array([3, 2**31 - 1])).dtype == np.int32
    assert narrow_rows(np.array([3, 2**31])).dtype == np.int64


@pytest.mark.parametrize("block", [3, 1 << 20])
def test_positions_and_members_are_those_of_numpy(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alray.features.arrays._BLOCK", block)
    mask = RNG.random(1000) < 0.3
    assert positions_of(mask).tolist() == np.flatnonzero(mask).tolist()
    rows, others = np.flatnonzero(RNG.random(50) < 0.5), np.flatnonzero(RNG.random(50) < 0.5)
    assert np.array_equal(among(rows, others), np.isin(rows, others))
    assert not among(rows, others[:0]).any()
