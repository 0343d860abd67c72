"""`alray plan` against what the run then takes, by stage, on five kinds of jobs.

    python benchmarks/bench_plan.py [DATA] [JOB ...]   # DATA: a folder with camvid/ and embeddings/ (../shared/data)

A linear head on a frozen backbone, fine-tuning, PT4AL with its pretext task, segmentation, and embeddings that were
brought in. Networks are small, so that the starts of Ray's processes are a large part of each stage. The machine should
do nothing else. Where it does, compare the plan with the CPU seconds over the cores: on a quiet machine a run takes at
least as long, and little longer, because some process starts all the time. A control group of Linux counts them, where
this user may make one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from typing import Any

import torch
from digits import CONFIG, write_digits
from results import record

from alray import RunConfig, replace
from alray.config import DataConfig, ModelConfig, PretextConfig, SplitConfig, TrainConfig, TransformConfig
from alray.models.backbone import create
from alray.planning.plan import plan
from alray.planning.probe import Start
from alray.prepare import check
from alray.progress import Stages
from alray.rounds import run
from alray.rundir import SUMMARY, RunDir

JOBS = ("linear", "fine-tuning", "pt4al", "segmentation", "embeddings")
NETWORK = ModelConfig(backbone="resnet18", options={"channels": [16, 32, 64, 128]}, small_stem=True)


def jobs(folder: Path, data: Path) -> dict[str, RunConfig]:
    """The configurations by kind."""
    write_digits(str(folder / "digits"))
    weights = folder / "weights.pt"
    torch.save(create(NETWORK, 0, 0, 32).state_dict(), weights)
    root, digits = str(folder / "runs"), DataConfig(root=str(folder / "digits"))
    base = replace(CONFIG, {"root": root, "data": digits, "name": "finetune", "train.epochs": 40})
    small = {"transform": TransformConfig(size=32, train="crop_pad", flip=False, resize=0), "model": NETWORK}
    linear = replace(base, {
        **small, "name": "linear", "model.checkpoint": str(weights), "train": TrainConfig(mode="linear", epochs=200),
        "resources.extract_actors": 2,
    })  # fmt: skip
    pt4al = replace(base, {
        **small, "name": "pt4al", "strategy": "pt4al",
        "pretext": PretextConfig(task="rotation", epochs=8, batch_size=64),
        "split": SplitConfig(seed_set_size=60, seed_set_how="pretext", val_size=0), "train.epochs": 20,
    })  # fmt: skip
    from camvid_pt4al import PT4AL

    camvid = replace(PT4AL, {
        "root": root, "name": "segmentation", "strategy": "entropy", "strategy_options": {}, "rounds": 2, "budget": 20,
        "data.root": str(data / "camvid/*.parquet"), "split": SplitConfig(seed_set_size=40), "train.epochs": 10,
        "pretext": PretextConfig(), "transform.size": 128, "train.patience": 0,
    })  # fmt: skip
    brought = RunConfig(
        name="embeddings", root=root, rounds=4, budget=500, strategy="k_center",
        data=DataConfig(root=str(data / "embeddings/cifar10_mnv2_pca64.npz")), split=SplitConfig(seed_set_size=500),
        train=TrainConfig(mode="linear", epochs=200),
    )  # fmt: skip
    return {"linear": linear, "fine-tuning": base, "pt4al": pt4al, "segmentation": camvid, "embeddings": brought}


class Account:
    """CPU seconds of this process and all that it starts, Ray's servers, too; 0 where they cannot be counted."""

    def __init__(self) -> None:
        old, new = (Path("/sys/fs/cgroup", *parts, f"alray-plan-{os.getpid()}") for parts in (("cpuacct",), ()))
        self.group = old if old.parent.is_dir() else new
        with suppress(OSError):
            self.group.mkdir()
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def seconds(self) -> float:
        with suppress(OSError):
            return int((self.group / "cpuacct.usage").read_text()) / 1e9
        with suppress(OSError):
            return int((self.group / "cpu.stat").read_text().split()[1]) / 1e6
        return 0.0


