"""Fast arithmetic only filters: the bounds hold, and nothing depends on how rows are blocked."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace

import mpmath
import numpy as np
import pytest
import reference

from alray.features.arrays import ArraySource, Block, Shard
from alray.selection.kernels import boundary
from alray.selection.kernels.boundary import Boundaries, reach
from alray.selection.kernels.logits import (
    LIMIT,
    Approximate,
    Logits,
    block_rows,
    dots,
    logits_of,
    needed,
    nonzero,
    paired_dots,
    single,
)
from alray.selection.kernels.per_class import PerClass
from alray.selection.kernels.room import Room
from alray.selection.kernels.top_rows import ScoreStrategy, TopRows
from alray.selection.protocol import Context, Picks, SelectionError, Strategy
from alray.selection.registry import build
from alray.selection.select import select, select_from
from alray.selection.strategies.base import Base
from alray.selection.strategies.confidence import Confidence
from alray.selection.strategies.entropy import Entropy
from alray.selection.strategies.margin import Margin
from alray.selection.strategies.mase import Mase

RNG = np.random.default_rng(0)
SOFT = [Confidence(), Margin(), Entropy()]
HARD = ["plain", "positive", "offset_300", "scale_1e4", "absorbed", "tiny", "huge", "duplicates", "twins", "zero"]


def hard(kind: str, dtype: type, n: int = 40, c: int = 9, d: int = 700) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    x, w, b = rng.normal(size=(n, d)), rng.normal(size=(c, d)) / d**0.5, rng.normal(size=c)
    x = np.abs(x) if kind == "positive" else x
    w = np.abs(w) if kind == "positive" else w
    x += 300 if kind == "offset_300" else 0
    w *= {"scale_1e4": 1e4, "zero": 0}.get(kind, 1)
    b *= kind not in ("tiny", "absorbed")
    if kind in ("tiny", "huge"):
        x *= {np.float16: (1e-7, 3e3), np.float32: (1e-24, 1e25), np.float64: (1e-24, 1e45)}[dtype][kind == "huge"]
    if kind == "absorbed":  # float32 loses every product but the first; more of them in some classes than in others
        x = np.where(np.arange(d) == 0, 1024.0, 1024 * 2**-12.6) * (1 + rng.integers(0, 8, (n, 1)) / 8)
        w = np.where(np.arange(d) == 0, 1.0, (np.arange(d) < d * np.arange(c)[:, None] / c) * 2**-12.6)
    if kind == "duplicates":
        x = x[rng.integers(0, 5, n)]
    if kind == "twins":
        w[1], w[2], w[3] = w[0], w[0], w[0] * (1 + 1e-9)
    return x.astype(dtype), w, b


def as_block(x: np.ndarray) -> Block:
    return Block(np.arange(len(x)), {"embedding": x})


@pytest.mark.parametrize("d", [1, 2, 7, 64, 1000, 2048, 9001])
def test_dot_products_do_not_depend_on_the_shape_of_the_whole(d: int) -> None:
    x, w = RNG.normal(size=(11, d)), RNG.normal(size=(13, d))
    whole = dots(x, w)
    np.testing.assert_allclose(whole, x @ w.T, rtol=1e-9, atol=1e-9)
    for i in range(11):
        np.testing.assert_array_equal(dots(x[i : i + 1], w)[0], whole[i])
        for j in range(13):
            assert paired_dots(x[i : i + 1], w[j : j + 1])[0] == whole[i, j]
    i, j = np.divmod(RNG.permutation(11 * 13), 13)
    np.testing.assert_array_equal(paired_dots(x[i], w[j]), whole[i, j])
    np.testing.assert_array_equal(dots(x[::2], w[::3]), whole[::2, ::3])


@pytest.mark.parametrize("with_torch", [True, False])
def test_every_float16_is_converted_exactly(with_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    finite = every[np.isfinite(every.astype(np.float32))].reshape(-1, 31)
    for values in (every, every[:, ::3], finite, finite[:, ::3], finite[:0]):
        found = single(values)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.astype(np.float32))
        np.testing.assert_array_equal(np.signbit(found), np.signbit(values))


def test_nonzero_is_numpys() -> None:
    mask = RNG.random((17, 23)) < 0.1
    for ours, theirs in zip(nonzero(mask), np.nonzero(mask), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_float32_logits_are_within_their_bound(kind: str, dtype: type) -> None:
    x, w, b = hard(kind, dtype)
    logits = Logits(w, b)
    block = as_block(x)
    approximate = logits.approximate(block)
    true = x.astype(np.longdouble) @ w.astype(np.longdouble).T + b.astype(np.longdouble)
    for exact in (true, logits.exact_rows(block)):
        error = np.abs(approximate.z.astype(np.longdouble) - exact).max(axis=1)
        assert (error <= approximate.eps)[approximate.usable].all()
    assert approximate.usable.all() == (kind != "huge" or dtype is np.float16)
    if kind in ("plain", "positive"):  # and the bound is worth something
        assert (
            approximate.eps < 1e-4 * np.linalg.norm(x.astype(float), axis=1) * np.linalg.norm(w, axis=1).max()
        ).all()


@pytest.mark.parametrize("scale", [1, 1e-30, 1e20])
def test_stored_float64_logits_are_within_their_bound(scale: float) -> None:
    z = RNG.normal(size=(50, 7)) * scale
    approximate = Logits().approximate(Block(np.arange(50), {"logits": z}))
    error = np.abs(approximate.z - z).max(axis=1)
    assert (error <= approximate.eps)[approximate.usable].all()
    np.testing.assert_array_equal(approximate.usable, np.abs(z).max(axis=1) < LIMIT)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_intervals_hold_the_exact_scores(kind: str, dtype: type) -> None:
    x, w, b = hard(kind, dtype)
    context, block = Context(head=(w, b)), as_block(x)
    shard = ArraySource(block.rows, block.columns).open()
    for strategy in (Margin(), Mase()):
        scorer = strategy.scorer(shard, context)
        low, high = scorer.bounds(block)
        exact = scorer.exact(block)
        assert (low <= exact).all()
        assert (exact <= high).all()
    logits = logits_of(shard, context)
    boundaries = Boundaries(logits, context)
    filtered = boundaries.filter(block)
    np.testing.assert_array_equal(filtered.y, logits.exact_rows(block).argmax(axis=1))
    at, classes = (index.ravel() for index in np.indices((len(x), len(w))))
    distance = boundaries.exact(block, filtered, at, classes)
    assert (filtered.low[at, classes] <= reach(distance)).all()
    expected = reference._distances(logits.exact_rows(block), w)
    for i, y in enumerate(filtered.y):
        wanted = [min(expected[1][i]) if c == y else d for c, d in enumerate(expected[0][i])]
        np.testing.assert_allclose(distance.reshape(len(x), -1)[i], wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 60])
@pytest.mark.parametrize("strategy", SOFT)
def test_scores_of_stored_logits_are_within_their_interval(strategy: ScoreStrategy, classes: int, dtype: type) -> None:
    """From ties to certainty, far beyond where float64 says that a probability is 1."""
    z = RNG.normal(size=(2000, classes))
    z[:, 0] += np.linspace(0, 6e4, 2000) ** 2 / 6e4
    block = Block(np.arange(2000), {"logits": z.astype(dtype)})
    scorer = strategy.scorer(ArraySource(block.rows, block.columns).open(), Context())
    (low, high), exact = scorer.bounds(block), scorer.exact(block)
    assert (low <= exact).all()
    assert (exact <= high).all()
    assert (high - low < 1e-3 + 1e-6 * np.abs(z).max(axis=1)).all()


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("classes", [2, 30, 60, 600])
@pytest.mark.parametrize("strategy", SOFT)
def test_no_row_that_reaches_a_threshold_is_ruled_out(
    strategy: ScoreStrategy, classes: int, scale: float, eps: float
) -> None:
    """Some rows are as unsure as their gap allows, so that a bound that is a little too low is seen."""
    z = (RNG.normal(size=(400, classes)) * scale).astype(np.float32)
    z[:200, 1:] = z[:200, 1:2]
    z[:200, 0] = z[:200, 1] + np.linspace(0, 12, 200, dtype=np.float32)
    block = Block(np.arange(400), {"logits": z})
    direction = (-1, *[1] * (classes - 1))
    scorer = replace(strategy.scorer(Shard([]), Context()), logits=Wrong(eps=eps, direction=direction))
    exact, ruled_out = scorer.exact(block), 0
    for least in np.quantile(exact, [0.5, 0.9, 0.99, 1.0]):
        low, high = scorer.bounds(block, least)
        assert (high >= exact)[exact >= least].all()
        assert (low <= exact).all()
        assert (exact < least)[high < least].all()
        ruled_out += int((high < least).sum())
    assert ruled_out > 0


@dataclass(frozen=True)
class Wrong(Logits):
    """Logits that are as wrong as they may be: off by eps, each class in its own direction."""

    eps: float = 0.0
    direction: tuple[int, ...] = ()

    def approximate(self, block: Block) -> Approximate:
        right = super().approximate(block)
        return Approximate(right.z, right.eps + self.eps, right.usable)

    def singles(self, block: Block) -> None:
        return None

    def usable(self, block: Block) -> None:
        return None

    def exact_rows(self, block: Block) -> np.ndarray:
        return super().exact_rows(block) + self.eps * np.array(self.direction)


@pytest.mark.parametrize("eps", [1e-6, 1e-2, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("direction", list(itertools.product((-1, 1), repeat=4)))
@pytest.mark.parametrize("strategy", SOFT)
def test_intervals_hold_for_the_worst_error(strategy: ScoreStrategy, direction: tuple[int, ...], eps: float) -> None:
    z = (RNG.normal(size=(300, 4)) * np.linspace(0, 30, 300)[:, None]).astype(np.float32)
    z[:50, 1] = z[:50, 0]
    block = Block(np.arange(300), {"logits": z})
    scorer = replace(strategy.scorer(Shard([]), Context()), logits=Wrong(eps=eps, direction=direction))
    (low, high), exact = scorer.bounds(block), scorer.exact(block)
    assert (low <= exact).all()
    assert (exact <= high).all()


def test_head_rows_that_nearly_coincide() -> None:
    """Their distances are lost in a matrix product, and must not be."""
    first = RNG.normal(size=200)
    w = first * (1 + np.arange(30)[:, None] * 1e-9)
    context = Context(head=(w, np.zeros(30)))
    z = RNG.normal(size=(300, 30)).astype(np.float32)
    block = Block(np.arange(300), {"logits": z})
    boundaries = Boundaries(Logits(), context)
    filtered = boundaries.filter(block)
    at, classes = (index.ravel() for index in np.indices(z.shape))
    distance = boundaries.exact(block, filtered, at, classes)
    assert (filtered.low.ravel() <= reach(distance)).all()
    assert np.isfinite(distance).all()
    np.testing.assert_allclose(filtered.low.ravel(), distance, rtol=1e-5)


def test_distances_between_classes_are_the_same_in_both_directions() -> None:
    """Products of the same two rows differ in their last bits between blocks of many rows and of few, and these pairs
    are at the limit behind which a product has too few digits."""
    c, d = 1025, 512  # blocks of 1,023 rows and of two
    rng = np.random.default_rng(0)
    last, aside = rng.normal(size=d), rng.normal(size=(c - 1, d))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    w = last + aside
    for _ in range(3):
        limit = 4 * (d + 8) * 2.0**-27 * (np.einsum("cd,cd->c", w, w) + last @ last)
        w = last + aside * (np.sqrt(limit) * (1 + rng.normal(size=c - 1) * 1e-10))[:, None]
    w[-1] = last + 50 * aside[-1]
    context = Context(head=(np.vstack([w, last]), np.zeros(c)))
    inverse = Boundaries(Logits(), context).inverse
    np.testing.assert_array_equal(inverse, inverse.T)
    assert np.count_nonzero(inverse) == c * (c - 1), "no two classes have the same weights"


def test_a_state_answers_for_any_budget() -> None:
    z = RNG.normal(size=(100, 5))
    shard = ArraySource(np.arange(100), {"logits": z}).open()
    state = Margin().open(shard, Context())
    for budget in (5, 50, 5, 100):
        state.propose(budget)
        assert list(state.answer(budget, -np.inf)[0]) == list(reference.margin(z, np.arange(100), budget)[0])


class Cut(TopRows):
    """Shard state with blocks of three rows and hardly any room."""

    def __init__(self, strategy: Margin | Mase, shard: Shard, context: Context) -> None:
        shard = needed(shard, strategy.needs)
        super().__init__(shard, strategy.scorer(shard, context), context.ties, 3, slack=2)


class TightMargin(Margin):
    def open(self, shard: Shard, context: Context) -> TopRows:
        return Cut(self, shard, context)


class TightMase(Mase):
    def open(self, shard: Shard, context: Context) -> TopRows:
        return Cut(self, shard, context)


class TightBase(Base):
    def open(self, shard: Shard, context: Context) -> PerClass:
        shard = needed(shard, self.needs)
        return PerClass(
            shard, Boundaries(logits_of(shard, context), context), context.ties, 50
        )  # more than twice the depth


@pytest.mark.parametrize(("tight", "plain"), [(TightMargin(), Margin()), (TightMase(), Mase()), (TightBase(), Base())])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_picks_do_not_depend_on_blocks_or_memory(kind: str, tight: Strategy, plain: Strategy) -> None:
    """Scores, too, to the last bit; nearly all rows are nearly tied in some of these."""
    x, w, b = hard(kind, np.float64, n=230, d=40)
    context = Context(head=(w, b))

    def pick(strategy: Strategy, shards: int) -> Picks:
        sources = [ArraySource(np.arange(230)[k::shards], {"embedding": x[k::shards]}) for k in range(shards)]
        return select_from(sources, strategy, 20, context)

    one = pick(plain, 1)
    for strategy, shards in ((plain, 7), (tight, 1), (tight, 3)):
        assert pick(strategy, shards) == one


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_base_does_not_depend_on_how_many_distances_between_classes_are_kept(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, b = hard(kind, np.float64, n=230, d=40)
    source = ArraySource(np.arange(230), {"embedding": x})
    one = [select_from([source], strategy, 20, Context(head=(w, b))) for strategy in (Base(), TightBase())]
    for name, value in (("_SLOTS", 5), ("_LINES", 2 * len(w)), ("_TABLE", 2 * len(w))):
        monkeypatch.setattr(boundary, name, value)
    assert [select_from([source], strategy, 20, Context(head=(w, b))) for strategy in (Base(), TightBase())] == one


@pytest.mark.parametrize("name", ["confidence", "margin", "entropy", "mase", "base"])
def test_near_ties_are_decided_in_float64(name: str) -> None:
    """Logits that are the same in float32 and differ in the last bits of float64. One column: nothing to sum."""
    rng = np.random.default_rng(2)
    x = 1 + rng.integers(0, 50, (300, 1)) * 2.0**-50
    w, b = np.array([[1.0], [2.0], [-1.0]]), np.array([1.0, 0.0, 0.5])
    logits = reference.logits_of(x, w, b)
    assert len(np.unique(logits.astype(np.float32), axis=0)) == 1
    rows = np.arange(300)
    strategy = build(name)
    sources = [ArraySource(rows[k::4], {"embedding": x[k::4]}) for k in range(4)]
    picks = select_from(sources, strategy, 40, Context(head=(w, b)))
    expected = getattr(reference, name)(*((logits, w) if name in ("mase", "base") else (logits,)), rows, 40)
    np.testing.assert_array_equal(picks.rows, expected[0])
    np.testing.assert_array_equal(picks.scores, expected[1])


def true_scores(z: np.ndarray) -> list[dict[str, mpmath.mpf]]:
    """The three scores of each row by their definitions, with digits enough for probabilities of exp(-10^4)."""
    found = []
    with mpmath.workdps(20_000):
        for row in z.tolist():
            exponentials = [mpmath.exp(mpmath.mpf(value)) for value in row]
            p = sorted((e / mpmath.fsum(exponentials) for e in exponentials), reverse=True)
            found.append(
                {
                    "confidence": mpmath.log((1 - p[0]) / p[0]),
                    "margin": mpmath.log(1 - p[0] + p[1]),
                    "entropy": mpmath.log(-mpmath.fsum(q * mpmath.log(q) for q in p)),
                }
            )
    return found


GAPS = [1.0, 5.0, 20.0, 36.0, 37.0, 38.0, 90.0, 120.0, 700.0, 760.0, 3000.0, 1e4]


def graded() -> np.ndarray:
    """Rows by increasing gap, four of nearly the same gap around each: they differ by little more than rounding."""
    gap = np.concatenate([value * (1 + np.arange(4) * 2.0**-44) for value in GAPS])
    return np.stack([gap, np.zeros(len(gap)), np.full(len(gap), -1.5)], axis=1)


def test_scores_are_those_of_exact_arithmetic_however_certain_the_model_is() -> None:
    z = graded()
    true = true_scores(z)
    for name in ("confidence", "margin", "entropy"):
        block = Block(np.arange(len(z)), {"logits": z})
        scores = build(name).scorer(Shard([]), Context()).exact(block)
        np.testing.assert_allclose(scores, [float(one[name]) for one in true], rtol=1e-13)
        expected = sorted(range(len(z)), key=lambda i: -true[i][name])
        assert np.argsort(-scores, kind="stable").tolist() == expected
        for shards in (1, 3):
            parts = [ArraySource(np.arange(len(z))[k::shards], {"logits": z[k::shards]}) for k in range(shards)]
            assert select_from(parts, build(name), 30, Context()).rows.tolist() == expected[:30]


def test_small_margins_keep_their_digits() -> None:
    z = np.zeros((20, 100))
    z[:, 0] = 1e-14 * (1 + np.arange(20) / 100)
    scores = Margin().scorer(Shard([]), Context()).exact(Block(np.arange(20), {"logits": z}))
    np.testing.assert_allclose(scores, -z[:, 0] / 100, rtol=1e-12)


def test_certain_rows_are_ranked_and_not_taken_from_the_top_of_the_folder() -> None:
    """Rows sorted by class, a head that is certain everywhere: the picks come from all classes."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(10), 100)
    z = (rng.normal(size=(1000, 10)) + 3 * np.eye(10)[label]) * 200
    for name in ("margin", "confidence", "entropy"):
        rows = select_from([ArraySource(np.arange(1000), {"logits": z})], build(name), 200, Context()).rows
        gap = np.sort(z, axis=1)[:, -1] - np.sort(z, axis=1)[:, -2]
        assert np.bincount(label[rows], minlength=10).min() >= 10
        assert len(set(rows) & set(np.argsort(gap)[:200])) >= 199


