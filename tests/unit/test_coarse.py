"""The filter of k-center in bfloat16: its bounds hold, and the picks are those of the float64 greedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_k_center import KINDS, assert_twin, assert_twin_for_every_cut, chosen, made, twin

from alray.selection.kernels import centers, coarse, farthest, rounding, shard_rows, sieve
from alray.selection.kernels.compared import Nearest
from alray.selection.kernels.distance import Space
from alray.selection.protocol import Metric
from alray.selection.select import select

WAYS = ["as this machine does", "from float32 products"]


@pytest.fixture(params=WAYS)
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The filter uses bfloat16, by instructions of the processor if it has them, or by float32 products."""
    if request.param != WAYS[0]:
        monkeypatch.setattr(coarse, "_native", lambda: False)
    soon(monkeypatch)
    with coarse.forced(True):
        yield


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """After very few rows, however few centers these were compared with."""
    monkeypatch.setattr(sieve, "TOLD", 3)
    monkeypatch.setattr(rounding, "_FEW", -1)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The filter uses bfloat16, however many rows and candidates it leaves."""
    monkeypatch.setattr(sieve, "useful", lambda *_: True)
    monkeypatch.setattr(sieve, "FEW", 300)
    soon(monkeypatch)
    with coarse.forced(True):
        yield


def squared(space: Space, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Canonical squared distances (m, p) in units of the views."""
    at, center = np.indices((len(x), len(c)))
    return space.pairs(x, c, at.ravel(), center.ravel()).reshape(len(x), len(c)) / space.unit


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_from_bfloat16_never_exclude_what_is_true(kind: str, metric: Metric) -> None:
    x = made(kind, n=700)
    space = Space.around(metric, x[:300])
    rows = coarse.Rounded(space, x[200:])
    for centers_ in (x[:1], x[1:4], x[4:68], x[:200]):
        block, true = coarse.block_of(space, centers_), squared(space, x[200:], centers_)
        nearest = true.min(axis=1)
        for least in (-np.inf, 0.0, float(np.median(nearest)), float(true.max()), np.inf):
            lower, upper = rows.nearest(block, least)
            assert (lower <= nearest).all()
            assert (upper >= nearest).all()
        for most in (nearest, true[:, 0], np.full(len(true), np.median(true))):
            found = np.zeros(true.shape, bool)
            found[rows.near(block, most)] = True
            assert (found | (true > most[:, None])).all()


@pytest.mark.usefixtures("bfloat16")
def test_bounds_hold_for_rows_of_several_products() -> None:
    x = np.random.default_rng(0).normal(size=(2900, 12)).astype(np.float32)
    space = Space.around("l2", x[:300])
    rows, true = coarse.Rounded(space, x[200:]), squared(space, x[200:], x[:200])
    assert len(coarse._tiles(len(rows))) > 2
    lower, upper = rows.nearest(coarse.block_of(space, x[:200]), 1.0)
    assert (lower <= true.min(axis=1)).all()
    assert (upper >= true.min(axis=1)).all()
    at, center = rows.near(coarse.block_of(space, x[:200]), true.min(axis=1))
    found = np.zeros(true.shape, bool)
    found[at, center] = True
    assert (found | (true > true.min(axis=1)[:, None])).all()
    assert found.mean() < 0.1


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("d", [6, 32, 300])
def test_bounds_hold_where_rounding_moves_no_row(d: int) -> None:
    """Then only the product itself errs: by its sums, by the norms in two parts and, in the end, by rounding."""
    rng = np.random.default_rng(d)
    x = torch.from_numpy(rng.normal(size=(600, d))).bfloat16().float().numpy()
    space = Space("l2", np.zeros(d))
    rows = coarse.Rounded(space, x[200:])
    assert rows._moved.max() < 1e-9
    true = squared(space, x[200:], x[:200])
    for center in range(0, 200, 40):
        one = coarse.block_of(space, x[center : center + 1])
        for least in true[::40, center]:
            lower, upper = rows.nearest(one, float(least))
            assert (lower <= true[:, center]).all()
            assert (upper >= true[:, center]).all()


