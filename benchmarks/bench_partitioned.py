"""Exact against partitioned k-center on real embeddings: covering radius, mean distance, picks in common, CPU seconds.

    python benchmarks/bench_partitioned.py --data ../shared/data/embeddings

Partitioned as in the BASE paper's ImageNet runs (labeled rows are split, too). Random picks beside them. Draws
benchmarks/results/partitioned.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from results import FOLDER, record

from alray import keyed
from alray.selection.protocol import Strategy
from alray.selection.select import select
from alray.selection.strategies.k_center import KCenter
from alray.selection.strategies.partitioned import PartitionedKCenter
from alray.selection.strategies.random_sampling import RandomSampling

PARTS = (2, 4, 10, 16, 64)
STRATEGIES: dict[str, Strategy] = {
    "exact": KCenter(),
    **{f"{parts} parts": PartitionedKCenter(parts) for parts in PARTS},
    "random": RandomSampling(),
}


def coverage(x: np.ndarray, centers: np.ndarray) -> tuple[float, float]:
    """Largest and mean distance of the rows to their nearest center."""
    import faiss

    index = faiss.IndexFlatL2(x.shape[1])
    index.add(np.ascontiguousarray(x[centers]))
    squared = index.search(x, 1)[0][:, 0]
    distance = np.sqrt(np.maximum(squared, 0))
    return float(distance.max()), float(distance.mean())


def compare(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        x = arrays["features"].astype(np.float32)
    m, k = len(x) // 50, len(x) // 50
    labeled = np.sort(keyed.order(0, "partitioned", np.arange(len(x)))[:m])
    found: dict[str, Any] = {"rows": len(x), "width": x.shape[1], "labeled": m, "picks": k}
    exact: set[int] = set()
    for name, strategy in STRATEGIES.items():
        start = time.process_time()
        picks = select(strategy, k, embedding=x, labeled=labeled)
        taken = time.process_time() - start
        exact = exact or set(picks.rows.tolist())
        radius, mean = coverage(x, np.concatenate([labeled, picks.rows]))
        found[name] = {
            "radius": radius, "mean_distance": mean, "cpu_seconds": round(taken, 3),
            "picks_of_the_exact": len(exact & set(picks.rows.tolist())) / k,
        }  # fmt: skip
        print(f"{path.stem[:24]:24} {name:10} {found[name]}", flush=True)
    return found


def draw(found: dict[str, Any]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for (name, entry), colour, marker in zip(found.items(), ("#0072b2", "#d55e00", "#009e73"), "osD", strict=False):
        radius = [entry[strategy]["radius"] / entry["exact"]["radius"] for strategy in STRATEGIES]
        common = [100 * entry[strategy]["picks_of_the_exact"] for strategy in STRATEGIES]
        axes[0].plot(list(STRATEGIES), radius, color=colour, marker=marker, label=name)
        axes[1].plot(list(STRATEGIES), common, color=colour, marker=marker, label=name)
    axes[0].set(ylabel="covering radius over the exact one's", title="k-center in parts covers less")
    axes[1].set(ylabel="picks of the exact k-center, %", title="and picks other images")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.tick_params(axis="x", rotation=30)
    axes[0].legend(frameon=False)
    figure.savefig(FOLDER / "partitioned.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/embeddings"))
    args = parser.parse_args()
    files = sorted(args.data.glob("*.npz"))
    if not files:
        print(f"skipped: no embeddings in {args.data}")
        return
    found = {path.stem.split("_")[0]: compare(path) for path in files}
    draw(found)
    record("partitioned", {"sets": found})


if __name__ == "__main__":
    main()
