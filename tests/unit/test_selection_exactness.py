"""Fast arithmetic only filters: the bounds hold, and nothing depends on how rows are blocked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import reference

from alray.features.arrays import ArraySource, Block, Shard
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
from alray.selection.kernels.top_rows import ScoreStrategy, TopRows
from alray.selection.protocol import Context, Picks, SelectionError, Strategy
from alray.selection.registry import build
from alray.selection.select import select_from
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


def test_every_float16_is_converted_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    np.testing.assert_array_equal(single(every), every.astype(np.float32))
    np.testing.assert_array_equal(single(every[:, ::3]), every[:, ::3].astype(np.float32))


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
    assert (high - low < 1e-3).all()


@dataclass(frozen=True)
class Wrong(Logits):
    """Logits that are as wrong as they may be: off by eps, each class in its own direction."""

    eps: float = 0.0
    direction: tuple[int, ...] = ()

    def approximate(self, block: Block) -> Approximate:
        right = super().approximate(block)
        return Approximate(right.z, right.eps + self.eps, right.usable)

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
        return PerClass(shard, Boundaries(logits_of(shard, context), context), context.ties, 50)  # more than twice the depth


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


def test_saturated_margins_are_ties_and_go_by_row() -> None:
    z = RNG.normal(size=(100, 5)) + 1000 * np.eye(5)[RNG.integers(0, 5, 100)]
    z[70] = [0, 0, 1, 2, 3]
    low, high = Margin().scorer(Shard([]), Context()).bounds(Block(np.arange(100), {"logits": z}))
    assert (low == high).sum() == 99
    picks = select_from([ArraySource(np.arange(100), {"logits": z})], Margin(), 4, Context())
    assert list(picks.rows) == [70, 0, 1, 2]
    assert list(picks.scores[1:]) == [-1, -1, -1]


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