@pytest.mark.parametrize("name", ["margin", "confidence", "entropy", "mase", "base", "vaal", "pt4al", "cluster_margin"])
def test_equal_scores_do_not_follow_the_order_of_the_catalog(name: str) -> None:
    """A zero head and copies of one image: every round and seed takes other rows, for any cut the same ones."""
    x = np.ones((300, 4), np.float32)
    given = {"embedding": x, "head": (np.zeros((3, 4)), np.zeros(3))}
    given |= {column: x[:, 0] for column in ("discriminator", "pretext_loss") if column in build(name).needs}
    found = []
    for seed, round in ((0, 1), (1, 1), (0, 2)):
        picks = select(name, 30, **given, seed=seed, round=round)
        for shards in (2, 7):
            assert select(name, 30, **given, seed=seed, round=round, num_shards=shards) == picks
        assert picks.rows.max() > 200
        assert np.median(picks.rows) > 60
        found.append(set(picks.rows.tolist()))
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("strategy", [*SOFT, Mase(), Base()])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", ["embedding", "logits"])
def test_values_that_are_not_finite_are_refused_with_their_row(column: str, bad: float, strategy: Strategy) -> None:
    values = RNG.normal(size=(50, 4)).astype(np.float32)
    values[31, 2] = bad
    head = (np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    with pytest.raises(SelectionError, match="row 131 are not finite"), np.errstate(invalid="ignore"):
        select_from([ArraySource(np.arange(100, 150), {column: values})], strategy, 2, Context(head=head))


def test_columns_that_are_not_needed_are_not_read() -> None:
    shard = ArraySource(np.arange(3), {"embedding": np.ones((3, 2)), "logits": np.ones((3, 4))}).open()
    assert list(needed(shard, Margin.needs).segments[0].columns) == ["logits"]
    assert block_rows(shard, Context()) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 60, 600])
