"""BADGE: the race on factorised gradients draws what a ring-by-ring race on explicit ones draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from test_selection_exactness import Wrong

from alray.features.arrays import Block
from alray.selection import inputs
from alray.selection.kernels import race, weights, window
from alray.selection.kernels.gradients import Factors, Gradients, pooled
from alray.selection.kernels.logits import Logits
from alray.selection.kernels.rough import Rough
from alray.selection.protocol import Picks, SelectionError
from alray.selection.registry import build
from alray.selection.select import select
from alray.selection.strategies import badge
from alray.selection.strategies.badge import Badge

KINDS = ["random", "tied", "duplicates", "offset", "float16", "certain"]


def made(kind: str, n: int = 90, c: int = 4, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(KINDS.index(kind))
    x, z = rng.normal(size=(n, d)), 2 * rng.normal(size=(n, c))
    if kind == "tied":
        x, z = rng.integers(-1, 2, (n, d)).astype(float), rng.integers(-1, 2, (n, c)).astype(float)
    elif kind == "duplicates":
        at = rng.integers(0, n // 6, n)
        x, z = x[at], z[at]
    elif kind == "offset":
        x = x + 300
    elif kind == "certain":
        z *= 10
    dtype = np.float16 if kind == "float16" else np.float32
    return x.astype(dtype), z.astype(dtype)


def twin(x: np.ndarray, z: np.ndarray, labeled: np.ndarray, k: int, **options: object) -> reference.Picked:
    rows = np.setdiff1d(np.arange(len(x)), labeled)
    known = {"labeled": x[labeled], "labeled_logits": z[labeled], "labeled_rows": labeled} if len(labeled) else {}
    return reference.badge(x[rows], z[rows], rows, k, seed=3, round=1, **known, **options)


def chosen(x: np.ndarray, z: np.ndarray, labeled: np.ndarray, k: int, shards: int, strategy: Badge) -> Picks:
    return select(strategy, k, embedding=x, logits=z, labeled=labeled, seed=3, round=1, num_shards=shards)


def assert_twin(picks: Picks, expected: reference.Picked) -> None:
    np.testing.assert_array_equal(picks.rows, expected[0])
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("m", [0, 1, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_twin(kind: str, m: int) -> None:
    x, z = made(kind)
    labeled = np.sort(np.random.default_rng(0).permutation(len(x))[:m])
    expected = twin(x, z, labeled, 30)
    for shards in (1, 2, 7, 30):
        assert_twin(chosen(x, z, labeled, 30, shards, Badge()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_new_epochs_small_windows_and_the_whole_pool(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only large or exhausted pools come to: many windows, new races, and rows that lie on centers."""
    x, z = made(kind, n=40)
    for module, name, value in (
        (badge, "_PATIENCE", 2), (badge, "_AT_LEAST", 20), (badge, "_WINDOW", 7), (window, "_CHUNK", 3),
        (weights, "ROWS", 5), (race, "ROWS", 5), (weights, "CENTERS", (1, 2)),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    for labeled in (np.arange(0), np.arange(0, 20, 2)):
        expected = twin(x, z, labeled, 40 - len(labeled), patience=(2, 20))
        for shards in (1, 7):
            assert_twin(chosen(x, z, labeled, 40 - len(labeled), shards, Badge()), expected)


def test_the_original_ignores_labeled_rows_and_may_start_anywhere() -> None:
    x, z = made("random")
    rows = np.arange(10, 90)
    for first in ("largest_norm", "random"):
        strategy = Badge(centers="picks", first=first)  # type: ignore[arg-type]
        expected = reference.badge(x[rows], z[rows], rows, 20, seed=3, round=1, first=first)
        assert_twin(chosen(x, z, np.arange(10), 20, 3, strategy), expected)


def test_rows_are_drawn_in_proportion_to_their_weights() -> None:
    """The second draw over 2,000 rounds against D^2 by explicit outer products (chi-square)."""
    x, z = made("random", n=6)
    g = reference.gradients(x, z)
    first = int(np.argmax((g**2).sum(1)))
    weight = ((g - g[first]) ** 2).sum(1)
    counts = np.zeros(6)
    for number in range(2000):
        picks = select("badge", 2, embedding=x, logits=z, round=number)
        assert picks.rows[0] == first
        counts[picks.rows[1]] += 1
    expected = 2000 * weight / weight.sum()
    assert counts[first] == 0
    others = np.arange(6) != first
    assert ((counts - expected)[others] ** 2 / expected[others]).sum() < 18.5  # 4 degrees of freedom, p = .001


def test_embedding_and_head_give_the_picks_of_their_logits() -> None:
    x, _ = made("random")
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    made_of = select("badge", 20, embedding=x, head=(w, b), labeled=np.arange(5), num_shards=3)
    stored = select("badge", 20, embedding=x, logits=reference.logits_of(x, w, b), labeled=np.arange(5))
    np.testing.assert_array_equal(made_of.rows, stored.rows)


def assert_differences(rows: Rough, centers: Gradients, canonical: np.ndarray, squares: np.ndarray) -> None:
    """That bounds hold of what centers add to the rows' own canonical squares (m,) in the distances (m, p)."""
    low, high = rows.differences(centers.rough)
    added = canonical - squares[:, None]
    assert (low <= added).all()
    assert ((added <= high) | (canonical == 0)).all()  # it was clipped
    assert (squares <= rows.above()).all()


@pytest.mark.parametrize("kind", [*KINDS, "huge"])
def test_factorised_distances_are_those_of_outer_products_and_within_their_bounds(kind: str) -> None:
    x, z = made("random" if kind == "huge" else kind)
    if kind == "huge":
        x = (x * 1e25).astype(np.float32)
    u, h = (reference.gradients(np.ones((len(z), 1)), z), x)
    one = Gradients(np.arange(len(x)), u, h)
    explicit = reference.gradients(x, z)
    exact = ((explicit[:, None] - explicit[None]) ** 2).sum(-1)
    at, there = (index.ravel() for index in np.indices(exact.shape))
    canonical = one.pairs(one, at, there).reshape(exact.shape)
    np.testing.assert_allclose(canonical, exact, rtol=1e-9, atol=1e-9 * exact.max())
    low, high = one.rough.bounds(one.rough)
    assert ((low <= canonical) & (canonical <= high)).all()
    assert_differences(one.rough, one, canonical, one.squares)
    if kind != "huge":
        assert np.median(high - low) < 2e-3 * np.median(exact) or kind == "certain"


@pytest.mark.parametrize("size", [1e18, 1e140])
def test_bounds_of_weights_hold_beyond_the_range_of_float32(size: float) -> None:
    x, z = made("random")
    x = x.astype(np.float64) * size
    expected = twin(x, z, np.arange(5), 20)
    for shards in (1, 7):
        assert_twin(chosen(x, z, np.arange(5), 20, shards, Badge()), expected)


def test_pooled_factors_are_the_pooled_outer_product() -> None:
    rng = np.random.default_rng(0)
    u, h = rng.normal(size=(3, 37)), rng.normal(size=(3, 101))
    whole = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(u[:, :, None] * h[:, None, :]), (16, 32))
    np.testing.assert_allclose(pooled(u, 16)[:, :, None] * pooled(h, 32)[:, None, :], whole.numpy(), rtol=1e-12)
    assert pooled(u, 40) is u
    assert Factors(Logits(), (16, 32)).pooled == (16, 32)


