"""What two threads cost: every strategy in one shard on one CPU, and in two shards on one CPU and on two.

    python benchmarks/bench_threads.py
    python benchmarks/bench_threads.py --only badge margin

CPU seconds and seconds, the smallest of some runs that take turns in one process. Two shards do more work than one
(each looks for rows of its own), which the second way tells from what threads cost. The picks are compared. No variable
such as OMP_NUM_THREADS is set: the selection itself sees to it that its libraries use one thread each.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from results import record

from alray.selection.select import select

REPEATS = 5
WAYS = {"one shard": (1, 1), "two shards, one CPU": (2, 1), "two shards, two CPUs": (2, 2)}  # shards, CPUs
_DRAWN = np.random.default_rng(0)


def numbers(n: int, d: int, dtype: str = "float32") -> np.ndarray:
    """Normal numbers (n, d)."""
    return _DRAWN.standard_normal((n, d), np.float32).astype(dtype)


def head(classes: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (classes, d) and bias (classes,)."""
    return numbers(classes, d) / np.sqrt(d), np.zeros(classes, np.float32)


CASES: dict[str, tuple[str, int, Callable[[], dict[str, Any]]]] = {
    "margin, 4 M x 2": ("margin", 1000, lambda: {"logits": 3 * numbers(4_000_000, 2)}),
    "margin, 4 M x 10": ("margin", 1000, lambda: {"logits": 3 * numbers(4_000_000, 10)}),
    "margin, 800,000 x 100": ("margin", 1000, lambda: {"logits": 3 * numbers(800_000, 100)}),
    "margin, 150,000 x 1,000, float16": ("margin", 1000, lambda: {"logits": 3 * numbers(150_000, 1000, "float16")}),
    "confidence, 800,000 x 100": ("confidence", 1000, lambda: {"logits": 3 * numbers(800_000, 100)}),
    "entropy, 4 M x 10": ("entropy", 1000, lambda: {"logits": 3 * numbers(4_000_000, 10)}),
    "entropy, 800,000 x 100": ("entropy", 1000, lambda: {"logits": 3 * numbers(800_000, 100)}),
    "base, 800,000 x 100": ("base", 5000, lambda: {"logits": numbers(800_000, 100), "head": head(100, 64)}),
    "mase, 800,000 x 100": ("mase", 1000, lambda: {"logits": numbers(800_000, 100), "head": head(100, 64)}),
    "badge, 400,000 x 64, 10 classes": (
        "badge", 300, lambda: {"embedding": numbers(400_000, 64), "logits": numbers(400_000, 10)}
    ),
    "k_center, 400,000 x 128, 1,000 labeled": (
        "k_center", 1000, lambda: {"embedding": numbers(400_000, 128), "labeled": np.arange(1000)}
    ),
    "k_center, 400,000 x 128": ("k_center", 300, lambda: {"embedding": numbers(400_000, 128)}),
    "partitioned_k_center, 400,000 x 64, 1,000 labeled": (
        "partitioned_k_center", 1000, lambda: {"embedding": numbers(400_000, 64), "labeled": np.arange(1000)}
    ),
    "k_means, 400,000 x 32": ("k_means", 50, lambda: {"embedding": numbers(400_000, 32)}),
    "cluster_margin, 400,000 x 32, 10 classes": (
        "cluster_margin", 100, lambda: {"embedding": numbers(400_000, 32), "logits": numbers(400_000, 10)}
    ),
}  # fmt: skip


def measured(strategy: str, budget: int, given: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds and seconds of each way, and whether all picked the same rows."""
    cpus = sorted(os.sched_getaffinity(0))
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    picks = []
    for repeat in range(REPEATS + 1):  # the first one imports what the strategy needs
        for way, (shards, many) in WAYS.items():
            os.sched_setaffinity(0, cpus[:many])
            start, began = time.process_time(), time.perf_counter()
            found = select(strategy, budget, num_shards=shards, **given)
            if repeat:
                spent[way].append((time.process_time() - start, time.perf_counter() - began))
            picks.append(found.rows)
    os.sched_setaffinity(0, cpus)
    least = {way: min(cpu for cpu, _ in runs) for way, runs in spent.items()}
    one, on_one, on_two = least.values()
    same = all(np.array_equal(other, picks[0]) for other in picks)
    return {
        "cpu_seconds": {way: round(value, 3) for way, value in least.items()},
        "seconds": {way: round(min(wall for _, wall in runs), 3) for way, runs in spent.items()},
        "two_shards_over_one": round(on_one / one, 2),
        "two_threads_over_one": round(on_two / on_one, 2),
        "same_picks": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="the strategies to run (default: all)")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two CPUs are needed, this process may use one")
    results = {}
    for case, (strategy, budget, given) in CASES.items():
        if args.only and strategy not in args.only:
            continue
        results[case] = measured(strategy, budget, given())
        print(case, results[case], flush=True)
    if not args.only:
        record("threads", {"repeats": REPEATS, "results": results})


if __name__ == "__main__":
    main()
