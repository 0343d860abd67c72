"""Ranks found by counting are those of a sort, and compact rows are the rows."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from alray.features.arrays import Segment, Shard, narrow_values, positions_of
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
        assert runs.last == max(rows, default=-1)
        for start in range(len(rows) + 1):
            for stop in range(start, len(rows) + 1):
                assert runs.cut(start, stop).tolist() == rows[start:stop]
                assert runs.cut(start, stop).dtype == np.int64
                parts = [RowRuns.of(np.array(part, np.int64)) for part in (rows[:start], rows[start:stop], rows[stop:])]
                assert RowRuns.joined(parts).rows().tolist() == rows
        assert runs.at(np.arange(0, len(rows), 2)).tolist() == rows[::2]
        assert vars(pickle.loads(pickle.dumps(runs))).keys() == {"firsts", "ends"}
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


def test_rows_are_taken_from_the_segments_that_have_them() -> None:
    parts = [[0, 1, 2, 3], [], [7, 9], [10, 11, 12], [20]]
    x = np.arange(30.0)[:, None]
    shard = Shard([Segment(RowRuns.of(np.array(part, np.int64)), None, {"x": x[part]}) for part in parts])
    rows = shard.rows()
    assert rows.tolist() == [row for part in parts for row in part]
    assert shard.runs().rows().tolist() == rows.tolist()
    for asked in ([], [0], [20], [3, 7], [9, 10, 20], [2, 2, 3, 12, 12], rows.tolist()):
        block = shard.take(np.array(asked, np.int64))
        assert block.rows.tolist() == asked
        assert not asked or block["x"][:, 0].tolist() == asked
    for asked in ([4], [8], [0, 13], [21], [-1, 0]):
        with pytest.raises(KeyError):
            shard.take(np.array(asked))


def test_taking_rows_of_one_file_looks_into_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    places = RowRuns.places
    monkeypatch.setattr(RowRuns, "places", lambda self, rows: looked.append(self.last) or places(self, rows))
    segments = [Segment(RowRuns.of(np.arange(start, start + 10)), None, {}) for start in range(0, 1000, 10)]
    Shard(segments).take(np.array([505, 507]))
    assert looked == [509]
