"""The strategies against their slow twins, for any cut into shards, on random and on tied inputs."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from alray.features.arrays import PIXEL, ArraySource, cut
from alray.keyed import order
from alray.models.segmenter import uncertainties
from alray.selection.protocol import Context, Picks, SelectionError
from alray.selection.registry import OF_PIXELS, STRATEGIES, build, build_for_segmentation
from alray.selection.select import select, select_from
from alray.selection.strategies.base import Base

SOFT = ["confidence", "margin", "entropy"]
NAMES = [*SOFT, "mase", "base"]
SHARDS = [1, 2, 7, 30]
KINDS = ["random", "tied", "duplicates", "offset", "scale", "equal_rows", "zero_head", "one_class"]
TIED = {"tied", "zero_head"}  # integers: scores must agree to the last bit


def made(kind: str, dtype: type = np.float32, n: int = 61, c: int = 5, d: int = 6) -> tuple[np.ndarray, ...]:
    """embedding (n, d) of a type, weight (c, d) and bias (c,) float32."""
    rng = np.random.default_rng(KINDS.index(kind))
    x, w, b = rng.normal(size=(n, d)), rng.normal(size=(c, d)), rng.normal(size=c)
    if kind == "tied":
        x, w, b = (rng.integers(-2, 3, part.shape).astype(float) for part in (x, w, b))
    elif kind == "duplicates":
        x = x[rng.integers(0, n // 4, n)]
    elif kind == "offset":
        x = x + 300
    elif kind == "scale":
        w = w * 1e4
    elif kind == "equal_rows":
        w[[1, 3]] = w[0]
        b[3] = b[0]
    elif kind == "zero_head":
        w, b = w * 0, b * 0
    elif kind == "one_class":
        b[2] = 50
    return x.astype(dtype), w.astype(np.float32), b.astype(np.float32)


def twin(name: str, logits: np.ndarray, weight: np.ndarray, rows: np.ndarray, budget: int) -> reference.Picked:
    if name in SOFT:
        return getattr(reference, name)(logits, rows, budget)
    return getattr(reference, name)(logits, weight, rows, budget)


def sources(rows: np.ndarray, columns: dict[str, np.ndarray], shards: int, strided: bool = False) -> list[ArraySource]:
    parts = [slice(k, None, shards) for k in range(shards)] if strided else cut(len(rows), shards)
    return [ArraySource(rows[part], {name: column[part] for name, column in columns.items()}) for part in parts]


def assert_same(picks: Picks, expected: reference.Picked, exactly: bool = False) -> None:
    rows, scores = expected
    np.testing.assert_array_equal(picks.rows, rows)
    if exactly:
        np.testing.assert_array_equal(picks.scores, scores)
    else:
        np.testing.assert_allclose(picks.scores, scores, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_stored_logits(name: str, kind: str) -> None:
    x, w, b = made(kind)
    logits = reference.logits_of(x, w, b)
    rows = np.arange(len(x))
    expected = twin(name, logits, w, rows, 23)
    for shards in SHARDS:
        picks = select_from(sources(rows, {"logits": logits}, shards), build(name), 23, Context(head=(w, b)))
        assert_same(picks, expected, exactly=name in SOFT or kind in TIED)


# Probabilities of equal weights differ only by the rounding of dot products, which the twin sums in another order.
@pytest.mark.parametrize(
    ("name", "kind"), sorted({(n, k) for n in NAMES for k in KINDS} - {(n, "equal_rows") for n in SOFT})
)
def test_embedding_and_head(name: str, kind: str) -> None:
    x, w, b = made(kind)
    rows = np.arange(len(x))
    expected = twin(name, reference.logits_of(x, w, b), w, rows, 23)
    for shards in SHARDS:
        picks = select_from(sources(rows, {"embedding": x}, shards), build(name), 23, Context(head=(w, b)))
        assert_same(picks, expected, exactly=kind in TIED)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("column", ["embedding", "logits"])
@pytest.mark.parametrize("kind", ["random", "tied", "offset"])
@pytest.mark.parametrize("name", NAMES)
def test_stored_types(name: str, kind: str, column: str, dtype: type) -> None:
    x, w, b = made(kind, dtype)
    logits = reference.logits_of(x, w, b)
    if column == "logits":
        logits = logits.astype(dtype)
    rows = np.arange(len(x))
    values = {"embedding": x, "logits": logits}[column]
    picks = select_from(sources(rows, {column: values}, 3), build(name), 23, Context(head=(w, b)))
    assert_same(picks, twin(name, logits, w, rows, 23), exactly=kind in TIED)


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("name", [*NAMES, "random"])
def test_rows_keep_their_numbers_in_any_order_of_the_pool(name: str, kind: str) -> None:
    """The same images under other row numbers, and shards that interleave instead of following each other."""
    x, w, b = made(kind)
    numbers = np.random.default_rng(1).permutation(5 * len(x))[: len(x)]
    by_row = np.argsort(numbers)
    if name == "random":
        expected = reference.random_sampling(numbers, 23)
    else:
        expected = twin(name, reference.logits_of(x, w, b), w, numbers, 23)
    for shards in SHARDS:
        interleaved = sources(numbers[by_row], {"embedding": x[by_row]}, shards, strided=True)
        picks = select_from(interleaved, build(name), 23, Context(head=(w, b)))
        assert_same(picks, expected, exactly=kind in TIED or name == "random")


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize(("seed", "round"), [(0, 0), (0, 1), (7, 0)])
def test_random_equals_twin(seed: int, round: int, shards: int) -> None:
    rows = np.arange(1000, 1200)
    picks = select_from(sources(rows, {}, shards), build("random"), 50, Context(seed, round))
    assert_same(picks, reference.random_sampling(rows, 50, seed, round), exactly=True)


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates", "zero_head", "equal_rows"])
@pytest.mark.parametrize("name", NAMES)
def test_whole_pool_and_more_shards_than_rows(name: str, kind: str) -> None:
    x, w, b = made(kind)
    logits = reference.logits_of(x, w, b)
    rows = np.arange(len(x))
    expected = twin(name, logits, w, rows, len(x))
    for shards in (1, 7, 200):
        picks = select_from(sources(rows, {"logits": logits}, shards), build(name), len(x), Context(head=(w, b)))
        assert_same(picks, expected, exactly=name in SOFT or kind in TIED)


@pytest.mark.parametrize("shards", [1, 7])
@pytest.mark.parametrize("budget", [1, 3, 8, 19, 61])
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_base_with_seeded_class_order_and_few_labels(kind: str, budget: int, shards: int) -> None:
    x, w, b = made(kind, c=8)
    rows = np.arange(len(x))
    context = Context(seed=3, round=2, head=(w, b))
    picks = select_from(sources(rows, {"embedding": x}, shards), Base(class_order="seeded"), budget, context)
    classes = order(3, "base/class_order/2", np.arange(8))
    assert list(classes) != list(range(8))
    expected = reference.base(reference.logits_of(x, w, b), w, rows, budget, classes, 3, 2)
    assert_same(picks, expected, exactly=kind in TIED)


@pytest.mark.parametrize("shards", [1, 5])
def test_base_when_every_class_wants_the_same_rows(shards: int) -> None:
    """A few rows are nearest to all boundaries at once: classes run dry and ask again."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 12)) * np.linspace(0.01, 3, 400)[:, None]
    weight = rng.normal(size=(12, 4)).astype(np.float32)
    rows = np.arange(400)
    context = Context(head=(weight, np.zeros(12, np.float32)))
    for budget in (12 * 5, 12 * 20 + 5):
        picks = select_from(sources(rows, {"logits": logits}, shards), Base(), budget, context)
        assert_same(picks, reference.base(logits, weight, rows, budget))


