"""Selection on Ray actors: the picks of one process; `test_lost_shards.py` has what dies on the way."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alray.features.arrays import ArraySource, Shard, cut
from alray.models.no_gpu import for_workers
from alray.selection.protocol import Context, NotFiniteError, Picks, SelectionError, Strategy
from alray.selection.registry import STRATEGIES as ALL
from alray.selection.registry import build
from alray.selection.select import select, select_from
from alray.selection.shards import RayActors

pytestmark = pytest.mark.usefixtures("ray_session")
CPUS = 0.1  # a fraction each, so that all actors fit on four CPUs
STRATEGIES = {name: build(name) for name in ALL}

N, C, D = 211, 6, 5
RNG = np.random.default_rng(0)
COLUMNS = {
    "embedding": RNG.normal(size=(N, D)).astype(np.float32),  # the random input
    "logits": RNG.integers(-2, 3, (N, C)).astype(np.float16),  # the tied one
}
BESIDE = {name: RNG.integers(0, 50, N).astype(np.float32) for name in ("discriminator", "pretext_loss")}
HEAD = (RNG.normal(size=(C, D)).astype(np.float32), RNG.normal(size=C).astype(np.float32))
LABELS = RNG.choice(C, N, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
KNOWN = {name: RNG.normal(size=(11, column.shape[1])).astype(np.float32) for name, column in COLUMNS.items()}
CONTEXT = Context(
    seed=1, round=2, num_classes=C, head=HEAD, labeled=ArraySource(np.arange(1000, 1011), KNOWN),
    known=np.array([0] * 6 + [1] * 3 + [2] * 2), peek=lambda rows: LABELS[rows],
    pretext=(np.append(np.arange(N), np.arange(1000, 1011)), np.append(BESIDE["pretext_loss"], np.arange(11.0))),
)  # fmt: skip


def inputs(name: str) -> list[tuple[str, ...]]:
    """The columns that a strategy may be given: logits as they are, or made from the embedding, or both."""
    needs = STRATEGIES[name].needs
    beside = tuple(needs & BESIDE.keys())
    if "logits" not in needs or "embedding" in needs:
        return [(*COLUMNS, *beside)]
    return [("embedding", *beside), ("logits", *beside)]


def sources(shards: int, *columns: str) -> list[ArraySource]:
    every = COLUMNS | BESIDE
    names = columns or tuple(every)
    return [ArraySource(np.arange(N)[part], {name: every[name][part] for name in names}) for part in cut(N, shards)]


@pytest.mark.parametrize("shards", [1, 2, pytest.param(7, marks=pytest.mark.slow)])
def test_actors_give_the_picks_of_one_process(shards: int) -> None:
    """One set of actors serves all strategies and inputs: starting them is what costs."""
    with RayActors(sources(shards), _several(), CONTEXT, CPUS) as actors:
        for name, strategy in STRATEGIES.items():
            for columns in inputs(name):
                expected = select_from(sources(1, *columns), strategy, 30, CONTEXT)
                got = strategy.select(_Part(actors, name, columns), 30, CONTEXT)
                assert got == expected, (name, columns)


def _looks() -> Strategy:
    """Tells the environment variables of its workers. Local classes travel by value."""

    class State:
        def names(self) -> set[str]:
            import os

            return set(os.environ)

    class Looks(Strategy):
        uses_gpu = True

        def open(self, shard: Shard, context: Context) -> State:
            return State()

        def select(self, shards: Any, budget: int, context: Context) -> Picks:
            raise NotImplementedError

    return Looks()


def test_actors_use_no_gpu_where_the_cluster_has_none() -> None:
    """`test_gpus_of_shards.py` has a cluster with some."""
    (name,) = for_workers(gpus=0)
    with RayActors(sources(1), _looks(), CONTEXT, CPUS, use_gpu=True) as actors:
        (names,) = actors.map("names")
    assert name in names


@dataclass
class _Part:
    """The actors of `_several`, as shards of one strategy and one input."""

    actors: RayActors
    name: str
    columns: tuple[str, ...]

    def map(self, method: str, *args: Any) -> list[Any]:
        return self.actors.map("call", self.name, self.columns, method, *args)

    def report_progress(self, picks: int) -> None:
        pass


def _several() -> Strategy:
    """All strategies at once, each on the shard with one of its columns. Local classes travel by value."""
    strategies, given = STRATEGIES, {name: inputs(name) for name in STRATEGIES}

    class State:
        def __init__(self, shard: Shard, context: Context) -> None:
            self.states = {}
            for name, strategy in strategies.items():
                for columns in given[name]:
                    cut = [replace(s, columns={c: s.columns[c] for c in columns}) for s in shard.segments]
                    self.states[name, columns] = strategy.open(Shard(cut), context)

        def call(self, name: str, columns: tuple[str, ...], method: str, *args: Any) -> Any:
            return getattr(self.states[name, columns], method)(*args)

    class Several(Strategy):
        needs = frozenset({"embedding", "logits", "head"})

        def open(self, shard: Shard, context: Context) -> State:
            return State(shard, context)

        def select(self, shards: object, budget: int, context: Context) -> Picks:
            raise NotImplementedError

    return Several()


def test_errors_in_an_actor_are_the_users_own_and_actors_are_released() -> None:
    """The message without Ray's traceback around it; afterwards nothing of the selection is alive."""
    import ray

    broken = COLUMNS["embedding"].copy()
    broken[150, 1] = np.nan
    actors = RayActors(
        [ArraySource(np.arange(N)[part], {"embedding": broken[part]}) for part in cut(N, 2)],
        STRATEGIES["margin"],
        CONTEXT,
        CPUS,
    )
    with actors:
        pids = actors.pids()
        with pytest.raises(NotFiniteError) as caught:
            STRATEGIES["margin"].select(actors, 30, CONTEXT)
    assert str(caught.value) == "numbers of row 150 are not finite"
    assert type(caught.value) is NotFiniteError and caught.value.row == 150
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "actors outlive their selection"
        time.sleep(0.1)
    assert ray.is_initialized()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_selection_alone_on_actors_and_from_ray_datasets() -> None:
    import ray.data

    expected = select("base", 20, embedding=COLUMNS["embedding"], head=HEAD, labeled=[3, 4])
    shuffled = RNG.permutation(N)
    dataset = ray.data.from_items(
        [{"row": int(row), "embedding": COLUMNS["embedding"][row], "other": 1} for row in shuffled],
        override_num_blocks=2,
    )
    got = select("base", 20, embedding=dataset, head=HEAD, labeled=[3, 4], num_shards=2, workers="ray")
    assert got == expected
    with pytest.raises(
        SelectionError, match="expected a Ray Dataset with the columns 'row' and 'logits', got row, embedding"
    ):
        select("margin", 20, logits=dataset)


def test_a_driver_whose_actors_need_no_torch_does_not_import_it() -> None:
    """It takes seconds. The driver is a process of its own, because tests have imported it here."""
    program = """
import sys
import numpy, ray
from alray import select
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
found = select("margin", 3, logits=numpy.eye(20, 4), workers="ray", num_shards=2)
print(len(found), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["3", "False"]
