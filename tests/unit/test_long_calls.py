"""What is done in few long calls gives what short ones would give."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from alray.features.arrays import ArraySource, Block, Shard
from alray.selection.kernels.gap_scorer import GapScorer
from alray.selection.kernels.logits import LIMIT, Logits
from alray.selection.kernels.room import Room
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.protocol import Context
from alray.selection.select import select
from alray.selection.strategies.confidence import Confidence
from alray.selection.strategies.entropy import Entropy
from alray.selection.strategies.k_center import KCenter
from alray.selection.strategies.margin import Margin
from alray.selection.strategies.partitioned import Limits, PartStates, _inside, _limits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 500, 70_000])
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7, 8, 31, 64])
def test_the_two_largest_numbers_are_those_of_a_sort(classes: int, rows: int, tied: bool) -> None:
    rng, room = np.random.default_rng(classes * rows), Room()
    room.two_largest(room.transposed(rng.normal(size=(rows + 5, classes + 1)).astype(np.float32)))  # leaves other rows
    z = (rng.integers(0, 3, (rows, classes)) if tied else rng.normal(size=(rows, classes))).astype(np.float32)
    first, second = room.two_largest(room.transposed(z))
    assert np.array_equal(np.stack([second, first], axis=1), np.sort(z, axis=1)[:, -2:])


@pytest.mark.parametrize("classes", [2, 10, 60, 70, 600])
@pytest.mark.parametrize("strategy", [Confidence(), Margin(), Entropy()])
def test_rows_of_several_blocks_are_offered_together(strategy: ScoreStrategy, classes: int) -> None:
    """None that scores what is wanted is lost, nor told twice, also where nothing is known of some rows."""
    z = (3 * np.random.default_rng(classes).normal(size=(900, classes))).astype(np.float32)
    z[[5, 500]] = 2 * LIMIT * np.arange(classes, dtype=np.float32)
    scorer = strategy.scorer(Shard([]), Context())
    assert isinstance(scorer, GapScorer)
    exact = scorer.exact(Block(np.arange(900), {"logits": z}))
    for least in (-np.inf, *np.quantile(exact, [0.3, 0.9, 0.999])):
        offers = scorer.offers()
        for start in range(0, 900, 200):
            part = slice(start, start + 200)
            offers.add(Block(np.arange(900)[part], {"logits": z[part]}), least)
        rows, low, high = offers.take(least)
        assert len(np.unique(rows)) == len(rows)
        assert np.isin(np.flatnonzero(exact >= least), rows).all()
        assert (low <= exact[rows]).all() and (exact[rows] <= high).all()
        assert offers.waiting == 0 and not len(offers.take(least)[0])


def test_rows_that_wait_hold_few_logits() -> None:
    """With a large budget thousands of rows wait; all of their logits would be 36 MB here."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((20_000, 1000), dtype=np.float32)
    z[np.arange(len(z)), rng.integers(0, 1000, len(z))] += 9
    select("entropy", 10, logits=z[:100], num_shards=1)  # imports
    tracemalloc.start()
    try:
        select("entropy", 6000, logits=z, num_shards=1)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_few_rows_are_offered_where_few_can_score_what_is_wanted() -> None:
    z = (3 * np.random.default_rng(0).normal(size=(50_000, 10))).astype(np.float32)
    scorer = Margin().scorer(Shard([]), Context())
    exact = scorer.exact(Block(np.arange(50_000), {"logits": z}))
    assert isinstance(scorer, GapScorer)
    least = float(np.quantile(exact, 0.999))
    ((_, near),) = scorer.near(Block(np.arange(50_000), {"logits": z}), least)
    assert near.gap is not None and 50 <= len(near.told.at) < 5_000
    offers = scorer.offers()
    offers.add(Block(np.arange(50_000), {"logits": z}), least)
    assert offers.waiting == len(near.told.at)
    assert 50 <= len(offers.take(least)[0]) < 60


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf, LIMIT, -LIMIT])
def test_logits_are_usable_without_a_look_at_each_only_if_all_of_them_are(dtype: type, bad: float | None) -> None:
    z = np.random.default_rng(0).normal(size=(30, 4)).astype(dtype)
    if bad is not None:
        with np.errstate(over="ignore"):
            z[7, 2] = bad
    for stored in (z, np.asfortranarray(z)):
        found = Logits().usable(Block(np.arange(30), {"logits": stored}))
        if bad is not None or dtype == np.float64:
            assert found is None
        else:
            assert found is not None and np.array_equal(found, z.astype(np.float32))


@pytest.mark.parametrize(("rows", "parts"), [(1000, 7), (1000, 1), (1000, 300), (3, 10), (0, 2)])
def test_the_parts_of_all_rows_are_those_that_each_part_finds(rows: int, parts: int) -> None:
    numbers = np.flatnonzero(np.random.default_rng(rows).random(2 * rows) < 0.5)
    shard = ArraySource(numbers, {"embedding": np.zeros((len(numbers), 2), np.float32)}).open()
    states = PartStates(shard, KCenter(), Context(seed=3, round=2))
    limits: Limits = _limits(numbers, parts, "partitioned/2/pool", 3)
    for given in (limits, limits[:1], limits):
        for number in range(len(given)):
            expected = _inside(numbers, number, given, "partitioned/2/pool", 3)
            assert np.array_equal(states._parts_of(given) == number, expected)
