"""What the driver of a selection holds per row of the pool. The shards are in a process of their own."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_process import OtherProcess

from alray import STRATEGIES, select
from alray.features.arrays import ArraySource, Shard, cut, narrow_values
from alray.selection.in_process import InProcess
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.protocol import Context, Picks, Shards, Strategy
from alray.selection.registry import build

SMALL, LARGE = 100_000, 300_000  # rows: what grows with them is the difference
C, D, M, K = 4, 4, 100, 40
LIMIT, NOISE = 8.0, 0.05  # bytes per row; noise: what else is allocated now and then
# Each of its ten parts has several labeled rows, and more rows than a driver holds to spare the shards their work.
SIZES = {"partitioned_k_center": (1_400_000, 1_600_000)}
OPTIONS: dict[str, dict[str, Any]] = {"robust_k_center": {"points": 60}, "k_means": {"iterations": 2}}


def inputs(strategy: Strategy, n: int) -> tuple[list[ArraySource], Context]:
    """Three shards of random features, and what else the strategy may need."""
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(n + M, D)).astype(np.float32), np.arange(n + M, dtype=np.int32)
    columns: dict[str, np.ndarray] = {"embedding": x, "discriminator": x[:, 0].copy()}
    columns |= {need: x[:, :1].copy() for need in strategy.needs if need.startswith("pixel")}
    columns = {name: column for name, column in columns.items() if name in strategy.needs | {"embedding"}}
    labels = rng.integers(0, C, n + M).astype(np.int32)
    labeled = ArraySource(rows[n:].astype(np.int64), {name: column[n:] for name, column in columns.items()})
    context = Context(
        1, 1, C, (rng.normal(size=(C, D)), np.zeros(C)), labeled, np.arange(M) % C, lambda rows: labels[rows],
        (rows, x[:, 1].copy()),
    )  # fmt: skip
    wide = rows.astype(np.int64)
    return [ArraySource(wide[p], {name: one[p] for name, one in columns.items()}) for p in cut(n, 3)], context


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[OtherProcess]:
    with OtherProcess() as shards:
        yield shards


def grown(strategy: Strategy, shards: OtherProcess, sizes: tuple[int, int] = (SMALL, LARGE)) -> float:
    """By how many bytes per row the most grows that the driver allocates while it chooses."""
    sources, context = inputs(strategy, 1000)
    strategy.select(InProcess(sources, strategy, context), K, context)  # imports
    peaks = []
    for n in sizes:
        sources, context = inputs(strategy, n)
        shards.hold(sources, strategy, context)
        del sources
        tracemalloc.start()
        try:
            strategy.select(shards, K, context)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "balancing"])
def test_the_driver_needs_at_most_eight_bytes_for_each_row(name: str, elsewhere: OtherProcess) -> None:
    """Balancing has one exchange per pick, and the same messages for any number of rows: it would only take long.
    PT4AL also holds rows and pretext losses, 8 bytes, which are measured below."""
    sizes = SIZES.get(name, (SMALL, LARGE))
    assert grown(build(name, OPTIONS.get(name)), elsewhere, sizes) <= LIMIT + NOISE


class _AllRows(ScoreStrategy):
    """Takes the numbers of all rows to the driver, as strategies did that now count instead."""

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        rows = np.concatenate(shards.map("rows"))
        return Picks(rows[:budget], np.zeros(budget))

    def open(self, shard: Shard, context: Context) -> Any:
        return shard


def test_a_strategy_that_holds_all_rows_is_noticed(elsewhere: OtherProcess) -> None:
    assert grown(_AllRows(), elsewhere) > LIMIT


@pytest.mark.parametrize("name", ["margin", "pt4al"])
@pytest.mark.parametrize("losses", [np.float32, np.float64])
def test_what_selection_holds_while_a_strategy_works_is_at_most_eight_bytes_for_each_row(
    name: str, losses: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files, as a large pool has to be: the sources, the context, and all that `select` has not let go."""

    def held(n: int) -> int:
        x = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "loss.npy", x[:, 0].astype(losses))
        del x
        found: list[int] = []

        def begin(*args: Any, **_: Any) -> Picks:
            found.append(tracemalloc.get_traced_memory()[0])
            return Picks(np.arange(K), np.zeros(K))

        monkeypatch.setattr("alray.selection.select.select_from", begin)
        given: dict[str, Any] = {"pretext_loss": str(tmp_path / "loss.npy")} if name == "pt4al" else {}
        tracemalloc.start()
        try:
            select(
                name, K, embedding=str(tmp_path / "x.npy"), head=(np.eye(C, D), np.zeros(C)), round=1,
                labeled=np.arange(0, 5000, 50), num_shards=3, workers="ray", **given,
            )  # fmt: skip
        finally:
            tracemalloc.stop()
        return found[0]

    monkeypatch.setattr("alray.selection.select.share_of_cpus", lambda shards: 1.0)
    held(1000 * K)  # imports
    assert (held(LARGE) - held(SMALL)) / (LARGE - SMALL) <= (LIMIT if name == "pt4al" else 0) + NOISE


def test_pretext_losses_are_held_in_single_precision_only_where_they_are_single() -> None:
    exact = np.random.default_rng(0).random(100).astype(np.float32).astype(np.float64)
    assert np.array_equal(narrow_values(exact), exact)
    assert narrow_values(exact).nbytes == 400
