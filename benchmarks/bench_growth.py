"""How the CPU seconds of BASE, k-center and BADGE grow: log-log slopes over n, d, labeled, picks and shards.

    python benchmarks/bench_growth.py        # also writes the tables of benchmarks/README.md

Generated embeddings (heavy-tailed clusters), one thread, in this process; the best of three runs each.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import time
from typing import Any

import numpy as np
from embeddings import heavy_tailed, logits
from results import record

from alray.selection.select import select

START = {"n": 80_000, "d": 128, "labeled": 2000, "picks": 1000, "shards": 1}
SIZES = {
    "n": (20_000, 40_000, 80_000, 160_000),
    "d": (32, 64, 128, 256, 512),
    "labeled": (500, 1000, 2000, 4000, 8000),
    "picks": (250, 500, 1000, 2000, 4000),
    "shards": (1, 2, 4, 8, 16),
}
CLASSES = 20


def seconds(strategy: str, n: int, d: int, labeled: int, picks: int, shards: int) -> float:
    x = np.concatenate(list(heavy_tailed(n, d)))
    weight = np.random.default_rng(0).standard_normal((CLASSES, d), np.float32) / np.sqrt(d)
    given: dict[str, Any] = {"labeled": np.arange(labeled), "num_shards": shards}
    if strategy == "k_center":
        given["embedding"] = x
    else:
        given |= {"logits": logits(x, CLASSES), "head": (weight, np.zeros(CLASSES, np.float32))}
    if strategy == "badge":
        given["embedding"] = x
    times = []
    for _ in range(3):
        start = time.process_time()
        select(strategy, picks, **given)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    seconds("k_center", 2000, 8, 10, 10, 1)  # imports
    found: dict[str, Any] = {}
    for strategy in ("base", "k_center", "badge"):
        found[strategy] = {}
        for name, sizes in SIZES.items():
            times = [seconds(strategy, **{**START, name: size}) for size in sizes]
            slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
            entry = {"sizes": sizes, "cpu_seconds": [round(t, 3) for t in times], "slope": round(slope, 2)}
            found[strategy][name] = entry
            print(strategy, name, entry, flush=True)
    record("growth", {"start": START, "classes": CLASSES, "growth": found})


if __name__ == "__main__":
    main()
