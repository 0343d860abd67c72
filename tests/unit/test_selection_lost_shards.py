"""Shards that are made again from their source at any message: the same picks. Without Ray, so that every message of
every strategy is met; `tests/ray/test_lost_shards.py` kills real actors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from alray.features.arrays import ArraySource, cut
from alray.selection.in_process import ShardWorker
from alray.selection.protocol import Context, Strategy
from alray.selection.registry import STRATEGIES, build
from alray.selection.select import select_from

N, C, D, BUDGET = 2_400, 6, 5, 150
RNG = np.random.default_rng(0)
COLUMNS = {
    "random": {
        "embedding": RNG.normal(size=(N, D)).astype(np.float32),
        "logits": RNG.normal(size=(N, C)).astype(np.float32),
    },
    "tied": {
        "embedding": RNG.integers(-2, 3, (N, D)).astype(np.float32),
        "logits": RNG.integers(-2, 3, (N, C)).astype(np.float32),
    },
}
BESIDE = {name: RNG.integers(0, 50, N).astype(np.float32) for name in ("discriminator", "pretext_loss")}
HEAD = (RNG.normal(size=(C, D)).astype(np.float32), RNG.normal(size=C).astype(np.float32))
LABELS = RNG.integers(0, C, N)
LABELED = np.arange(N, N + 20)


def sources(shards: int, kind: str) -> list[ArraySource]:
    columns = COLUMNS[kind] | BESIDE
    return [ArraySource(np.arange(N)[part], {k: v[part] for k, v in columns.items()}) for part in cut(N, shards)]


def context(kind: str) -> Context:
    known = {name: column[:20] + 1 for name, column in COLUMNS[kind].items()}
    return Context(
        seed=1, round=2, num_classes=C, head=HEAD, labeled=ArraySource(LABELED, known), known=LABELS[:20],
        peek=lambda rows: LABELS[rows],
        pretext=(np.arange(N + 20), np.append(BESIDE["pretext_loss"], np.zeros(20))),
    )  # fmt: skip


@dataclass
class Losing:
    """Shards, some of which are lost with every message: before they get it, and once more before they answer. all:
    all of them, else one after the other."""

    strategy: Strategy
    kind: str
    count: int
    all: bool
    messages: int = 0
    workers: list[ShardWorker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = [self.made(number) for number in range(self.count)]

    def made(self, number: int) -> ShardWorker:
        return ShardWorker(sources(self.count, self.kind)[number], self.strategy, context(self.kind))

    def map(self, method: str, *args: Any) -> list[Any]:
        for number in range(self.count):
            if self.all or number == self.messages % self.count:
                self.made(number).call(method, *args)  # its answer is lost with it
                self.workers[number] = self.made(number)
        self.messages += 1
        return [worker.call(method, *args) for worker in self.workers]

    def report_progress(self, picks: int) -> None:
        pass


@pytest.mark.parametrize("all_", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_lost_shards_change_nothing(name: str, kind: str, all_: bool) -> None:
    strategy = build(name)
    expected = select_from(sources(1, kind), strategy, BUDGET, context(kind))
    assert strategy.select(Losing(strategy, kind, 3, all_), BUDGET, context(kind)) == expected
