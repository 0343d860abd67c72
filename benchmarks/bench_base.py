"""BASE at ImageNet's size: 1.28 M x 1,000 float16 logits on disk, budget 10,000; generated, not ImageNet's.

    python benchmarks/bench_base.py

Side by side in one process: the selection, whole on one thread, and in two and eight shards on as many threads as there
are CPUs; one pass that reads the same file and reduces it in float32; and, on a tenth of the rows, a full sort of every
class's distances, as the published code does, with the same picks. Then 20,000 x 1,000 logits of kinds that are
unfriendly to filters, beside full sorts.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from embeddings import heavy_tailed, logits
from results import record

from alray.selection.protocol import Ties
from alray.selection.select import select

CLASSES, D = 1000, 64
UNFRIENDLY = (
    "identical rows", "zeros", "zero head", "zeros and ones", "whole numbers", "copies of 40 rows", "weak head",
    "one class predicted", "log-normal scale", "ever nearer",
)  # fmt: skip


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def one_pass(z: np.ndarray) -> float:
    """Read everything once, float32 maximum of every row."""
    return float(sum(z[start : start + 2048].astype(np.float32).max(axis=1).sum() for start in range(0, len(z), 2048)))


def full_sorts(z: np.ndarray, weight: np.ndarray, budget: int) -> np.ndarray:
    """The published way: all distances in memory, one sort per class, rows of earlier classes left out. Rows with
    equal distances are in alray's order."""
    by_hash = np.argsort(Ties().hashes(np.arange(len(z))))
    z = z[by_hash].astype(np.float64)
    apart = np.linalg.norm(weight[:, None] - weight[None], axis=2)
    apart[apart == 0] = np.nan
    y, rows = z.argmax(axis=1), np.arange(len(z))
    distance = np.empty_like(z)
    for start in range(0, len(z), 1000):
        part = slice(start, start + 1000)
        distance[part] = (z[part].max(axis=1, keepdims=True) - z[part]) / apart[y[part]]
    distance[np.isnan(distance)] = np.inf
    distance[rows, y] = np.inf
    distance[rows, y] = distance.min(axis=1)
    free, picks = np.ones(len(z), bool), []
    for c in range(CLASSES):
        quota = budget // CLASSES + (c < budget % CLASSES)
        order = np.argsort(np.where(free, distance[:, c], np.inf), kind="stable")
        order = order[free[order]][:quota]  # where free rows are infinitely far, too
        free[order] = False
        picks.append(order)
    return by_hash[np.concatenate(picks)]


def unfriendly(kind: str, rows: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float16 logits (rows, c) in which many distances tie, or all classes want the same rows; and the weights."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, len(weight)), np.float32)
    if kind == "identical rows":
        z[:] = z[0]
    elif kind in ("zeros", "zero head"):
        z[:] = 0
        weight = weight * (kind == "zeros")
    elif kind == "zeros and ones":
        z = z > 0
    elif kind == "whole numbers":
        z = np.rint(z)
    elif kind == "copies of 40 rows":
        z = z[rng.integers(0, 40, rows)]
    elif kind == "weak head":
        z = 0.05 * z + rng.standard_normal(len(weight))
    elif kind == "one class predicted":
        z[:, 3] += 8
    elif kind == "log-normal scale":
        z *= np.exp(2 * rng.standard_normal((rows, 1)))
    elif kind == "ever nearer":
        z[:, 3] += np.linspace(12, 0, rows)
    return z.astype(np.float16), weight


def beside_full_sorts(weight: np.ndarray, rows: int, budget: int) -> dict[str, dict[str, Any]]:
    """For each unfriendly kind: CPU seconds over those of full sorts, passes, and whether the picks are the same."""
    found = {}
    for kind in UNFRIENDLY:
        z, its_weight = unfriendly(kind, rows, weight)
        head = (its_weight, np.zeros(CLASSES, np.float32))
        ours, picks = cpu(lambda z=z, head=head: select("base", budget, logits=z, head=head))
        theirs, expected = cpu(lambda z=z, weight=its_weight: full_sorts(z, weight, budget))
        found[kind] = {
            "over_full_sorts": round(ours / theirs, 2), "cpu_seconds": round(ours, 2),
            "passes": round(picks.account["rows_read"] / rows, 2), "same_picks": int((expected == picks.rows).sum()),
        }  # fmt: skip
        print(kind, found[kind], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--budget", type=int, default=10_000)
    args = parser.parse_args()
    weight = np.random.default_rng(0).standard_normal((CLASSES, D), np.float32) / np.sqrt(D)
    head = (weight, np.zeros(CLASSES, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        z = np.lib.format.open_memmap(path, "w+", np.float16, (args.rows, CLASSES))
        done = 0
        for block in heavy_tailed(args.rows, D):
            z[done : done + len(block)] = logits(block, CLASSES)
            done += len(block)
        del z
        z = np.load(path, mmap_mode="r")
        read, _ = cpu(lambda: one_pass(z))
        tenth = len(z) // 10
        ours_tenth, picks = cpu(lambda: select("base", args.budget, logits=z[:tenth], head=head))
        before = _anonymous()
        ours, whole = cpu(lambda: select("base", args.budget, logits=path, head=head, num_shards=1))
        grown = _anonymous() - before
        several = {}
        for shards in (2, 8):
            started = time.perf_counter()
            took, again = cpu(
                lambda shards=shards: select("base", args.budget, logits=path, head=head, num_shards=shards)
            )
            several[shards] = {"over_one_pass": took / read, "seconds": time.perf_counter() - started}
            assert again == whole
        theirs, expected = cpu(lambda: full_sorts(np.asarray(z[:tenth]), weight, args.budget))
    same = int((np.asarray(expected) == picks.rows).sum())
    result = {
        "rows": args.rows, "classes": CLASSES, "budget": args.budget,
        "cpu_seconds": ours, "cpu_seconds_of_one_pass": read, "over_one_pass": ours / read,
        "shards_on_threads": several,
        "rows_per_cpu_second": args.rows / ours,
        "peak_memory_besides_the_file_mib": grown / 2**20,
        "a_tenth": {
            "cpu_seconds": ours_tenth, "full_sorts_cpu_seconds": theirs, "ratio": theirs / ours_tenth,
            "same_picks": f"{same} of {args.budget}",
        },
        "unfriendly": {"rows": 20_000, "budget": 2000, "inputs": beside_full_sorts(weight, 20_000, 2000)},
        "account": dict(whole.account),
    }  # fmt: skip
    print(result)
    record("base", result)


def _anonymous() -> int:
    """Peak memory without mapped files, in bytes, where the system says; else all of it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
