"""What a shard of an exact k-center holds for each of its rows: at most 16 bytes, from which it decides exactly."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference

from alray.features.arrays import EMBEDDING, ArraySource, Block
from alray.selection.inputs import gather
from alray.selection.kernels import bounds, shard_rows, sieve
from alray.selection.kernels.bounds import UNKNOWN, Bounds, Near, under, up
from alray.selection.kernels.distance import Space
from alray.selection.kernels.sieve import Sieve
from alray.selection.select import select

SMALL, LARGE, D, M = 60_000, 180_000, 8, 300  # rows: what grows with them is the difference
LIMIT, NOISE = 16.0, 0.2  # bytes per row; noise: the rows that are still far, and what else is allocated now and then


@pytest.fixture(autouse=True)
def _the_driver_does_not_hold_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alray.selection.kernels.farthest._LABELED", 0)


def held(n: int, folder: Path) -> int:
    """The bytes that a shard holds after it has looked for its farthest rows. Its embeddings lie in a file, as those of
    a large pool do, and every thousandth row of the file is labeled."""
    x = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)
    np.save(folder / "x.npy", x)
    space, labeled = Space.around("l2", x[:1000]), ArraySource(np.arange(M), {EMBEDDING: x[:M]}).open()
    keep = np.flatnonzero(np.arange(n) % 1000)
    del x
    tracemalloc.start()
    try:
        source = gather({EMBEDDING: str(folder / "x.npy")}).shards(keep, 1)[0]
        found = Sieve(source.open(), labeled)
        found.far(space, Block(np.empty(0, np.int64), {EMBEDDING: np.empty((0, D))}), keep[:0], 10 * D, 100)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_a_shard_holds_at_most_sixteen_bytes_for_each_row(tmp_path: Path) -> None:
    held(1000, tmp_path)  # imports
    assert (held(LARGE, tmp_path) - held(SMALL, tmp_path)) / (LARGE - SMALL) <= LIMIT + NOISE


def test_the_bounds_of_a_row_are_sixteen_bytes_for_any_number_of_centers() -> None:
    some = Bounds(1000)
    for centers in (1, 61_440, 61_441, 10_000_000):
        some.make_room(centers, 40_000)
        assert some.nbytes == 16 * len(some)


def test_bounds_are_rounded_outwards_and_exact_numbers_are_kept() -> None:
    rng = np.random.default_rng(0)
    value = np.concatenate([rng.normal(size=999) ** 2 * 10.0 ** rng.integers(-60, 60, 999), [0.0, 3.0, 2.0**-149]])
    some, at = Bounds(len(value)), np.arange(len(value))
    some.store(at, Near(value, value, value, np.full(len(value), 7)), 3)
    found = some.load(at)
    assert (found.upper >= value).all()
    assert (found.lower <= value).all()
    assert (found.other <= value).all()
    assert (found.nearest == 7).all()
    assert (some.blocks == 3).all()
    exact = up(value) == value
    assert exact[-3:].all()
    assert (found.upper[exact] == found.lower[exact]).all()
    in_range = (value > 1e-30) & (value < 1e30)
    assert (found.upper[in_range] <= found.lower[in_range] * (1 + 2.0**-22)).all()


@pytest.mark.parametrize("least", [-np.inf, 0.0, 1e-60, 0.1, 1.0, 16777217.0, 1e300, np.inf])
def test_a_bound_is_above_the_threshold_before_and_after_it_is_rounded(least: float) -> None:
    near = np.nextafter(least, -np.inf), least, np.nextafter(least, np.inf), 2 * least, least / 2, 0.0, np.inf
    value = np.array([one for one in near if one >= 0])
    above = under(least)
    assert np.array_equal(value > above, up(value) > above)
    assert (value > above)[value >= least].all()


def test_the_nearest_center_stays_in_its_group_when_there_are_more_centers() -> None:
    some, at, nearest = Bounds(4), np.arange(4), np.array([UNKNOWN, 0, 61_439, 40_001])
    some.store(at, Near(np.ones(4), np.ones(4), np.ones(4), nearest), 1)
    for centers in (61_440, 61_441, 500_000):
        some.make_room(centers, 1)
        group = np.stack(some.group(at, centers))
        assert [nearest[i] in group[:, i] for i in range(1, 4)] == [True] * 3
        assert (some.load(at).nearest == UNKNOWN).tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", ["random", "tied", "copies"])
def test_picks_are_exact_where_centers_are_numbered_in_groups(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)) if kind != "tied" else rng.integers(-1, 2, (400, 6)).astype(float)
    x = x[rng.integers(0, 100, 400)] if kind == "copies" else x
    x = x.astype(np.float32)
    monkeypatch.setattr(bounds, "_CODE", np.uint16(9))
    monkeypatch.setattr("alray.selection.kernels.farthest._AT_LEAST", 20)
    monkeypatch.setattr(sieve, "_STREAM", 12)
    monkeypatch.setattr(shard_rows, "CHUNK", 300)
    picks = select("k_center", 60, embedding=x, labeled=np.arange(100), num_shards=2)
    expected = reference.k_center(x[100:], np.arange(100, 400), 60, x[:100])
    assert picks.rows.tolist() == expected[0].tolist()
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-12)


def test_distances_beyond_float32_are_decided_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are so far away that float32 does not hold their squared distances. The space is chosen by rows among
    which they are not, and the threshold by others, nearly all of which they are farther than."""
    monkeypatch.setattr("alray.selection.kernels.farthest._AT_LEAST", 20)
    n, m, rng = 20_000, 500, np.random.default_rng(3)
    x = rng.normal(size=(n, 5))
    embedding = {EMBEDDING: x[m:]}
    rows = shard_rows.ShardRows(ArraySource(np.arange(m, n), embedding).open(), EMBEDDING, None)
    few, many = (rows.numbers(rows.sampled(int(size / (n - m) * 2**64))) for size in (4096, 16384))
    outside = np.setdiff1d(many, few)[:400]
    x[outside] *= 10.0 ** np.linspace(20, 60, 400)[:, None]
    picks = select("k_center", 60, embedding=x, labeled=np.arange(m), num_shards=1)
    expected = reference.k_center(x[m:], np.arange(m, n), 60, x[:m])
    assert picks.rows.tolist() == expected[0].tolist()
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-12)