@pytest.mark.parametrize("name", NAMES)
def test_one_class_only(name: str) -> None:
    """Nothing to decide: all rows score the same and go by their hashes, not by row."""
    x, w, b = made("random", c=1)
    picks = select_from(sources(np.arange(61), {"embedding": x}, 3), build(name), 5, Context(head=(w, b)))
    assert list(picks.rows) == list(order(0, "ties/0", np.arange(61))[:5])


def given(kind: str, n: int = 60, m: int = 12, c: int = 4, d: int = 6) -> reference.Given:
    """A pool of which some rows are labeled; tied: everything is a small integer."""
    rng = np.random.default_rng(len(kind))
    tied = kind == "tied"
    columns = {
        name: rng.integers(-1, 2, shape).astype(np.float32) if tied else rng.normal(size=shape).astype(np.float32)
        for name, shape in (
            ("embedding", (n, d)), ("logits", (n, c)), ("pretext_loss", (n,)), ("discriminator", (n,)), ("head", (c, d))
        )
    }  # fmt: skip
    weight = columns.pop("head").astype(np.float64)
    columns["labels"] = rng.choice(c, n, p=[0.6, 0.2, 0.15, 0.05])
    labeled = np.sort(rng.permutation(n)[:m])
    return reference.Given(np.setdiff1d(np.arange(n), labeled), labeled, columns, weight, seed=5, round=2)


UNDECIDED = {
    "cluster_margin": "which of equally distant groups are merged is linkage's choice",
    "balancing": "class means are no integers: ties depend on the last bit (test_selection_more has others)",
}