@pytest.mark.usefixtures("bfloat16")
def test_bounds_are_best_near_the_threshold() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 256)).astype(np.float32)
    space = Space.around("l2", x)
    rows, block = coarse.Rounded(space, x[200:]), coarse.block_of(space, x[:200])
    lower, upper = rows.nearest(block, float(np.median(squared(space, x[200:], x[:200]).min(axis=1))))
    assert np.median((upper - lower) / upper) < 0.02
    far_lower, far_upper = rows.nearest(block, 0.0)
    assert np.median(far_upper - far_lower) > 1.3 * np.median(upper - lower)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("m", [1, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_picks_with_bfloat16_equal_the_twin(kind: str, m: int) -> None:
    assert_twin_for_every_cut(kind, m)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_dropped_at_every_block_change_no_pick(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = made(kind, n=600)
    labeled = np.arange(0, 400, 2)
    expected = twin(x, labeled, 80)
    for ship, width in ((9, 7), (40, 64)):
        monkeypatch.setattr(farthest, "_AT_LEAST", ship)
        monkeypatch.setattr(farthest, "_HELD", ship)
        monkeypatch.setattr(centers, "_BLOCKS", (2, 3))
        monkeypatch.setattr(centers, "_BLOCK", 7)
        for module in (centers, coarse):
            monkeypatch.setattr(module, "WIDTH", width)
        monkeypatch.setattr(coarse, "_NARROW", width)
        monkeypatch.setattr(sieve, "_STREAM", 12)
        monkeypatch.setattr(shard_rows, "CHUNK_COARSE", 3000)
        for shards in (1, 7):
            picks = chosen(x, labeled, 80, shards)
            assert_twin(picks, expected)
            assert picks.account["coarse"] > 0 or kind in ("tied", "line", "far offset")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shards", [1, 7])
def test_centers_that_bfloat16_cannot_tell_apart_are_told_apart(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest of ten neighbours differs from the others by less than rounding changes distances."""
    monkeypatch.setattr(farthest, "_AT_LEAST", 300)
    rng = np.random.default_rng(0)
    middle = np.repeat(rng.normal(size=(20, 32)), 10, axis=0)
    x = np.concatenate([middle + 0.001 * rng.normal(size=middle.shape), rng.normal(size=(3000, 32))]).astype(np.float32)
    assert_twin(chosen(x, np.arange(200), 200, shards), twin(x, np.arange(200), 200))


def clusters(spread: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    middle = rng.normal(size=(100, 32))
    return np.asarray(middle[rng.integers(0, 100, 6000)] + spread * rng.normal(size=(6000, 32)), np.float32)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_is_left_where_it_tells_too_little() -> None:
    """Distances inside tight clusters are below what rounding moves rows; those of wide ones are not."""
    picks = select("k_center", 20, embedding=clusters(0.002), labeled=np.arange(500), num_shards=1)
    assert 0 < picks.account["coarse"] < 0.2 * picks.account["pairs"]
    with coarse.forced(False):
        assert_same(select("k_center", 20, embedding=clusters(0.002), labeled=np.arange(500), num_shards=1), picks)
    wide = select("k_center", 20, embedding=clusters(0.5), labeled=np.arange(500), num_shards=1)
    assert wide.account["coarse"] > 0.9 * wide.account["pairs"]


def assert_same(first: object, second: object) -> None:
    for name in ("rows", "scores", "radius"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize(
    ("lower", "upper", "before", "expected"),
    [
        (0.0, np.inf, np.inf, True),  # as of all rows, for a block of centers with one beyond the range of float32
        (0.0, 2.0, np.inf, True),
        (1.96, 2.0, np.inf, False),
        (0.0, 2.0, -1.0, False),  # others are nearer
        (0.0, 0.9, np.inf, False),  # below the threshold
    ],
)
def test_bounds_are_too_wide_where_they_tell_neither_the_distance_nor_who_is_nearer(
    lower: float, upper: float, before: float, expected: bool
) -> None:
    sharp = 1.96, 2.0
    for more, most in ((2, expected), (1, False)):  # of three rows
        bounds = np.array([(lower, upper)] * more + [sharp] * (3 - more))
        assert Nearest(*bounds.T).vague(np.array([before] * more + [np.inf] * (3 - more)), 1.0) is most


@pytest.mark.usefixtures("bfloat16")
def test_exact_products_are_not_replaced() -> None:
    """float32 products of small integers are exact."""
    x = np.random.default_rng(0).integers(-8, 9, (3000, 16)).astype(np.float32)
    assert select("k_center", 20, embedding=x, labeled=np.arange(50), num_shards=1).account["coarse"] == 0


@pytest.mark.parametrize(
    ("told", "native"),
    [
        ("vendor_id: GenuineIntel\nflags: avx512_bf16 amx_tile amx_bf16", True),
        ("vendor_id: GenuineIntel\nflags: avx512_bf16", False),
        ("vendor_id: AuthenticAMD\nflags: avx512_bf16", True),
        ("vendor_id: AuthenticAMD\nflags: avx512f", False),
    ],
)
def test_bfloat16_is_used_where_the_processor_multiplies_it_faster(
    told: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda path: told.encode())
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in told)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert coarse.available() is native
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not coarse.available()


def test_rows_of_a_product_are_few_sizes() -> None:
    for count in [*range(1, 700), 1536, 1537, 2048, 5000]:
        tiles = coarse._tiles(count)
        assert set(tiles) <= set(coarse._TILES)
        assert count <= sum(tiles) < count + coarse._TILES[1]
