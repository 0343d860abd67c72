"""Exact k-center: the picks of the float64 greedy, however the pool is cut and however the work is cut up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference

from alray.features.arrays import ArraySource, Block, cut
from alray.selection.in_process import InProcess
from alray.selection.kernels import (
    active,
    centers,
    coarse,
    dense,
    farthest,
    greedy,
    held,
    leaves,
    settled,
    shard_rows,
    sieve,
    thin,
)
from alray.selection.kernels.distance import Space, bound, error, products
from alray.selection.protocol import Context, Metric, Picks, SelectionError
from alray.selection.registry import build
from alray.selection.select import select, select_from
from alray.selection.strategies.k_center import KCenter

SHARDS = [1, 2, 7, 30]
KINDS = ["random", "tied", "duplicates", "offset", "far offset", "float16", "tiny", "huge", "line", "sorted", "pairs"]


@pytest.fixture(autouse=True)
def _the_driver_does_not_hold_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some are labeled. What it does if it holds them is tested in `test_k_center_held.py`."""
    monkeypatch.setattr(farthest, "_LABELED", 0)


def made(kind: str, n: int = 240, d: int = 12) -> np.ndarray:
    rng = np.random.default_rng(KINDS.index(kind))
    x = rng.normal(size=(n, d)) * rng.standard_t(4, size=(n, 1))
    if kind == "tied":
        x = rng.integers(-1, 2, (n, d)).astype(float)
    elif kind == "duplicates":
        x = x[rng.integers(0, n // 6, n)]
    elif kind == "offset":
        x += 300
    elif kind == "far offset":
        x = 1000 + 0.01 * x
    elif kind == "tiny":
        x *= 1e-30
    elif kind == "huge":
        x *= 1e30
    elif kind == "line":
        x = np.repeat(rng.integers(0, 400, (n, 1)), d, axis=1).astype(float)
    elif kind == "sorted":
        x = x[np.argsort(x[:, 0])]
    elif kind == "pairs":  # neighbours whose distances differ less than float32 can tell
        x[1::2] = x[::2] * (1 + 1e-10)
        return x
    return x.astype(np.float16 if kind == "float16" else np.float32)


def chosen(x: np.ndarray, labeled: np.ndarray, k: int, shards: int, strategy: object = "k_center") -> Picks:
    return select(strategy, k, embedding=x, labeled=labeled, num_shards=shards)


def assert_twin(picks: Picks, expected: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(picks.rows, expected[0])
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-12)
    assert picks.radius is not None
    np.testing.assert_allclose(picks.radius, expected[2], rtol=1e-12)


def twin(x: np.ndarray, labeled: np.ndarray, k: int, cosine: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.setdiff1d(np.arange(len(x)), labeled)
    return reference.k_center(x[rows], rows, k, x[labeled], cosine)


def assert_twin_for_every_cut(kind: str, m: int) -> None:
    """m: number of labeled rows."""
    x = made(kind)
    labeled = np.random.default_rng(0).permutation(len(x))[:m]
    expected = twin(x, labeled, 60)
    for shards in SHARDS:
        assert_twin(chosen(x, labeled, 60, shards), expected)


@pytest.mark.parametrize("m", [0, 1, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_twin(kind: str, m: int) -> None:
    assert_twin_for_every_cut(kind, m)


@pytest.mark.parametrize("kind", ["random", "offset", "duplicates", "float16"])
def test_cosine(kind: str) -> None:
    x = made(kind)
    x[7] = 0
    labeled = np.arange(20, 30)
    expected = twin(x, labeled, 50, cosine=True)
    for shards in SHARDS:
        assert_twin(chosen(x, labeled, 50, shards, KCenter(metric="cosine")), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_small_blocks_and_little_memory_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rounds, quotas that bind, rows dropped at every block: the paths that only large pools take."""
    x = made(kind)
    for labeled in (np.arange(0), np.arange(0, 200, 2)):
        expected = twin(x, labeled, 80)
        for block, ship in ((2, 1), (5, 9), (16, 40)):
            monkeypatch.setattr(greedy, "_BLOCK", block)
            monkeypatch.setattr(farthest, "_AT_LEAST", ship)
            monkeypatch.setattr(farthest, "_HELD", ship)
            monkeypatch.setattr(centers, "_BLOCKS", (2, 3))
            monkeypatch.setattr(centers, "_BLOCK", 7)
            monkeypatch.setattr(sieve, "_STREAM", 12)
            monkeypatch.setattr(shard_rows, "CHUNK", 300)
            monkeypatch.setattr(held, "_CENTERS", 11)
            monkeypatch.setattr(held, "_DECIDERS", 5)
            monkeypatch.setattr(dense, "_FEWEST", 3)
            monkeypatch.setattr(greedy, "_TRY", 5)
            for shards in (1, 7):
                assert_twin(chosen(x, labeled, 80, shards), expected)


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates"])
@pytest.mark.parametrize("m", [0, 10])
def test_the_whole_pool(kind: str, m: int) -> None:
    x = made(kind, n=70)
    labeled = np.arange(m)
    for shards in (1, 7, 100):
        picks = chosen(x, labeled, 70 - m, shards)
        assert_twin(picks, twin(x, labeled, 70 - m))
        assert picks.radius is not None
        assert picks.radius[-1] == 0


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_rows_keep_their_numbers_in_any_order_of_the_pool(kind: str) -> None:
    x = made(kind)
    numbers = np.random.default_rng(1).permutation(5 * len(x))[: len(x)]
    by_row = np.argsort(numbers)
    known = ArraySource(np.arange(2000, 2003), {"embedding": x[:3] * 2})
    expected = reference.k_center(x, numbers, 40, x[:3] * 2)
    for shards in SHARDS:
        parts = [by_row[k::shards] for k in range(shards)]
        sources = [ArraySource(numbers[part], {"embedding": x[part]}) for part in parts]
        assert_twin(select_from(sources, KCenter(), 40, Context(labeled=known)), expected)


def test_the_filter_never_excludes_what_is_true() -> None:
    """Its bound holds for every pair, also where most of the numbers is lost."""
    for kind in KINDS:
        x = made(kind)
        for metric in ("l2", "cosine"):
            space = Space.around(metric, x[:20])  # type: ignore[arg-type]
            view = space.view(x)
            at, center = (index.ravel() for index in np.indices((len(x), len(x))))
            exact = space.pairs(x, x, at, center).reshape(len(x), len(x)) / space.unit
            filtered = products(view.x, view).astype(np.float64) + view.squares[:, None]
            eps = bound(view.squares, view.largest, x.shape[1])[:, None]
            assert (np.abs(filtered - exact) <= eps).all()
            if metric == "l2" and kind != "far offset":
                assert np.median(eps / np.median(exact)) < 1e-3, "a bound that excludes nothing is no use"


@pytest.mark.parametrize("kind", KINDS)
def test_the_float64_filter_never_excludes_what_is_true(kind: str) -> None:
    """Also beside a row that is a million times larger, where float32 tells nothing."""
    x = made(kind)
    x[5] *= 1e6 if kind not in ("huge", "float16") else 3
    space = Space.around("l2", x[:20])
    view = space.view(x, np.float64)
    at, center = (index.ravel() for index in np.indices((len(x), len(x))))
    exact = space.pairs(x, x, at, center).reshape(len(x), len(x)) / space.unit
    filtered = products(view.x, view) + view.squares[:, None]
    assert (np.abs(filtered - exact) <= error(view, view.largest, view.step)[:, None]).all()


@pytest.mark.parametrize("offset", [0, 10_000])
def test_distances_of_small_integers_are_exact(offset: int) -> None:
    """They tie all the time: no pair needs a second look."""
    x = (np.random.default_rng(0).integers(-3, 4, (600, 8)) * 8 + offset).astype(np.float16)
    space = Space.around("l2", x)
    view = space.view(x)
    assert (error(view, view.largest, view.step) == 0).all()
    at, center = (index.ravel() for index in np.indices((600, 600)))
    exact = space.pairs(x, x, at, center).reshape(600, 600) / space.unit
    np.testing.assert_array_equal(products(view.x, view) + view.squares[:, None], exact)
    picks = chosen(x, np.arange(50), 60, 3)
    assert_twin(picks, twin(x, np.arange(50), 60))
    assert picks.account["rescored"] == 0


@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, np.float32), (np.float64, np.float64)])
def test_no_exact_sums_where_one_row_is_off_the_step(dtype: type, precision: type) -> None:
    """Also by so little that its view, whose numbers are larger, does not show it."""
    for off in (0.3, 2.0 ** -(np.finfo(dtype).nmant - 3)):
        x = np.random.default_rng(0).integers(-3, 4, (300, 8)).astype(dtype)
        x[:150] += 200
        x[200, 3] = 1 + off
        assert x[200, 3] != 1
        space = Space.around("l2", x[:100])
        view = space.view(x, precision)
        assert (error(view, view.largest, view.step) > 0).all()


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bounds_of_held_rows_never_exclude_what_is_true(kind: str, precision: type) -> None:
    """Each pair's, whatever the norms of its two rows: one is a thousand times as large, and one is out of range."""
    x = made(kind, n=200).astype(np.float64)
    x[5] *= 1e3
    space = Space.around("l2", x[6:40])
    x[6] *= 1e100 if kind != "tiny" else 1e200
    everything = np.arange(len(x))
    rows = held.Held(space, held.Chosen(everything, x, np.full(len(x), 1.0)), 1)
    rows._measure(space.view(x, precision))
    at, center = (index.ravel() for index in np.indices((len(x), len(x))))
    with np.errstate(over="ignore", invalid="ignore"):
        exact = space.pairs(x, x, at, center).reshape(len(x), len(x)).T / space.unit
        g = rows.products(everything, everything).astype(np.float64)
        assert not (exact > g + rows.above).any()
        lower = g + rows.below - np.minimum(2 * rows.share, 1e308)[:, None]
    assert not (exact < lower)[np.isfinite(rows.share)].any()


@pytest.mark.parametrize("way", ["blocks", "all", "settled"])
def test_rows_out_of_range_are_picked_in_order(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample, from which the scale follows, has none of them."""
    monkeypatch.setattr(settled, "COLUMNS", 64 if way == "settled" else 0)
    monkeypatch.setattr(greedy._Blocks, "dear", lambda self, other: way == "all")
    x = np.random.default_rng(0).normal(size=(6000, 8))
    space = Space.around("l2", x)
    x[4000:4008] *= np.geomspace(1e95, 1e100, 8)[:, None]
    first = held.Chosen(np.arange(6000), x, space.pairs(x, x[:1], np.arange(6000), np.zeros(6000, np.intp)))
    picks = greedy.greedy(space, first, 30, (-np.inf, 0))
    np.testing.assert_array_equal(picks.rows, twin(np.concatenate([x[:1], x]), np.array([0]), 30)[0] - 1)


def test_held_rows_are_compared_with_the_picks_made_since_the_last_time_alone() -> None:
    x = np.random.default_rng(0).normal(size=(3000, 8))
    space, left = Space.around("l2", x), np.arange(2000, 3000)
    rows = held.Held(space, held.Chosen(np.arange(3000), x, np.full(3000, 1e3)), 2000)
    for start, end in ((0, 100), (100, 110), (110, 1300), (1300, 1310)):  # also beyond the picks of one matrix
        for pick in range(start, end):
            rows.pick(pick)
        assert rows.refresh(left) == len(left) * (end - start)
        exact = ((x[left, None] - x[:end]) ** 2).sum(axis=2).min(axis=1) / space.unit
        assert (rows.lower[left] <= exact).all() and (exact <= rows.upper[left]).all()
        assert (rows.upper[left] - rows.lower[left] < 1e-4).all()


def test_rows_at_equal_distances_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bounds tell them apart, as long as no pick changes their distance."""
    monkeypatch.setattr(settled, "COLUMNS", 0)
    decided = []
    settle = held.Held.settle
    monkeypatch.setattr(held.Held, "settle", lambda self, at: decided.append(len(at)) or settle(self, at))
    monkeypatch.setattr(greedy._Blocks, "dear", lambda self, other: True)
    x = np.sign(np.random.default_rng(0).normal(size=(2000, 64))) + np.random.default_rng(1).normal(size=64)
    assert_twin(chosen(x, np.arange(1), 200, 1), twin(x, np.arange(1), 200))
    assert 0 < len(decided) < 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("way", "d"),
    [
        ("blocks", 12), ("blocks", 3), ("all", 12), ("all", 3), ("leaves", 3),
        ("settled", 12), ("settled", 3), ("carefully", 12), ("carefully", 3),
        ("one by one", 12), ("one by one", 3), ("float64", 12),
    ],
)  # fmt: skip
def test_all_ways_of_the_driver_make_the_same_picks(
    way: str, d: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the farthest rows, all rows kept up to date, leaves of a tree, blocks of settled rows, and picks one by
    one with certified bounds: which way is taken is a matter of cost alone."""
    if way == "leaves":
        monkeypatch.setattr(leaves, "_SIZE", 3)
        monkeypatch.setattr(thin, "_START", 2)
        monkeypatch.setattr(thin, "_FEWEST", 1)
        monkeypatch.setattr(thin, "_ROWS", 9)
    else:
        monkeypatch.setattr(thin, "_COLUMNS", 0)
        monkeypatch.setattr(settled, "COLUMNS", 0 if way in ("blocks", "all") else 64)
        monkeypatch.setattr(greedy._Blocks, "dear", lambda self, other: way == "all")
        for name, value in (("_BLOCK", 40), ("_LEAST", 3), ("_ACTIVE", 9), ("_FEW", 4), ("_MANY", 9), ("_LOOK", 2)):
            monkeypatch.setattr(settled, name, value)
        for name in ("_POOR", "_POOR_WIDTH"):
            monkeypatch.setattr(settled, name, 10**6 if way == "one by one" else 0)
        monkeypatch.setattr(settled, "_TOGETHER", 0 if way == "carefully" else 1024)
        monkeypatch.setattr(settled, "_COARSE", 0.0 if way == "float64" else 1e-2)
        for name, value in (("_TOGETHER", 500), ("_LINES", 7), ("_AT_ONCE", 50), ("_CALL", 100), ("_OPEN", 5)):
            monkeypatch.setattr(active, name, value)
    x = made(kind, d=d)
    for m in (0, 1, 30):
        for k in (90, 240 - m):
            for shards in (1, 7):
                assert_twin(chosen(x, np.arange(m), k, shards), twin(x, np.arange(m), k))


def test_few_rows_off_the_grid_of_all_others_change_no_pick() -> None:
    """Products of integers are exact. They are not where a few rows are no integers, even while none of these is among
    the rows that are kept up to date."""
    rng = np.random.default_rng(0)
    x = rng.integers(-40, 41, (9000, 8)).astype(np.float32)
    x[-5:] = rng.integers(-40, 41, (1, 8)) + rng.random((5, 8)) / 4
    assert_twin(chosen(x, np.arange(0), 900, 1), twin(x, np.arange(0), 900))


@pytest.mark.parametrize("seed", [18, 27, 33, 37])
def test_bounds_that_were_rounded_are_no_distances(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picks one by one round bounds to float32; later all products are exact, in float64: far groups on a fine grid."""
    for name, value in (("_BLOCK", 40), ("_LEAST", 3), ("_ACTIVE", 9), ("_FEW", 4), ("_MANY", 9), ("_LOOK", 2)):
        monkeypatch.setattr(settled, name, value)
    for name in ("_POOR", "_POOR_WIDTH"):
        monkeypatch.setattr(settled, name, 10**6)
    monkeypatch.setattr(settled, "_WHILE", (8, 12, 16, 32)[seed % 4])
    monkeypatch.setattr(active, "_CALL", 100)
    rng = np.random.default_rng(seed)
    x = rng.integers(-5000, 5001, (6, 8))[rng.integers(0, 6, 300)] + rng.integers(-2, 3, (300, 8)) / 1024
    apart = np.rint(rng.normal(size=8) * 90_000) / 1024
    x[rng.choice(300, 62, replace=False)] += apart * rng.choice([-1, 1], (62, 8))
    assert_twin(chosen(x, np.arange(0), 60, 1), twin(x, np.arange(0), 60))


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_active_rows_have_upper_bounds_and_are_settled_to_the_last_bit(
    kind: str, precision: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also rows that have seen, or know, some of the picks only, and one row out of the range of float32."""
    monkeypatch.setattr(active, "_AT_ONCE", 0)
    x = made(kind, n=200).astype(np.float64)
    space = Space.around("l2", x[6:40])
    x[6] *= 1e100 if kind != "tiny" else 1e200
    picks = active.Made(space, x, 60)
    picks.refine(precision)
    rng, at = np.random.default_rng(0), np.arange(60, 200)
    center, row = (index.ravel() for index in np.indices((60, len(at))))
    squared = space.pairs(x, x, at[row], center).reshape(60, len(at))
    for pick in range(50):
        picks.add(pick, x[pick])
    seen, known = rng.integers(1, 50, len(at)), rng.integers(1, 50, len(at))
    upper, exact = (np.array([squared[:end, i].min() for i, end in enumerate(ends)]) for ends in (seen, known))
    rows = active.Active(picks, at, upper, seen, exact, known)
    for count in (50, 60):
        for pick in range(picks.count, count):
            picks.add(pick, x[pick])
        rows.refresh()
        assert (rows.upper >= squared[:count].min(axis=0)).all()
        if kind == "random":
            np.testing.assert_allclose(rows.upper, squared[:count].min(axis=0), rtol=1e-4)
    some = np.flatnonzero(rng.random(len(at)) < 0.5)
    np.testing.assert_array_equal(rows.settle(some), squared[:, some].min(axis=0))


def test_the_farthest_rows_by_their_bounds_are_the_first_of_equal_ones() -> None:
    upper = np.array([3.0, 5, 4, 5, 5, 1, 4, -np.inf])
    for size, expected, behind in ((1, [1], 3), (2, [1, 3], 4), (4, [1, 2, 3, 4], 6), (7, [0, 1, 2, 3, 4, 5, 6], -1)):
        at, other = active.top_of(upper, size)
        assert (at.tolist(), other) == (expected, behind)


@pytest.mark.parametrize(("kind", "passes"), [("groups", 0.5), ("scales", 0.4), ("one group", 0.3)])
def test_picks_among_few_columns_cost_less_than_a_pass_each(kind: str, passes: float) -> None:
    """In counted operations of the driver, on inputs that were unfriendly: a pass of a plain loop is a product, a sum,
    a difference, a minimum and a comparison per row. The way of wide rows takes 1.0, 0.6 and 0.4 of these passes."""
    rng = np.random.default_rng(0)
    n, d, k = 20_000, 8, 600
    x = rng.normal(size=(n, d))
    if kind == "groups":
        x += 1e4 * rng.normal(size=(100, d))[rng.integers(0, 100, n)]
    elif kind == "scales":
        x = x * 10.0 ** -rng.integers(0, 5, (n, 1)) + 100 * rng.normal(size=(2, d))[rng.integers(0, 2, n)]
        x[:20] *= np.geomspace(1, 1e4, 20)[:, None]
    account = select("k_center", k, embedding=x, num_shards=1).account
    assert 0 < account["driver_operations"] < passes * n * k * (d + 4)


@pytest.mark.parametrize(("d", "least", "most"), [(4, 0.1, 0.3), (128, 0, 0.2)])
def test_picks_are_made_one_by_one_after_blocks_that_gave_few(
    d: int, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of picks that are made so. Of wide rows nearly every block gives enough picks."""
    alone, sweep = [0], active.Active.sweep

    def counted(*given: Any) -> list[float]:
        found = sweep(*given)
        alone[0] += len(found)
        return found

    monkeypatch.setattr(active.Active, "sweep", counted)
    select("k_center", 500, embedding=np.random.default_rng(0).random((8000, d)), num_shards=1)
    assert least <= alone[0] / 500 <= most


def test_one_labeled_row_costs_no_second_exchange_of_rows() -> None:
    """The driver holds all rows, as where nothing is labeled, because one pass measures their distances."""
    x = np.random.default_rng(0).normal(size=(9000, 8))
    accounts = [select("k_center", 200, embedding=x, labeled=np.arange(m), num_shards=2).account for m in (0, 1)]
    assert accounts[1]["exchanges"] < accounts[0]["exchanges"]


def met(space: Space, x: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, int]:
    """Squared distances of rows to the nearest of some centers, by boxes; and how many pairs were compared."""
    found = leaves.Leaves(space.canonical(x), np.full(len(x), np.inf))
    found.meet(space.canonical(others))
    squared, there = np.empty(len(x)), found.place < len(x)
    squared[found.place[there]] = found.squared[there]
    return squared, found.pairs


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_leaves_exclude_no_nearest_center(kind: str, metric: Metric) -> None:
    """The distances are those of all pairs, bit by bit."""
    for d in (1, 2, 3, 4):
        x, centers_ = made(kind, n=1100, d=d)[100:], made(kind, n=1100, d=d)[:100]
        space = Space.around(metric, x[:20])
        for p in (1, 3, 100):
            at, center = (index.ravel() for index in np.indices((len(x), p)))
            expected = space.pairs(x, centers_, at, center).reshape(len(x), p).min(axis=1)
            np.testing.assert_array_equal(met(space, x, centers_[:p])[0], expected)


def test_boxes_of_leaves_keep_most_rows_from_being_looked_at() -> None:
    x = np.random.default_rng(0).random((20_000, 3)).astype(np.float32)
    assert met(Space.around("l2", x), x, x[:1000])[1] < 0.1 * 20_000 * 1000
    account = select("k_center", 500, embedding=x, labeled=np.arange(1000), num_shards=1).account
    assert account["exchanges"] <= 5
    assert account["driver_operations"] < 0.15 * 20_000 * 1000 * 9  # nine operations for each pair


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("labeled", [np.arange(0), np.arange(12)])
def test_copies_are_sent_once(labeled: np.ndarray, shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest of each, as long as they are no copies of centers."""
    monkeypatch.setattr(farthest, "_AT_LEAST", 100)
    monkeypatch.setattr(farthest, "_HELD", 600)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 6)).astype(np.float32)[rng.integers(0, 60, 900)]
    assert_twin(chosen(x, labeled, 70, shards), twin(x, labeled, 70))
    known, rows = x[:12], np.arange(12, 900)
    context = Context(labeled=ArraySource(np.arange(12), {"embedding": known}))
    state = KCenter().open(ArraySource(rows, {"embedding": x[12:]}).open(), context)
    nothing = Block(np.empty(0, np.int64), {"embedding": x[:0]})
    far = state.far(Space.around("l2", x), nothing, nothing.rows, 1e-9, 900)
    lowest = np.sort(np.unique(x[12:], axis=0, return_index=True)[1])
    new = [row for row in rows[lowest] if not (x[row] == known).all(axis=1).any()]
    assert far.rows.tolist() == new
    assert far.rest[0] == 0


@pytest.mark.parametrize("norm", [1e3, 1e6])
def test_a_labeled_outlier_makes_no_other_bound_worse(norm: float) -> None:
    """It is in a block of its own."""
    x = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    ordinary = chosen(x, np.arange(200), 100, 1).account
    x[0] *= norm
    account = chosen(x, np.arange(200), 100, 1).account
    assert account["finer"] == 0
    assert account["rescored"] <= 1.2 * ordinary["rescored"]


@pytest.mark.parametrize("m", [0, 1])
def test_outliers_in_the_pool_make_no_other_bound_worse(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picks with large norms have bounds of their own, so that few rows need a second look afterwards."""
    monkeypatch.setattr(settled, "COLUMNS", 0)
    decided = []
    settle = held.Held.settle
    monkeypatch.setattr(held.Held, "settle", lambda self, at: decided.append(len(at)) or settle(self, at))
    x = np.random.default_rng(0).normal(size=(1500, 24)).astype(np.float32)
    x[100:120] *= np.geomspace(10, 1e4, 20)[:, None].astype(np.float32)
    assert_twin(chosen(x, np.arange(m), 300, 1), twin(x, np.arange(m), 300))
    assert 0 < sum(decided) < 3000


def test_shards_serve_several_selections(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier selection picked is forgotten."""
    monkeypatch.setattr(farthest, "_AT_LEAST", 4)
    monkeypatch.setattr(farthest, "_HELD", 1)
    x = made("random")
    context = Context(labeled=ArraySource(np.arange(10), {"embedding": x[:10]}))
    shards = InProcess([ArraySource(np.arange(10, 240), {"embedding": x[10:]})], KCenter(), context)
    for k in (60, 60, 20):
        assert_twin(KCenter().select(shards, k, context), twin(x, np.arange(10), k))


def test_few_pairs_are_measured() -> None:
    """Most rows leave after a few blocks of labeled rows, and one round is enough."""
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(50, 32))
    x = (middle[rng.integers(0, 50, 20_000)] + 0.3 * rng.normal(size=(20_000, 32))).astype(np.float32)
    with coarse.forced(False):
        account = select("k_center", 300, embedding=x, labeled=np.arange(2000), num_shards=4).account
    assert account["exchanges"] <= 6
    assert account["pairs"] < 0.6 * 18_000 * 2300
    assert account["rescored"] < 20_000
    assert len(account["shard_peak_bytes"]) == 4


def test_first_by_seeded_priority() -> None:
    x = made("random")
    one, other = (select(KCenter(first="random"), 5, embedding=x, seed=seed, num_shards=3) for seed in (0, 1))
    assert one == select(KCenter(first="random"), 5, embedding=x, seed=0, num_shards=1)
    assert one.rows[0] != other.rows[0]
    assert np.isinf(one.scores[0])


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["random", "tied", "duplicates", "offset", "line", "float16", "huge"])
def test_first_by_one_center(kind: str, metric: str, shards: int) -> None:
    if (kind, metric) == ("line", "cosine"):
        pytest.skip("all directions are one, up to rounding")
    x = made(kind)
    rows = np.setdiff1d(np.arange(240), [3, 77])
    strategy = KCenter(metric=metric, first="one_center")  # type: ignore[arg-type]
    picks = select(strategy, 4, embedding=x, exclude=[3, 77], num_shards=shards)
    expected = reference.k_center(x[rows], rows, 4, x[:0], metric == "cosine", "one_center")
    assert_twin(picks, expected)
    assert picks.account["exchanges"] < 150  # of 238 rows, most are ruled out by their bounds


def test_at_most_twice_the_best_radius() -> None:
    """Against the optimum by enumeration (Gonzalez 1985)."""
    from itertools import combinations

    x = made("random", n=14, d=3)
    squared = ((x[:, None].astype(float) - x[None]) ** 2).sum(-1)
    best = min(np.sqrt(squared[:, list(centers)].min(axis=1).max()) for centers in combinations(range(14), 3))
    picks = select("k_center", 3, embedding=x)
    assert picks.radius is not None
    assert best <= picks.radius[-1] <= 2 * best


def test_bad_options_are_refused_by_name() -> None:
    with pytest.raises(SelectionError, match="k_center: metric: expected one of l2, cosine, got 'l1'"):
        build("k_center", {"metric": "l1"})
    with pytest.raises(SelectionError, match="k_center needs embedding; got logits"):
        select("k_center", 3, logits=np.ones((5, 2)))


@pytest.mark.parametrize("shards", [1, 3])
def test_cut_has_no_part(shards: int) -> None:
    """Labeled rows in a file of their own, of another type."""
    x = made("random")
    known = ArraySource(np.arange(5), {"embedding": x[:5].astype(np.float64)})
    sources = [ArraySource(np.arange(5, 240)[p], {"embedding": x[5:][p]}) for p in cut(235, shards)]
    assert_twin(select_from(sources, KCenter(), 30, Context(labeled=known)), twin(x, np.arange(5), 30))


@pytest.mark.parametrize("labeled", [0, 1])
def test_rows_whose_distances_float32_cannot_tell_apart_are_told_apart(labeled: int) -> None:
    """More of them than are listed at once: rows that were given back were listed again, without end."""
    rng = np.random.default_rng(0)
    unit = [sign * np.eye(300) * (1 + 1e-7 * rng.normal(size=(300, 1))) for sign in (1, -1)]
    x = np.concatenate(unit)
    at = np.arange(labeled)
    for shards in (1, 2):
        assert_twin(chosen(x, at, 170, shards), twin(x, at, 170))
