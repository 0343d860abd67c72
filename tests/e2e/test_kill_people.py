"""kill -9 while people label: no label is lost, nobody is asked twice, and the run is as if nothing had happened."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from program import start

from alray.config import DataConfig, LabelConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig
from alray.data.oracle import Status
from alray.labeling import receive, state
from alray.labeling.deliveries import LabelError
from alray.labeling.ledger import Ledger
from alray.rundir import RunDir
from alray.verify import verify

NAMES = ("apple", "pear", "plum")
BUDGET = 12


def config_of(root: Path, overlap: Literal[0, 1]) -> RunConfig:
    rng, n = np.random.default_rng(0), 300
    features = (3 * np.eye(3, 8)[np.arange(n) % 3] + rng.standard_normal((n, 8))).astype(np.float32)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "pool.npz").exists():
        np.savez(root / "pool.npz", features=features, label=np.full(n, -1))
    return RunConfig(
        name="kill", root=str(root), rounds=4, budget=BUDGET, strategy="margin", top_k=(),
        data=DataConfig(root=str(root / "pool.npz"), classes=NAMES), split=SplitConfig(seed_set_size=BUDGET),
        labels=LabelConfig(oracle="files", wait="exit", overlap=overlap),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip


class People:
    """Label a batch in two parts, with mistakes, skips and corrections that depend on the image alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.given, self.asked, self.seen = folder, {}, [], []  # type: ignore[var-annotated]
        self.visits = self.most = 0

    def answer(self, key: str) -> tuple[str, str, str]:
        chance = random.Random(key).random()
        if chance < 0.05:
            return key, "", "skip"
        if chance < 0.1:
            return key, "", "unusable"
        name = NAMES[int(key) % 3]
        return key, f" {name.upper()}" if chance < 0.3 else name, ""

    def work(self, run: RunDir) -> None:
        """One visit: half of a batch that is out, or the rest; every visit begins with a file that is refused."""
        batches = state.open_batches(run)
        for batch in batches:
            keys = batch.requests["key"].to_pylist()
            if batch.name not in self.seen:
                again = set(keys) & set(self.asked)
                assert all(self.answer(key)[2] == "skip" for key in again), "an image was asked for twice"
                self.asked += keys
                self.seen.append(batch.name)
        self.most = max(self.most, len(batches))
        ledger = Ledger(run.deliveries)
        missing = [(batch.missing(ledger), len(batch.requests)) for batch in batches]
        left, size = random.Random(self.visits).choice([one for one in missing if one[0]])
        self.visits += 1
        part = left[: size // 2]
        with pytest.raises(LabelError, match="2 lines cannot be used"):
            receive.receive(run, [self.write([self.answer(part[0]), ("nobody", "pear", ""), (part[0], "zebra", "")])])
        receive.receive(run, [self.write([self.answer(key) for key in part])])
        self.given |= {key: self.answer(key) for key in part}

    def write(self, answers: list[tuple[str, str, str]]) -> str:
        path = self.folder / "answers.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("key", "label", "status"), *answers])
        return str(path)

    def labels(self) -> dict[str, str]:
        return {key: label.strip().lower() for key, label, status in self.given.values() if not status}


def finish(config: RunConfig, people: People, kills: list[int]) -> RunDir:
    """Start again and again, killed after so many writes as long as `kills` has numbers."""
    for _ in range(100):
        code = start(config, kill_after_writes=kills.pop(0) if kills else 0)
        if code == 0:
            break
        found = [RunDir(str(path)) for path in Path(config.root).glob("kill-*")]
        if code > 0 and found:
            people.work(found[0])
    (path,) = Path(config.root).glob("kill-*")
    return RunDir(str(path))


def facts(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = {"splits": pq.read_table(f"{run.uri}/splits.parquet").to_pydict()}
    for number in run.committed():
        metrics = json.loads(Path(f"{run.uri}/round_{number:02d}/metrics.json").read_text())
        del metrics["seconds"]
        found[f"metrics {number}"] = metrics
        if run.round(number).labeled:
            for name in ("picks", "labels"):
                table = pq.read_table(f"{run.uri}/round_{number:02d}/{name}.parquet")
                found[f"{name} {number}"] = table.to_pydict()
    return found


def many(overlap: Literal[0, 1], seeds: range) -> list[Any]:
    return [pytest.param(overlap, seed, 10, marks=pytest.mark.slow) for seed in seeds]


@pytest.mark.parametrize(
    ("overlap", "seed", "kills"), [(0, 0, 10), (1, 0, 5), *many(0, range(1, 2)), *many(1, range(1, 6))]
)
def test_people_label_a_run_that_is_killed_at_ten_moments(
    tmp_path: Path, overlap: Literal[0, 1], seed: int, kills: int
) -> None:
    quiet = People(tmp_path)
    undisturbed = finish(config_of(tmp_path / "one", overlap), quiet, [])
    writes = random.Random(seed).sample(range(1, 30), kills)
    people = People(tmp_path)
    people.visits = 100 * (seed + 1)  # other people, who take the batches in another order
    run = finish(config_of(tmp_path / "two", overlap), people, writes)
    assert facts(run) == facts(undisturbed)
    assert people.asked == quiet.asked
    assert people.seen == quiet.seen == ["start", "round 0", "round 1", "round 2"]
    assert people.most == quiet.most == 1 + overlap
    assert len(people.asked) == 4 * BUDGET  # no batch was asked for twice
    given = {key: name for key, (status, name) in state.given(run).items() if status == Status.LABEL}
    assert given == people.labels()
    assert verify(run.uri).problems == []
    assert run.round(3).metrics()["labels"] == len(people.labels())
