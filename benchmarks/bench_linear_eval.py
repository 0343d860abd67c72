"""Linear evaluation on real embeddings: random, margin and BASE over three data sets and three seeds, with the class
balance.

    python benchmarks/bench_linear_eval.py --data ../shared/data/embeddings

Writes benchmarks/results/linear_eval.json and prints the table. Runs without Ray.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from results import record

from alray import RunConfig, replace, run
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig

STRATEGIES, SEEDS = ("random", "margin", "base"), (0, 1, 2)
# All epochs, the best by validation: at the learning rate these short embeddings need, early stopping is a lottery.
LINEAR = TrainConfig(
    mode="linear", epochs=100, patience=0, batch_size=64, lr=10.0, weight_decay=1e-5, schedule="cosine"
)
BASE = RunConfig(
    rounds=5,
    budget=1,
    train=LINEAR,
    split=SplitConfig(val_size=200, seed_set_size=100),
    resources=ResourceConfig(select_workers="process", select_shards=2),
    top_k=(5,),
)
SETS: dict[str, dict[str, Any]] = {
    "cifar10_mnv2_pca64": {"budget": 250, "split": SplitConfig(val_size=200, seed_set_size=100)},
    "tiny_imagenet_dev100_mnv2_pca64": {"budget": 1000, "split": SplitConfig(val_size=500, seed_set_size=500)},
    "plankton121_mnv2_pca64": {"budget": 625, "split": SplitConfig(val_size=500, seed_set_size=500, test_share=0.2)},
}


def one(name: str, strategy: str, seed: int, data: Path, root: str) -> dict[str, Any]:
    config = replace(
        BASE, {**SETS[name], "name": name.split("_")[0], "root": root, "strategy": strategy, "seed": seed}
    ).model_copy(update={"data": DataConfig(root=str(data / f"{name}.npz"))})
    last = run(config, quiet=True).rounds[-1]
    return {
        "set": name,
        "strategy": strategy,
        "seed": seed,
        "labels": last["labels"],
        "top1": last["test"]["top1"],
        "balanced_accuracy": last["test"]["balanced_accuracy"],
        "normalised_entropy": last["labeled_set"]["normalised_entropy"],
        "empty_classes": last["labeled_set"]["empty_classes"],
    }


def table(points: list[dict[str, Any]]) -> str:
    lines = [
        "| embeddings | labels | strategy | top-1 | balanced accuracy | class entropy of the labels | empty classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, strategy in product(SETS, STRATEGIES):
        mine = [point for point in points if (point["set"], point["strategy"]) == (name, strategy)]

        def spread(column: str, mine: list[dict[str, Any]] = mine) -> str:
            values = [point[column] for point in mine]
            return f"{mean(values):.3f} ± {stdev(values):.3f}"

        empty = mean(point["empty_classes"] for point in mine)
        lines.append(
            f"| {name} | {mine[0]['labels']:,} | {strategy} | {spread('top1')} | {spread('balanced_accuracy')} "
            f"| {spread('normalised_entropy')} | {empty:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/embeddings"))
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no embeddings in {args.data}")
        return
    with tempfile.TemporaryDirectory() as root:
        points = [one(*trial, args.data, root) for trial in product(SETS, STRATEGIES, SEEDS)]
    print(table(points))
    record("linear_eval", {"rounds": 5, "seeds": len(SEEDS), "train": LINEAR.model_dump(), "points": points})


if __name__ == "__main__":
    main()