def test_every_strategy_has_a_slow_twin() -> None:
    """A new strategy is one line in STRATEGIES, one file, and one twin in tests/reference.py."""
    assert reference.TWINS.keys() | reference.OTHER_TWINS.keys() == STRATEGIES.keys()
    assert reference.PIXEL_TWINS.keys() == OF_PIXELS.keys()


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("name", list(reference.TWINS))
def test_every_strategy_equals_its_twin(name: str, kind: str, shards: int) -> None:
    if kind == "tied" and name in UNDECIDED:
        pytest.skip(UNDECIDED[name])
    all_ = given(kind)
    expected = reference.TWINS[name](all_, 9)
    picks = select(
        name, 9, **all_.columns, head=(all_.weight, np.zeros(len(all_.weight))), labeled=all_.labeled,
        seed=all_.seed, round=all_.round, num_shards=shards,
    )  # fmt: skip
    assert_same(picks, expected)


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("name", list(reference.TWINS))
def test_with_pending_rows_every_strategy_equals_its_twin_that_knows_them_as_labeled(
    name: str, kind: str, shards: int
) -> None:
    """A twin covers labeled and pending rows alike. Labels of pending rows are unknown, except to those that peek."""
    if kind == "tied" and name in UNDECIDED:
        pytest.skip(UNDECIDED[name])
    all_ = given(kind)
    labeled, pending = np.sort(all_.labeled[::2]), np.sort(all_.labeled[1::2])
    columns = dict(all_.columns)
    if not STRATEGIES[name].peeks():
        columns["labels"] = np.where(np.isin(np.arange(len(columns["labels"])), labeled), columns["labels"], -7)
    picks = select(
        name, 9, **columns, head=(all_.weight, np.zeros(len(all_.weight))), labeled=labeled, pending=pending,
        seed=all_.seed, round=all_.round, num_shards=shards,
    )  # fmt: skip
    assert_same(picks, reference.TWINS[name](all_, 9))


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_the_strategies_whose_twins_give_no_picks_know_pending_rows_too(kind: str, shards: int) -> None:
    all_ = given(kind, n=20, m=6)
    labeled, pending, x = all_.labeled[::2], all_.labeled[1::2], all_.columns["embedding"]
    both = {"embedding": x, "num_shards": shards, "seed": 1}
    robust = select("robust_k_center", 3, labeled=labeled, pending=pending, strategy_options={"outliers": 0.0}, **both)
    best = reference.robust_radius(x[all_.rows], 3, x[all_.labeled], 0)
    assert robust.account["radius"] == pytest.approx(best, rel=1e-9)
    means = select("k_means", 3, labeled=labeled, pending=pending, **both)
    assert means == select("k_means", 3, exclude=all_.labeled, **both)
    assert not np.isin([*robust.rows, *means.rows], all_.labeled).any()


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("options", [{"quota": "fill"}, {"quota": "fill", "class_order": "seeded"}])
def test_filled_quotas_count_a_pending_row_as_its_predicted_class(
    options: dict[str, str], kind: str, shards: int
) -> None:
    all_ = given(kind)
    labeled, pending = np.sort(all_.labeled[::2]), np.sort(all_.labeled[1::2])
    columns, weight = dict(all_.columns), all_.weight
    labels = columns.pop("labels")
    others = {
        "head": (weight, np.zeros(len(weight))), "seed": all_.seed, "round": all_.round, "strategy_options": options
    }  # fmt: skip
    counted = labels.copy()
    counted[pending] = columns["logits"][pending].argmax(axis=1)
    picks = select("base", 9, **columns, labels=labels, labeled=labeled, pending=pending, num_shards=shards, **others)
    expected = select("base", 9, **columns, labels=counted, labeled=all_.labeled, **others)
    assert picks == expected
    assert picks != select("base", 9, **columns, labels=labels, labeled=labeled, exclude=pending, **others)


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("name", list(reference.PIXEL_TWINS))
def test_every_strategy_of_pixels_equals_its_twin(name: str, kind: str, shards: int) -> None:
    """Sorted by the columns that the segmenter makes in float32: scores agree to its precision."""
    rng = np.random.default_rng(len(kind))
    maps = rng.integers(-1, 2, (40, 3, 1, 1)) if kind == "tied" else rng.normal(size=(40, 3, 4, 5))
    rows, losses = np.arange(40), rng.random(40)
    made = uncertainties(torch.from_numpy(maps.astype(np.float32)))
    strategy = build_for_segmentation(name)
    picks = select_from(
        sources(rows, {PIXEL[key]: column for key, column in made.items()}, shards), strategy, 4,
        Context(round=3, pretext=(rows, losses)),
    )  # fmt: skip
    if name == "pt4al":
        expected = reference.pixel_pt4al(losses, maps, rows, 4, 3, 10)
    else:
        expected = reference.pixel_score(maps, rows, 4, name)
    if kind == "random":
        np.testing.assert_array_equal(picks.rows, expected[0])
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-5)


def test_unknown_strategies_options_and_values_are_refused_by_name() -> None:
    for name in STRATEGIES:
        assert build(name) == build(name, {})
    with pytest.raises(SelectionError, match="expected one of random, .*base, .*, got 'bse'; the nearest is base"):
        build("bse")
    with pytest.raises(SelectionError, match="unknown option 'temperature'; expected one of class_order, quota"):
        build("base", {"temperature": 1})
    with pytest.raises(SelectionError, match="unknown option 'x'; it has none"):
        build("margin", {"x": 1})
    with pytest.raises(SelectionError, match="class_order: expected one of index, seeded, got 'alphabetic'"):
        build("base", {"class_order": "alphabetic"})