@pytest.mark.parametrize("strategy", SOFT)
def test_a_logit_that_is_not_finite_is_refused_wherever_it_is(
    strategy: ScoreStrategy, classes: int, dtype: type, bad: float
) -> None:
    """In a row of a later block, too, when it is known what score is wanted and most rows are ruled out."""
    z = RNG.normal(size=(3000, classes)).astype(dtype)
    z[2900, -1] = bad
    with pytest.raises(SelectionError, match="row 2900"):
        select(strategy, 10, logits=z)


@pytest.mark.parametrize("eps", [0.0, 0.02, -0.02])
@pytest.mark.parametrize("offset", [0.0, 55.0, -55.0, 300.0, -300.0, "apart"])
@pytest.mark.parametrize("classes", [2, 30, 60, 600])
@pytest.mark.parametrize("strategy", SOFT)
def test_the_screen_bounds_scores_wherever_the_logits_are(
    strategy: ScoreStrategy, classes: int, offset: float | str, eps: float
) -> None:
    """Its logits are off by eps: those of the likely classes in one direction, the others in the other one."""
    z = (3 * RNG.normal(size=(500, classes))).astype(np.float32)
    likely = z > z.max(axis=1, keepdims=True) - 2
    z += np.repeat(np.float32([-50, 50]), 250)[:, None] if offset == "apart" else np.float32(offset)
    scorer = strategy.scorer(Shard([]), Context())
    exact = scorer.exact(Block(np.arange(500), {"logits": z + eps * np.where(likely, 1.0, -1.0)}))
    gap = np.diff(np.sort(z, axis=1)[:, -2:].astype(np.float64))[:, 0]
    for least in (-np.inf, *np.quantile(exact, [0.5, 0.99])):
        told = scorer.screen.rows(z, np.full(500, abs(eps)), gap, least, Room())
        if told is None:
            assert -np.inf < least <= scorer.screen.smallest
            continue
        assert np.isin(np.flatnonzero(exact >= least), told.at).all()
        assert not (told.low > exact[told.at])[~np.isnan(told.low)].any()
        assert not (told.high < exact[told.at])[~np.isnan(told.high)].any()
        assert not np.isnan([told.low, told.high])[:, ~told.rough].any()
        assert not told.rough.all() or offset or eps  # what is far from 0 or wrong is told too roughly
