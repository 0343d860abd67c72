"""No input makes a selection hang or fill the memory: copies, ties and outliers, by counted work and not by seconds."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference

import alray
from alray import STRATEGIES, Picks
from alray.features.arrays import LOGITS, Block, Segment, Shard
from alray.features.row_runs import RowRuns
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.logits import Approximate, Logits, distinct
from alray.selection.kernels.per_class import SAMPLE, PerClass, likely, merged, unlimited
from alray.selection.kernels.softmax import sums
from alray.selection.protocol import Context, Ties
from alray.selection.strategies.k_means import _served

KINDS = ["identical", "zero", "two", "outlier", "halves", "tiny", "far"]


def table(kind: str, n: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows (n, width) float32 that are unfriendly to filters."""
    x = np.random.default_rng(seed).normal(size=(n, width))
    if kind == "identical":
        x[:] = x[0]
    elif kind == "zero":
        x[:] = 0
    elif kind == "two":
        x = x[np.arange(n) % 2]
    elif kind == "outlier":
        x[n // 3] *= 1e6
    elif kind == "halves":
        x += np.where(np.arange(n) % 2, 1e4, -1e4)[:, None]
    elif kind == "tiny":
        x *= 1e-38
    elif kind == "far":
        x += 4096
    return x.astype(np.float32)


def pick(
    name: str, kind: str, budget: int, n: int = 60, c: int = 5, d: int = 8, shards: int = 1, labeled: int = 5
) -> Picks:
    rng = np.random.default_rng(1)
    x, weight = table(kind, n, d), rng.normal(size=(c, d)) * (kind != "zero")
    more = {key: x[:, 0].copy() for key in ("pretext_loss", "discriminator") if key in STRATEGIES[name].needs}
    labels = np.append(np.arange(labeled) % c, rng.integers(0, c, n - labeled))
    return alray.select(
        name, budget, embedding=x, head=(weight, np.zeros(c)), labels=labels, labeled=np.arange(labeled),
        num_shards=shards, round=1 if name == "pt4al" else 0, **more,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_any_strategy_ends_on_any_input_with_the_same_picks_for_any_cut(name: str, kind: str) -> None:
    for c, budget, n in ((1, 10, 40), (2, 35, 40), (5, 3, 12)):  # one class; all rows; fewer rows than shards
        if c == 1 and STRATEGIES[name].needs & {"logits", "head"}:
            continue  # is refused
        whole = pick(name, kind, budget, n, c)
        assert len(whole) == budget
        assert whole == pick(name, kind, budget, n, c, shards=7 if n > 12 else 30)


@pytest.mark.parametrize("made", [False, True], ids=["stored", "made"])
@pytest.mark.parametrize("kind", ["identical", "zero", "two"])
def test_base_takes_few_passes_where_all_classes_want_the_same_rows(kind: str, made: bool) -> None:
    n, c, budget = 3000, 150, 450
    weight = np.random.default_rng(1).normal(size=(c, 16)) * (kind != "zero")
    given: dict[str, Any] = {"embedding": table(kind, n, 16)} if made else {"logits": table(kind, n, c)}
    picks = alray.select("base", budget, head=(weight, np.zeros(c)), num_shards=2, **given)
    passes = picks.account["rows_read"] / n
    assert passes <= 3 + math.log(budget / 24, 4)  # each looks four times as far as the one before, from 24 rows on
    assert picks.account["pairs"] <= 2 * 24 * c  # the rest is decided for whole rows
    assert picks.account["whole_rows"] <= 2 * n * passes  # a shard may be one block, which is looked at twice


@pytest.mark.parametrize("kind", ["random", "tied", "sorted"])
def test_shards_of_base_learn_from_each_other_how_far_to_look(kind: str) -> None:
    """What one shard alone would compare, many compare together, and a few rows of a sample more."""
    n, c, budget = 30_000, 40, 200
    rng = np.random.default_rng(6)
    logits, weight = rng.normal(size=(n, c)), rng.normal(size=(c, 6))
    if kind == "tied":
        logits = np.rint(2 * logits)
    if kind == "sorted":
        logits = logits[np.argsort(logits.argmax(axis=1), kind="stable")] * np.linspace(0.1, 3, n)[:, None]
    expected, _ = reference.base(logits, weight, np.arange(n), budget)
    costs = []
    for shards in (1, 2, 7, 30):
        picks = alray.select("base", budget, logits=logits, head=(weight, np.zeros(c)), num_shards=shards)
        assert picks.rows.tolist() == expected.tolist()
        costs.append((picks.account["whole_rows"], picks.account["pairs"]))
    assert all(whole <= 500 and pairs <= 1.5 * costs[0][1] for whole, pairs in costs), costs


def test_base_on_copies_equals_its_twin() -> None:
    n, c = 300, 40
    logits, weight = table("two", n, c), np.random.default_rng(1).normal(size=(c, 6))
    picks = alray.select("base", 90, logits=logits, head=(weight, np.zeros(c)), num_shards=3, seed=4, round=2)
    rows, scores = reference.base(logits, weight, np.arange(n), 90, seed=4, round=2)
    assert picks.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(picks.scores, scores, rtol=1e-12)


@pytest.mark.parametrize("kind", ["random", "two", "far"])
def test_the_table_of_distances_holds_the_canonical_ones(kind: str) -> None:
    weight = np.random.default_rng(2).normal(size=(7, 5))
    weight[3] = weight[2]  # two classes with no boundary between them
    block = next(Shard([Segment(RowRuns.of(np.arange(30)), None, {LOGITS: table(kind, 30, 7)})]).blocks(30))
    boundaries = Boundaries(Logits(), Context(head=(weight, np.zeros(7))))
    filtered = boundaries.filter(block)
    at, classes = np.divmod(np.arange(30 * 7), 7)
    exact = boundaries.exact(block, filtered, at, classes)
    assert np.array_equal(boundaries.table(block, filtered.y).ravel(), exact)


def test_a_row_that_ties_with_the_last_one_enters_by_its_hash() -> None:
    """With ten rows at a time, the order of equal rows is that of their hashes, not of the blocks."""
    weight = np.random.default_rng(2).normal(size=(4, 5))
    shard = Shard([Segment(RowRuns.of(np.arange(200)), None, {LOGITS: table("identical", 200, 4)})])
    state = PerClass(shard, Boundaries(Logits(), Context(head=(weight, np.zeros(4)))), Ties(3, 1), 10)
    found = state.nearest(np.array([1]), np.array([7]), np.array([5, 6]), 0, unlimited(1)).nearest
    rows = np.setdiff1d(np.arange(200), [5, 6])
    assert found.rows.tolist() == rows[Ties(3, 1).order(rows)][:7].tolist()


def heads(kind: str, c: int, d: int = 5) -> np.ndarray:
    """Weights (c, d); the classes 2 and 3 have no boundary between them."""
    rng = np.random.default_rng(5)
    weight = rng.integers(-1, 2, (c, d)).astype(float) if kind == "whole" else rng.normal(size=(c, d))
    weight[3:4] = weight[2:3]
    return weight


@pytest.mark.parametrize(("wrong", "dtype"), [(0, np.float32), (0, np.float64), (0.05, np.float32), (-0.05, float)])
@pytest.mark.parametrize("kind", ["normal", "whole"])
@pytest.mark.parametrize("c", [2, 6, 40])
def test_no_pair_that_is_as_near_as_a_limit_is_ruled_out(c: int, kind: str, wrong: float, dtype: type) -> None:
    """Limits are distances of rows, so that some pairs are exactly as near. wrong: how far the filter is off."""
    rng = np.random.default_rng(c)
    boundaries = Boundaries(Blurred(wrong=wrong), Context(head=(heads(kind, c), np.zeros(c))))
    z = rng.normal(size=(400, c)) * np.exp(rng.normal(size=(400, 1)))
    z = (np.rint(z) if kind == "whole" else z).astype(dtype)
    if dtype != np.float32:
        z[7] = 1e300  # too large for the filter
    block = next(Shard([Segment(RowRuns.of(np.arange(400)), None, {LOGITS: z})]).blocks(400))
    approximate = boundaries.logits.approximate(block)
    y, rows = boundaries.predicted(block, approximate), np.arange(400)
    assert y.tolist() == z.argmax(axis=1).tolist()
    distance = boundaries.table(block, y)
    decided = 0
    for _ in range(40):
        limits = np.where(rng.random(c) < 0.3, -np.inf, np.sort(distance, axis=0)[rng.choice(40, c), np.arange(c)])
        near = boundaries.within(approximate, y, boundaries.allowances(np.arange(c), limits)[y])
        missing = (distance <= limits) & ~near
        missing[rows, y] = False
        assert not missing.any()
        own = np.flatnonzero(distance[rows, y] <= limits[y])  # the class of the nearest boundary must be found, too
        others = distance.copy()
        others[rows, y] = np.inf
        nearest = others[own] == distance[own, y[own]][:, None]
        assert near[own][nearest & np.isfinite(others[own])].all()
        decided += np.count_nonzero(near)
    assert decided < 0.4 * 40 * near.size


@pytest.mark.parametrize("wrong", [0.0, 0.05, -0.05])
@pytest.mark.parametrize("kind", ["normal", "whole"])
@pytest.mark.parametrize(("c", "classes"), [(6, [0, 1, 2, 3, 4, 5]), (6, [4, 1]), (2, [0, 1]), (40, [7, 3, 39])])
def test_the_nearest_rows_of_a_class_are_those_of_a_full_sort(
    c: int, classes: list[int], kind: str, wrong: float
) -> None:
    """For any number of rows at once, with and without a sample before, up to the limits that the answer names."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(2000, c)) * np.exp(rng.normal(size=(2000, 1)))
    z = (np.rint(z) if kind == "whole" else z).astype(np.float32)
    shard = Shard([Segment(RowRuns.of(np.arange(2000)), None, {LOGITS: z})])
    boundaries = Boundaries(Blurred(wrong=wrong), Context(head=(heads(kind, c), np.zeros(c))))
    distance = boundaries.table(next(shard.blocks(2000)), z.argmax(axis=1))
    taken, hashes = np.arange(5), Ties().hashes(np.arange(2000))
    for size, of in ((2000, 0), (50, 0), (50, 2000), (64, 8000)):
        state = PerClass(shard, boundaries, Ties(), size)
        asked, depth, limits = np.array(classes), np.full(len(classes), 30), unlimited(len(classes))
        if of:
            few = likely(depth / SAMPLE)
            sample = state.sampled(asked, few, taken, of, limits)
            limits = merged([sample], few, Ties()).last(limits, few, Ties())
        answer = state.nearest(asked, depth, taken, of, limits)
        for at, k in enumerate(classes):
            rows = answer.nearest.rows[answer.nearest.which == at]
            order = np.lexsort((hashes, distance[:, k]))
            order = order[order >= len(taken)]
            limit, last = (ends[at] for ends in answer.limits)
            inside = (distance[order, k] < limit) | ((distance[order, k] == limit) & (hashes[order] <= last))
            assert rows.tolist() == order[inside].tolist()
            assert len(rows) == 30 if of == 0 else 7 <= len(rows) <= 30
            assert np.array_equal(distance[rows, k], answer.nearest.distances[answer.nearest.which == at])
    assert state.counters["ruled_out"] > 300


@dataclass(frozen=True, eq=False)
class Blurred(Logits):
    """Logits whose float32 form is as far off as its bound says, the largest downwards and all others upwards, or the
    other way round where `wrong` is negative."""

    wrong: float = 0.0

    def approximate(self, block: Block) -> Approximate:
        near = super().approximate(block)
        off = np.where(near.z == near.z.max(axis=1, keepdims=True), -self.wrong, self.wrong)
        return Approximate((near.z + 0.99 * off).astype(np.float32), near.eps + abs(self.wrong), near.usable)


@pytest.mark.parametrize("kind", ["identical", "two", "zero"])
def test_k_center_compares_copies_of_a_center_once(kind: str) -> None:
    n, m, k = 3000, 400, 300
    account = pick("k_center", kind, k, n, d=16, labeled=m).account
    assert account["pairs"] <= 4 * n
    assert account["rescored"] <= 4 * n


@pytest.mark.parametrize("kind", ["outlier", "halves"])
def test_k_center_decides_few_pairs_one_by_one_where_float32_is_too_coarse(kind: str) -> None:
    n, m, k = 3000, 400, 300
    x = table(kind, n, 80)  # the driver compares rows of fewer columns itself
    x[7] *= 1e4  # a labeled row
    account = alray.select("k_center", k, embedding=x, labeled=np.arange(m)).account
    assert account["finer"] > 0
    assert account["rescored"] <= 10 * n  # of 1,200,000 pairs


@pytest.mark.parametrize("kind", ["identical", "two", "zero"])
def test_k_means_takes_few_passes_where_all_centroids_want_the_same_rows(kind: str) -> None:
    picks = pick("k_means", kind, 256, 1500)
    assert picks.account["exchanges"] <= 3 + math.log(256, 4) + 1


def test_lists_are_served_in_rounds_until_one_of_them_is_used_up() -> None:
    lists = np.array([[4, 5, 6], [4, 7, 8], [4, 7, 9], [1, 2, 3]])
    at, place = _served(lists)
    # Round 1: 4 goes to the first list, 1 to the last. Round 2: both others want 7. Round 3: the third takes 9.
    assert dict(zip(at.tolist(), lists[at, place].tolist(), strict=True)) == {0: 4, 3: 1, 1: 7, 2: 9}
    at, place = _served(np.array([[4, 5], [4, 5], [4, 5]]))
    assert dict(zip(at.tolist(), lists[0][place].tolist(), strict=True)) == {0: 4, 1: 5}  # the third must look again


@pytest.mark.parametrize("name", ["badge", "partitioned_badge"])
def test_badge_compares_copies_of_a_center_once(name: str) -> None:
    n, m = 3000, 400
    account = pick(name, "two", 300, n, d=16, labeled=m).account
    if name == "badge":
        assert account["pairs"] <= 30 * n
        assert account["rescored"] <= 2 * n


def test_badge_brings_weights_up_to_date_with_the_new_picks_alone() -> None:
    """Where the model is certain, weights differ by hundreds of powers of ten: nearly every pick begins an epoch."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(400, 16)), rng.normal(size=(5, 16)) * 400
    account = alray.select("badge", 60, embedding=x, head=(weight, np.zeros(5)), labeled=[0, 1]).account
    epochs = account["rings"] / 4096
    assert epochs > 30
    assert account["pairs"] <= 4 * 400 * 60  # every row with every pick about once, not once per epoch
    assert account["rescored"] <= 10 * 400


def test_sums_are_correctly_rounded() -> None:
    rng = np.random.default_rng(0)
    for c in (1, 2, 3, 7, 100, 1000):
        for values in (
            rng.random((50, c)), np.exp(rng.normal(size=(50, c)) * 50), rng.integers(0, 5, (50, c)).astype(float),
            2.0 ** rng.integers(-107, 0, (50, c)), np.exp(-700 * rng.random((50, c))), np.full((50, c), 0.1),
        ):  # fmt: skip
            assert np.array_equal(sums(values), [math.fsum(row) for row in values.tolist()])
    half = np.array([[1.0, 2.0**-53, 0.0], [1.0, 2.0**-53, 2.0**-105]])  # the ends of the interval round differently
    assert sums(half).tolist() == [1.0, 1.0 + 2.0**-52]


def test_distinct_rows() -> None:
    x = np.array([[1, 2], [0, 5], [1, 2], [0, 5], [3, 3]], np.float16)
    first, again = distinct(x)
    assert sorted(first.tolist()) == [0, 1, 4]
    assert np.array_equal(x[first][again], x)


# Data may take what the inputs take ten times over, and 150 MB that do not grow with them.
LIMITED = """
import resource, sys
import numpy as np, torch, faiss, scipy.cluster.hierarchy, scipy.optimize, scipy.sparse
sys.path[:0] = {tests!r}
import test_selection_costs as costs
costs.pick("k_center", "identical", 20), costs.pick("badge", "two", 20)  # imports
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
n, c, d = 20_000, 100, 32
limit = size + 10 * n * (c + d) * 4 + 150 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for kind in ("identical", "two"):
    costs.pick({name!r}, kind, 200, n, c, d, labeled=200)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits what a process maps on Linux alone")
@pytest.mark.parametrize("name", STRATEGIES)
def test_memory_is_a_few_times_the_input(name: str) -> None:
    unit = Path(__file__).parent
    program = LIMITED.format(tests=[str(unit), str(unit.parent)], name=name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_order_of_ties_is_that_of_a_full_sort() -> None:
    rng, ties = np.random.default_rng(0), Ties(3, 1)
    for n in (0, 1, 2, 50, 300):
        for values in (1, 3, 1000):
            rows, score = rng.permutation(1000)[:n], rng.integers(-values, values, n) * 0.5
            score[rng.random(n) < 0.2] = np.inf
            group = rng.integers(0, 5, n).astype(np.uint16)
            assert np.array_equal(ties.order(rows, score, group), np.lexsort((rows, ties.hashes(rows), score, group)))
            assert np.array_equal(ties.order(rows, -score), np.lexsort((rows, ties.hashes(rows), -score)))
