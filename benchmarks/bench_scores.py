"""Margin, confidence and entropy beside plain NumPy, from 2 to 10,000 classes: CPU seconds in turn, in one process.

    python benchmarks/bench_scores.py                      # up to 10^7 rows: 2 GB of memory
    python benchmarks/bench_scores.py --rows 0.1           # a tenth of the rows
    python benchmarks/bench_scores.py --large              # 10^7 rows of 2, 10 and 100 classes, from a mapped file

Plain is what one writes down: softmax of the whole array, the score, `np.argpartition`. Blocked is the same in float32,
without the division, on blocks that stay in the cache. Both decide in float32; alray decides in float64.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results import record

from alray.selection.select import select

SIZES = [
    (10_000_000, 2, "float32"), (10_000_000, 10, "float32"), (1_000_000, 100, "float32"), (300_000, 1000, "float32"),
    (300_000, 1000, "float16"), (30_000, 10_000, "float32"),
]  # fmt: skip
LARGE = [(10_000_000, 2, "float32"), (10_000_000, 10, "float32"), (10_000_000, 100, "float16")]
STRATEGIES, REPEATS = ("margin", "confidence", "entropy"), 3
MOST = 1 << 29  # numbers that plain NumPy holds several copies of, 2 GB each in float32


def logits(n: int, c: int, dtype: str, folder: Path | None) -> np.ndarray:
    """Normal logits (n, c) with a standard deviation of 3, in a file of this folder if any."""
    rng = np.random.default_rng(0)
    path = folder and folder / "logits.npy"
    z = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (n, c)) if path else np.empty((n, c), dtype)
    for start in range(0, n, 1 + (1 << 20) // c):
        part = z[start : start + 1 + (1 << 20) // c]
        part[:] = 3 * rng.standard_normal(part.shape, np.float32)
    return np.load(path, mmap_mode="r") if path else z


def highest(score: np.ndarray, k: int) -> np.ndarray:
    at = np.argpartition(score, len(score) - k)[len(score) - k :]
    return at[np.argsort(-score[at])]


def plain(name: str, z: np.ndarray, k: int) -> np.ndarray:
    z = z.astype(np.float32, copy=False)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    if name == "margin":
        two = np.partition(p, -2, axis=1)[:, -2:]
        return highest(two[:, 0] - two[:, 1], k)
    return highest(-p.max(axis=1) if name == "confidence" else -(p * np.log(p + 1e-30)).sum(axis=1), k)


def blocked(name: str, z: np.ndarray, k: int) -> np.ndarray:
    step, score = max(64, (1 << 18) // z.shape[1]), np.empty(len(z))
    for start in range(0, len(z), step):
        part = z[start : start + step].astype(np.float32)
        part -= part.max(axis=1, keepdims=True)
        e = np.exp(part)
        total = e.sum(axis=1)
        if name == "margin":
            two = np.partition(e, -2, axis=1)[:, -2:]
            score[start : start + step] = (two[:, 0] - two[:, 1]) / total
        elif name == "confidence":
            score[start : start + step] = -1 / total
        else:
            score[start : start + step] = np.log(total) - np.einsum("mc,mc->m", e, part) / total
    return highest(score, k)


def measured(name: str, z: np.ndarray, k: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of the three ways by turns, and their ratios. There is no plain one where memory is too small."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "alray": lambda: select(name, k, logits=z).rows,
        "plain": lambda: plain(name, z, k),
        "blocked": lambda: blocked(name, z, k),
    }
    if z.size > MOST:
        del ways["plain"]
    best, picks = dict.fromkeys(ways, np.inf), dict[str, np.ndarray]()
    for _ in range(repeats):
        for way, work in ways.items():
            start = time.process_time()
            picks[way] = work()
            best[way] = min(best[way], time.process_time() - start)
    return {
        **{f"over_{way}": round(best["alray"] / best[way], 2) for way in best if way != "alray"},
        "cpu_seconds": {way: round(value, 3) for way, value in best.items()},
        "same_picks": {way: len(np.intersect1d(picks[way], picks["alray"])) / k for way in best if way != "alray"},
    }


HEADING = "| strategy | rows | classes | type | CPU s | over plain | over blocked |\n|---|---|---|---|---|---|---|"


def line(one: dict[str, Any]) -> str:
    """A line of the table."""
    about = f"| {one['strategy']} | {one['rows']:,} | {one['classes']:,} | {one['dtype']} |"
    return f"{about} {one['cpu_seconds']['alray']} | {one.get('over_plain', '')} | {one['over_blocked']} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=float, default=1.0, help="the share of the rows")
    parser.add_argument("--large", action="store_true", help="10^7 rows, from a mapped file, each way twice")
    args, found = parser.parse_args(), list[dict[str, Any]]()
    print(HEADING)
    with tempfile.TemporaryDirectory() as temporary:
        for rows, c, dtype in LARGE if args.large else SIZES:
            z = logits(int(rows * args.rows), c, dtype, Path(temporary) if args.large else None)
            k = max(10, len(z) // 100)
            for name in STRATEGIES:
                about = {"strategy": name, "rows": len(z), "classes": c, "dtype": dtype, "budget": k}
                found.append({**about, **measured(name, z, k, 2 if args.large else REPEATS)})
                print(line(found[-1]), flush=True)
    record("scores_large" if args.large else "scores", {"share": args.rows, "sizes": found})


if __name__ == "__main__":
    main()