def test_bad_options_are_refused_by_name() -> None:
    with pytest.raises(SelectionError, match="badge: centers: expected one of labeled, picks, got 'all'"):
        build("badge", {"centers": "all"})
    with pytest.raises(SelectionError, match="badge needs embedding; got logits"):
        select("badge", 3, logits=np.ones((5, 2)))


@pytest.mark.parametrize("gap", [1.0, 45.0, 60.0, 100.0, 300.0, 800.0, 1e4])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_no_row_repeats_however_certain_the_model_is(scale: float, gap: float) -> None:
    """Gradients below float32's range, and at the largest gaps below float64's, where the rest is drawn uniformly."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 4)) * scale).astype(np.float32)
    z = np.eye(3)[rng.integers(0, 3, 60)] * gap + rng.normal(size=(60, 3))
    for name in ("badge", "partitioned_badge"):
        given = {"embedding": x, "logits": z, "labeled": [0, 1]}
        picks = select(name, 30, **given)
        assert len(np.unique(picks.rows)) == 30
        assert select(name, 30, **given, num_shards=3) == picks


@pytest.mark.parametrize("gap", [1.0, 30.0, 45.0, 60.0, 75.0, 100.0, 200.0])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_bounds_hold_and_mean_something_below_the_range_of_float32(scale: float, gap: float) -> None:
    rng = np.random.default_rng(1)
    n = 40
    z = np.eye(3)[rng.integers(0, 3, n)] * gap * rng.uniform(0.8, 1.2, (n, 1)) + rng.normal(size=(n, 3))
    z[1] = z[0]
    x = (rng.normal(size=(n, 4)) * scale).astype(np.float32)
    x[1] = x[0]
    block = Block(np.arange(n), {"embedding": x, "logits": z.astype(np.float32)})
    gradients = Factors(Logits()).of(block)
    i, j = (index.ravel() for index in np.indices((n, n)))
    exact = gradients.pairs(gradients, i, j).reshape(n, n)
    rough = Factors(Logits()).rough(block)
    for rows, finer in ((gradients.rough, 1.0), (rough, 0.01)):
        low, high = rows.bounds(gradients.rough)
        assert ((low <= exact) & (exact <= high)).all()
        assert_differences(rows, gradients, exact, gradients.squares)
        assert (finer * (high - low)[:, 0] <= 2e-4 * gradients.squares.max()).all()
    error = np.sqrt((((rough.u * rough.scale[:, None]) - gradients.u) ** 2).sum(axis=1))
    norm, h = np.sqrt((gradients.u**2).sum(axis=1)), np.sqrt((x.astype(float) ** 2).sum(axis=1))
    assert (error * h <= rough.away).all()
    assert (rough.away <= (1e-2 * norm + 1e-300) * h).all()
    assert (np.abs(rough.squares - gradients.squares) <= rough.slack * rough.squares + rough.away * norm * h * 3).all()


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-2])
def test_bounds_hold_for_wide_rows_and_the_worst_errors_of_logits(eps: float) -> None:
    """Equal numbers are rounded in the same direction all along a sum; each class's logit is wrong in its own."""
    rng = np.random.default_rng(2)
    n, c, d = 30, 40, 20_000
    x = np.full((n, d), 0.1, np.float32) * rng.integers(1, 4, (n, 1)).astype(np.float32)
    z = np.repeat(rng.normal(size=(n // 3, c)) * 3, 3, axis=0).astype(np.float32)
    block = Block(np.arange(n), {"embedding": x, "logits": z})
    factors = Factors(Wrong(eps=eps, direction=tuple(rng.choice([-1, 1], c))))
    exact = factors.of(block)
    i, j = (index.ravel() for index in np.indices((n, n)))
    distance = exact.pairs(exact, i, j).reshape(n, n)
    for rows in (exact.rough, factors.rough(block)):
        low, high = rows.bounds(exact.rough)
        assert ((low <= distance) & (distance <= high)).all()
        assert_differences(rows, exact, distance, exact.squares)


@pytest.mark.parametrize("gap", [8.0, 25.0, 30.0])
def test_labeled_rows_of_which_the_model_is_certain_are_told_apart_by_bounds(gap: float) -> None:
    """Their gradients are tiny, and so are the differences of a row's distances to them."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(3000, 16)).astype(np.float32), 2 * rng.normal(size=(3000, 20))
    z[np.arange(400), rng.integers(0, 20, 400)] += gap
    z, labeled = z.astype(np.float32), np.arange(400)
    picks = chosen(x, z, labeled, 50, 2, Badge())
    assert_twin(picks, twin(x, z, labeled, 50))
    assert 0 < picks.account["rescored"] < 0.05 * picks.account["pairs"]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("column", ["embedding", "logits"])
@pytest.mark.parametrize(("known", "k"), [(0, 1), (0, 5), (9, 1), (9, 5)])
def test_what_is_not_finite_is_refused_wherever_it_is(
    known: int, k: int, column: str, dtype: type, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards look for it while they read: nothing but float64 is read only for it."""
    rng, before = np.random.default_rng(0), inputs.check_values
    data = {"embedding": rng.normal(size=(3000, 5)), "logits": rng.normal(size=(3000, 4))}
    data = {name: values.astype(dtype) for name, values in data.items()}

    def check(name: str, rows: Any, array: Any, used: Any) -> None:
        assert dtype == np.float64, "the values were read beforehand"
        before(name, rows, array, used)

    monkeypatch.setattr("alray.selection.select.check_values", check)
    for first in ("largest_norm", "random"):
        given = {"labeled": np.arange(known), "strategy_options": {"first": first}, "num_shards": 2}
        select("badge", k, **data, **given)
        for row in [0, *rng.choice(np.arange(1, 3000), 4, replace=False).tolist()]:
            broken = {**data, column: data[column].copy()}
            broken[column][row, -1] = value
            with pytest.raises(SelectionError, match=f"^{column}: expected finite values, row {row} has NaN or inf"):
                select("badge", k, **broken, **given)


def test_a_labeled_row_that_is_not_finite_is_refused_though_all_others_lie_on_one_center() -> None:
    x, z = np.ones((50, 3), np.float32), np.ones((50, 4), np.float32)
    x[3] = np.nan
    with pytest.raises(SelectionError, match="^embedding: expected finite values, row 3 has NaN"):
        select("badge", 5, embedding=x, logits=z, labeled=np.arange(6))
