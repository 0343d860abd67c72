"""What two threads cost: every strategy in one shard on one CPU, and in two shards on one CPU and on two.

    python benchmarks/bench_threads.py
    python benchmarks/bench_threads.py --only badge margin

CPU seconds and seconds, the medians of some runs that take turns in one process. Two shards do more work than one (each
looks for rows of its own), which the second way tells from what threads cost. Beside them is the floor, which is the
machine's own: two processes at once, each on a CPU of its own with one shard of half of the rows, over the same two one
after the other. Threads also wait for Python's lock. How often is counted, and what one such wait costs in CPU seconds
is measured apart. The picks are compared. No variable such as OMP_NUM_THREADS is set: the selection itself sees to it
that its libraries use one thread each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import threading
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


def waits() -> int:
    """How often this process has waited so far: for Python's lock, or for another thread."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def measured(strategy: str, budget: int, given: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds, seconds and waits of each way, and whether all picked the same rows."""
    cpus = sorted(os.sched_getaffinity(0))
    spent: dict[str, list[tuple[float, float, int]]] = {way: [] for way in WAYS}
    picks = []
    for repeat in range(REPEATS + 1):  # the first one imports what the strategy needs
        for way, (shards, many) in WAYS.items():
            os.sched_setaffinity(0, cpus[:many])
            start, began, before = time.process_time(), time.perf_counter(), waits()
            found = select(strategy, budget, num_shards=shards, **given)
            if repeat:
                spent[way].append((time.process_time() - start, time.perf_counter() - began, waits() - before))
            picks.append(found.rows)
    os.sched_setaffinity(0, cpus)
    usual = {way: np.median(runs, axis=0) for way, runs in spent.items()}
    one, on_one, on_two = (cpu for cpu, _, _ in usual.values())
    same = all(np.array_equal(other, picks[0]) for other in picks)
    return {
        "cpu_seconds": {way: round(float(cpu), 3) for way, (cpu, _, _) in usual.items()},
        "seconds": {way: round(float(wall), 3) for way, (_, wall, _) in usual.items()},
        "waits": int(usual["two shards, two CPUs"][2]),
        "two_shards_over_one": round(float(on_one / one), 2),
        "two_threads_over_one": round(float(on_two / one), 2),
        "two_processes_at_once": round(floor(strategy, budget, given), 2),
        "same_picks": same,
    }


def halves(given: dict[str, Any]) -> list[dict[str, Any]]:
    """The same input with one half of the rows each."""
    rows = max(len(value) for name, value in given.items() if name in ("embedding", "logits"))
    cuts = slice(rows // 2), slice(rows // 2, rows)
    return [{name: value[cut] if len(value) == rows else value for name, value in given.items()} for cut in cuts]


def floor(strategy: str, budget: int, given: dict[str, Any]) -> float:
    """CPU seconds of two processes at once over those of the same two one after the other."""
    workers, pipes = [], []
    context = multiprocessing.get_context("fork")  # they read the rows of this process
    for half, cpu in zip(halves(given), sorted(os.sched_getaffinity(0)), strict=False):
        here, there = context.Pipe()
        workers.append(context.Process(target=_serve, args=(there, cpu, strategy, budget, half)))
        workers[-1].start()
        pipes.append(here)
    alone, both = [], []
    for repeat in range(REPEATS + 1):
        apart = [_asked([pipe]) for pipe in pipes]
        at_once = _asked(pipes)
        if repeat:
            alone.append(sum(apart))
            both.append(at_once)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(False)
        worker.join()
    return float(np.median(both) / np.median(alone))


def _asked(pipes: list[Any]) -> float:
    """CPU seconds of these processes, which select at once."""
    for pipe in pipes:
        pipe.send(True)
    return float(sum(pipe.recv() for pipe in pipes))


def _serve(pipe: Any, cpu: int, strategy: str, budget: int, given: dict[str, Any]) -> None:
    os.sched_setaffinity(0, {cpu})
    while pipe.recv():
        start = time.process_time()
        select(strategy, budget, num_shards=1, **given)
        pipe.send(time.process_time() - start)


def wait_costs(many: int = 2000) -> float:
    """CPU microseconds of one wait: two threads, each on a CPU of its own, wake each other in turn."""
    turns = threading.Semaphore(1), threading.Semaphore(0)

    def take_turns(number: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread
        for _ in range(many):
            turns[number].acquire()
            turns[1 - number].release()

    cpus = sorted(os.sched_getaffinity(0))
    threads = [threading.Thread(target=take_turns, args=(number, cpus[number])) for number in range(2)]
    start = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.process_time() - start) / (2 * many) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="the strategies to run (default: all)")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two CPUs are needed, this process may use one")
    costs = wait_costs()
    print(f"one wait costs {costs:.1f} CPU microseconds", flush=True)
    results = {}
    for case, (strategy, budget, given) in CASES.items():
        if args.only and strategy not in args.only:
            continue
        results[case] = measured(strategy, budget, given())
        print(case, results[case], flush=True)
    if not args.only:
        record("threads", {"repeats": REPEATS, "wait_costs_cpu_microseconds": round(costs, 1), "results": results})


if __name__ == "__main__":
    main()
