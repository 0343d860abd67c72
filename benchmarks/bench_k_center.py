"""Exact k-center against plain greedy loops and peers, side by side in one process on one thread.

    python benchmarks/bench_k_center.py                      # n = 50,000, d = 512, 1,000 labeled, 1,000 picks
    pip install scikit-activeml fpsample apricot-select      # the peers; what is not there is left out
    python benchmarks/bench_k_center.py --only alray --n 200000 --d 2048 --labeled 10000 --picks 2000  # two filters

CPU seconds of the process, and how much memory it grew; every exact competitor's picks are compared with those of the
float64 greedy. Peers that are slow get a tenth of the picks and are said to.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from embeddings import heavy_tailed
from results import record

Picks = np.ndarray
GREEDY = [0.0]  # CPU seconds of the picking itself, after the distances to the labeled rows, where a loop can tell


def alray_k_center(x: np.ndarray, m: int, k: int) -> Picks:
    from alray.selection.select import select

    picks = select("k_center", k, embedding=x, labeled=np.arange(m))
    GREEDY[0] = picks.account["merge_cpu_seconds"]  # the driver's: candidates compared with each other, picks made
    return picks.rows


def alray_float32(x: np.ndarray, m: int, k: int) -> Picks:
    """The same with the filter in float32, also where the processor multiplies bfloat16."""
    from alray.selection.kernels import coarse

    with coarse.forced(False):
        return alray_k_center(x, m, k)


def float64_greedy(x: np.ndarray, m: int, k: int) -> Picks:
    """The definition: one float64 pass over the pool per center."""
    x = x.astype(np.float64)
    nearest = np.full(len(x), np.inf)
    for j in range(m):
        nearest = np.minimum(nearest, _squares(x - x[j]))
    nearest[:m] = -np.inf
    picks = []
    for _ in range(k):
        picks.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, _squares(x - x[picks[-1]]))
        nearest[picks[-1]] = -np.inf
    return np.array(picks)


def _squares(difference: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", difference, difference)


def numpy_greedy(x: np.ndarray, m: int, k: int) -> Picks:
    """float32: labeled rows by blocked matrix products, then one matrix-vector product per pick."""
    x = x.astype(np.float32)
    squares = _squares(x)
    nearest = np.full(len(x), np.inf, np.float32)
    for start in range(0, m, 256):
        block = x[start : min(start + 256, m)]
        nearest = np.minimum(nearest, (squares[:, None] + _squares(block) - 2 * x @ block.T).min(axis=1))
    nearest[:m] = -np.inf
    picks, start = [], time.process_time()
    for _ in range(k):
        i = int(np.argmax(nearest))
        picks.append(i)
        nearest = np.minimum(nearest, squares + squares[i] - 2 * (x @ x[i]))
        nearest[i] = -np.inf
    GREEDY[0] = time.process_time() - start
    return np.array(picks)


def torch_greedy(x: np.ndarray, m: int, k: int) -> Picks:
    import torch

    torch.set_num_threads(1)
    t = torch.from_numpy(x).float()
    squares = (t * t).sum(1)
    nearest = torch.full((len(t),), torch.inf)
    for start in range(0, m, 256):
        block = t[start : min(start + 256, m)]
        distance = torch.addmm((block * block).sum(1), t, block.T, alpha=-2) + squares[:, None]
        nearest = torch.minimum(nearest, distance.amin(1))
    nearest[:m] = -torch.inf
    picks, start = [], time.process_time()
    for _ in range(k):
        i = int(nearest.argmax())
        picks.append(i)
        nearest = torch.minimum(nearest, squares + squares[i] - 2 * (t @ t[i]))
        nearest[i] = -torch.inf
    GREEDY[0] = time.process_time() - start
    return np.array(picks)


def scikit_activeml(x: np.ndarray, m: int, k: int) -> Picks:
    from skactiveml.pool import CoreSet

    y = np.full(len(x), np.nan)
    y[:m] = 0
    return np.asarray(CoreSet(random_state=0).query(x.astype(np.float32), y, batch_size=k))


def fps(x: np.ndarray, m: int, k: int) -> Picks:
    """Farthest-point sampling from one start: it takes no labeled rows, so it does m + k picks."""
    import fpsample

    return np.asarray(fpsample.fps_sampling(x.astype(np.float32), m + k, start_idx=0))


def facility_location(x: np.ndarray, m: int, k: int) -> Picks:
    """Another objective, for scale only."""
    from apricot import FacilityLocationSelection

    return np.asarray(
        FacilityLocationSelection(k, metric="euclidean", optimizer="lazy").fit(x.astype(np.float32)).ranking
    )


# name: (function, share of the picks, rows, exact: picks are compared)
COMPETITORS: dict[str, tuple[Callable[..., Picks], float, float, bool]] = {
    "alray": (alray_k_center, 1, 1, True),
    "alray, float32 filter": (alray_float32, 1, 1, True),
    "float64 greedy": (float64_greedy, 1, 1, True),
    "numpy float32 greedy": (numpy_greedy, 1, 1, True),
    "torch float32 greedy": (torch_greedy, 1, 1, True),
    "fpsample": (fps, 1, 1, False),
    "scikit-activeml CoreSet": (scikit_activeml, 0.1, 1, True),
    "apricot facility location": (facility_location, 0.1, 0.1, False),
}


def measure(name: str, n: int, d: int, m: int, k: int, answers: Any) -> None:
    """In a process of its own: CPU seconds, growth of the peak memory, the picks."""
    function, share, rows, _ = COMPETITORS[name]
    x = np.concatenate(list(heavy_tailed(n, d)))[: int(n * rows)]
    if name.startswith("alray"):
        alray_k_center(x[:2000], 10, 10)  # imports
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        picks = function(x, m, max(1, int(k * share)))
    except ImportError:
        answers.put(None)
        return
    taken = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    answers.put((taken, grown, picks.tolist(), GREEDY[0]))


def product_pass(n: int, d: int) -> float:
    """CPU seconds of one float32 matrix product of the pool with 1,000 rows, per 1,000: the unit of comparison."""
    import torch

    torch.set_num_threads(1)
    x, c = torch.randn(20_000, d), torch.randn(1000, d)
    x @ c.T
    times = []
    for _ in range(5):
        start = time.process_time()
        x @ c.T
        times.append(time.process_time() - start)
    return min(times) * n / len(x)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("n", 50_000), ("d", 512), ("labeled", 1000), ("picks", 1000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", default="", help="competitors whose name begins so; the first gives the picks")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    truth: list[int] = []
    for name in ("float64 greedy", *(name for name in COMPETITORS if name != "float64 greedy")):
        if not name.startswith(args.only):
            continue
        runs = []
        for _ in range(args.repeats if name.startswith(("alray", "torch float32 greedy")) else 1):
            answers = context.Queue()
            process = context.Process(target=measure, args=(name, args.n, args.d, args.labeled, args.picks, answers))
            process.start()
            runs.append(answers.get())
            process.join()
        if runs[0] is None:
            print(f"{name:26} not installed")
            continue
        seconds, growth, picks, greedy = min(runs, key=lambda run: run[0])
        truth = truth or picks
        entry: dict[str, Any] = {"cpu_seconds": round(seconds, 3), "grown_mib": round(growth)}
        if greedy:
            entry["of which greedy"] = round(greedy, 3)
        if COMPETITORS[name][3]:
            entry["picks that differ from " + (args.only or "float64")] = sum(
                a != b for a, b in zip(picks, truth, strict=False)
            )
        if COMPETITORS[name][1:3] != (1, 1):
            entry["share of picks and rows"] = COMPETITORS[name][1:3]
        found[name] = entry
        print(f"{name:26} {entry}", flush=True)
    dense = product_pass(args.n, args.d)
    found["one product with 1,000 rows"] = {"cpu_seconds": round(dense, 3)}
    ours = found["alray"]["cpu_seconds"]
    ratios = {name: round(entry["cpu_seconds"] / ours, 1) for name, entry in found.items()}
    part = "of which greedy"
    greedy_ratios = {
        name: round(entry[part] / found["alray"][part], 1) for name, entry in found.items() if part in entry
    }
    print(ratios, greedy_ratios)
    record(
        "k_center" if not args.only else f"k_center_{args.n}x{args.d}",
        {
            "sizes": vars(args),
            "competitors": found,
            "cpu_seconds_over_alrays": ratios,
            "greedy_part_over_alrays": greedy_ratios,
        },
    )


if __name__ == "__main__":
    main()