def counted(account: Account) -> list[dict[str, float]]:
    """The CPU seconds of every round by stage, which are counted from now on."""
    rounds: list[dict[str, float]] = []
    enter = Stages.stage

    @contextmanager
    def stage(self: Stages, name: str, detail: str = "") -> Iterator[None]:
        rounds.extend({} for _ in range(self.round + 1 - len(rounds)))
        before = account.seconds
        try:
            with enter(self, name, detail):
                yield
        finally:
            rounds[self.round][name] = rounds[self.round].get(name, 0.0) + account.seconds - before

    Stages.stage = stage  # type: ignore[method-assign]
    return rounds


def one(name: str, folder: Path, data: Path) -> dict[str, Any]:
    """Plan a job and run it, in this process: seconds by stage and round, and what else the machine did."""
    account = Account()
    config = jobs(folder, data)[name]
    starting = Start()
    start = starting.seconds
    planned = plan(check(config), start=start)
    load, cpu = os.getloadavg()[0], counted(account)
    done = run(config, quiet=True)
    after = [{stage: float(seconds) for stage, seconds in metrics["seconds"].items()} for metrics in done.rounds]
    found = RunDir(done.dir)
    epochs = [
        sum(float(epoch["seconds"]) for epoch in found.round(number).checkpoint.read_json(SUMMARY)["history"])
        if found.round(number).checkpoint.has(SUMMARY) else 0.0
        for number in range(len(done.rounds))
    ]  # fmt: skip
    return {
        "start": start, "start_took": starting.slower, "load": [load, os.getloadavg()[0]],
        "planned": planned.seconds, "actual": after, "cpu": cpu, "of_epochs": epochs,
    }  # fmt: skip


def rows(found: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """Planned seconds, those that passed, and CPU seconds over the cores, of each stage, then of all."""
    stages = [*found["planned"], *{stage for one in found["actual"] for stage in one} - set(found["planned"])]
    cores = os.cpu_count() or 1
    table = [
        (
            stage, sum(found["planned"].get(stage, [0.0])), sum(one.get(stage, 0.0) for one in found["actual"]),
            sum(one.get(stage, 0.0) for one in found["cpu"]) / cores,
        )
        for stage in stages
    ]  # fmt: skip
    return [*table, ("total", *(sum(row[at] for row in table) for at in (1, 2, 3)))]


def main(data: Path, names: Sequence[str]) -> None:
    """Print a table by job and stage; write it to results/plan.json."""
    done = {}
    print(f"{'job':14} {'stage':10} {'planned':>9} {'took':>9} {'CPU/cores':>9} {'took/pl.':>8} {'CPU/pl.':>8}  load")
    for name in names or JOBS:
        with tempfile.TemporaryDirectory() as folder:  # a process for each: Ray's start is a part of the first stage
            out = Path(folder) / "out.json"
            command = [sys.executable, __file__, str(data), "--one", name, folder, str(out)]
            subprocess.run(command, check=True)
            done[name] = json.loads(out.read_text())
        load = " to ".join(f"{value:.1f}" for value in done[name]["load"])
        for stage, before, after, cpu in rows(done[name]):
            parts = [after / max(before, 1e-9), cpu / max(before, 1e-9)]
            print(f"{name:14} {stage:10} {before:9.1f} {after:9.1f} {cpu:9.1f} {parts[0]:8.2f} {parts[1]:8.2f}  {load}")
        print(json.dumps(done[name]) if names else "", flush=True)
    if set(names or JOBS) == set(JOBS):
        record("plan", {"jobs": done})


if __name__ == "__main__":
    given = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    if sys.argv[2:3] == ["--one"]:
        found = one(sys.argv[3], Path(sys.argv[4]), given)
        Path(sys.argv[5]).write_text(json.dumps(found))
    else:
        main(given, sys.argv[2:])
