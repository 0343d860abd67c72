"""A sweep on real CIFAR-10 embeddings: six strategies x two budgets x ten seeds in one command; what it says, and what
it costs beside a bare loop over the same trials.

    python benchmarks/bench_sweep.py --data ../shared/data/embeddings

Writes benchmarks/results/sweep.json. Wall times of a shared machine mean nothing by themselves: ratios are recorded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import ray
from results import record

from alray import RunConfig, replace, run
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.report import report
from alray.report.analysis import analyse
from alray.report.panel import panel
from alray.report.runs import load_all
from alray.report.tables import as_text
from alray.sweep import SweepConfig, sweep

SPACE: dict[str, Any] = {
    "strategy": ["random", "entropy", "margin", "base", "k_center", "badge"],
    "budget": [100, 250],
    "seed": list(range(10)),
}


def config_of(root: str, data: Path) -> RunConfig:
    return RunConfig(
        name="cifar10",
        root=root,
        rounds=5,
        data=DataConfig(root=str(data / "cifar10_mnv2_pca64.npz")),
        split=SplitConfig(val_size=200, seed_set_size=100),
        train=TrainConfig(
            mode="linear", epochs=100, patience=0, batch_size=64, lr=10.0, weight_decay=1e-5, schedule="cosine"
        ),
        resources=ResourceConfig(select_workers="process"),
    )


def loop(config: RunConfig) -> tuple[float, float]:
    """The same trials, one after the other in this process; wall and CPU seconds."""
    began, cpu = time.monotonic(), time.process_time()
    for values in product(*SPACE.values()):
        run(replace(config, dict(zip(SPACE, values, strict=True))), quiet=True)
    return time.monotonic() - began, time.process_time() - cpu


@contextmanager
def cpu_of_all() -> Iterator[list[float]]:
    """CPU seconds of this process and everything it started, Ray's processes included; filled in at the end."""
    ticks, seen, found = os.sysconf("SC_CLK_TCK"), {}, [0.0]
    began = time.process_time()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            stats: dict[int, list[str]] = {}
            for path in Path("/proc").glob("[0-9]*/stat"):
                with suppress(OSError):
                    stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
            family = {os.getpid()}
            for _ in range(5):
                family |= {pid for pid, stat in stats.items() if int(stat[1]) in family}
            seen.update({pid: (int(stats[pid][11]) + int(stats[pid][12])) / ticks for pid in family - {os.getpid()}})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found[0] = sum(seen.values()) + time.process_time() - began


def own_seconds(folder: str) -> float:
    """What the stages of all trials took: training, evaluation, selection, labels."""
    files = Path(folder).glob("cifar10-*/round_*/metrics.json")
    return sum(sum(json.loads(file.read_text())["seconds"].values()) for file in files)


def picks(folder: str) -> dict[str, str]:
    """A hash of the picks and labels of every run."""
    return {
        run.name: hashlib.blake2b(
            b"".join(
                (step / name).read_bytes()
                for step in sorted(run.glob("round_*"))
                for name in ("picks.parquet", "labels.parquet")
                if (step / name).exists()
            ),
            digest_size=8,
        ).hexdigest()
        for run in Path(folder).glob("cifar10-*")
        if (run / "run.json").exists()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/embeddings"))
    parser.add_argument("--keep", default="", help="folder in which the sweep and its report stay")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no embeddings in {args.data}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        with cpu_of_all() as used:
            result = sweep(config_of(args.keep or temporary, args.data), SPACE, SweepConfig(max_concurrent=2))
            ray.shutdown()
        print(report([result.dir]))
        found = analyse(panel(load_all([result.dir])), "test_top1")
        print("\n\n".join(as_text(table) for table in found.tables.values()))
        seconds, cpu = loop(config_of(f"{temporary}/loop", args.data))
        alone, together = own_seconds(f"{temporary}/loop"), own_seconds(result.dir)
        same = picks(f"{temporary}/loop") == picks(result.dir)
    measured = {
        "trials": len(result.trials),
        "failed": len(result.failed),
        "trials at a time": 2,
        "extractions": 1,
        "picks and labels equal those of the loop": same,
        "sweep: wall over its trials' own seconds": round(result.seconds / together, 3),
        "loop: wall over its trials' own seconds": round(seconds / alone, 3),
        "sweep over loop, wall": round(result.seconds / seconds, 3),
        "sweep over loop, CPU seconds of all processes, Ray's included": round(used[0] / cpu, 3),
        "own wall seconds of the trials, in the sweep (two at a time) over alone": round(together / alone, 3),
    }
    print(json.dumps(measured, indent=1))
    tables = {name: [list(table.head), *map(list, table.rows)] for name, table in found.tables.items()}
    record("sweep", {**measured, "verdicts": found.verdicts, "warnings": found.warnings, "tables": tables})


if __name__ == "__main__":
    main()
