"""A pool of 1.28 million rows: seconds to open the run, to compute what is available, to commit labels; bytes per row.

    python benchmarks/bench_pool.py

The published BASE code takes 14 s to compute what is available, several times a round.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from results import record

from alray import RunConfig, keyed
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.data.oracle import HiddenLabels
from alray.prepare import prepare
from alray.store import Store

ROWS, CLASSES, BUDGET = 1_281_167, 1000, 10_000


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The median of some repeats."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        labels = np.arange(ROWS) % CLASSES
        np.savez(Path(folder) / "pool.npz", features=np.zeros((ROWS, 1), np.float16), label=labels)
        config = RunConfig(
            root=folder,
            rounds=8,
            budget=BUDGET,
            data=DataConfig(root=f"{folder}/pool.npz"),
            split=SplitConfig(val_size=12_000, seed_set_size=30_000),
            train=TrainConfig(mode="linear"),
            resources=ResourceConfig(select_workers="process"),
        )
        first = seconds(lambda: prepare(config), 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ready = prepare(config)
        pool, store = ready.pool, Store(folder)
        rows = np.sort(keyed.order(0, "bench", pool.unlabeled)[:BUDGET])

        def commit() -> None:
            answers = HiddenLabels(ready.catalog.labels()).answer(rows)
            store.write_table("labels.parquet", pa.table({"row": rows, "label": answers}))
            pool.label(rows, answers)

        result = {
            "rows": ROWS,
            "index_and_first_open_s": first,
            "open_run_s": seconds(lambda: prepare(config)),
            "available_s": seconds(lambda: pool.unlabeled),
            "commit_labels_s": seconds(commit),
            "pool_bytes_per_row": (pool.status.nbytes + pool.known.nbytes) / ROWS,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "grown_mib_by_opening": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        }
    for name, value in result.items():
        print(f"{name:24} {value:,.3f}")
    record("pool", result)


if __name__ == "__main__":
    main()
