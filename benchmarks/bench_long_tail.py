"""BASE's protocol on imbalanced CIFAR-10 (Emam et al. 2021, section 4) by fine-tuning, cut to what two cores can do.

    python benchmarks/bench_long_tail.py --data ../shared/data --seeds 1

The job is `jobs/cifar10_base.py --preset imbalanced`: classes of exponential sizes, 10 : 1, inverse-frequency class
weights, all weights trained anew in every round. Cut are the pool (10,000 images before it is made imbalanced, 4,086
after), the labels (100 and four times 100), the epochs (20, without early stopping and without validation images), and
the encoder: a ResNet-18 of a quarter of the channels, which learns from the imbalanced set by SimCLR for eight epochs.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from bench_pt4al import subset
from results import record

from alray import RunConfig, replace
from alray.recipes import presets
from alray.rounds import run

STRATEGIES = ("random", "margin", "base")
ROUNDS, BUDGET, EPOCHS, PRETEXT_EPOCHS = 5, 100, 20, 8
IMAGES, TESTS = 10_000, 2_000


def config(folder: Path) -> RunConfig:
    """The job of the paper with what is cut."""
    changes = {
        "root": str(folder / "runs"), "data.root": str(folder / "train"), "data.test_root": str(folder / "test"),
        "data.format": "parquet", "top_k": (), "rounds": ROUNDS, "budget": BUDGET, "split.val_size": 0,
        "split.seed_set_size": BUDGET, "train.epochs": EPOCHS, "train.patience": 0, "train.batch_size": 32,
        "train.checkpoint_every": EPOCHS, "model.options": {"channels": [16, 32, 64, 128]}, "pretext.task": "simclr",
        "pretext.as_backbone": True, "pretext.epochs": PRETEXT_EPOCHS, "pretext.checkpoint_every": PRETEXT_EPOCHS,
        "resources.select_workers": "process", "resources.train_workers": 1, "resources.extract_actors": 1,
    }  # fmt: skip
    return replace(presets("cifar10_base")["imbalanced"], changes)


def one(base: RunConfig, strategy: str, seed: int) -> list[dict[str, Any]]:
    """The rounds of a run."""
    found = run(replace(base, {"strategy": strategy, "seed": seed}), quiet=True)
    return [
        {
            "strategy": strategy, "seed": seed, "labels": r["labels"], "top1": r["test"]["top1"],
            "balanced_accuracy": r["test"]["balanced_accuracy"], "counts": r["labeled_set"]["counts"],
            "normalised_entropy": r["labeled_set"]["normalised_entropy"],
        }
        for r in found.rounds
    ]  # fmt: skip


def table(points: list[dict[str, Any]]) -> str:
    """A line for each number of labels: balanced accuracy and class entropy of each strategy."""
    names = list(dict.fromkeys(point["strategy"] for point in points))
    lines = [f"| labels | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for labels in sorted({point["labels"] for point in points}):
        cells = []
        for name in names:
            mine = [p for p in points if (p["labels"], p["strategy"]) == (labels, name)]
            accuracy, entropy = (mean(p[key] for p in mine) for key in ("balanced_accuracy", "normalised_entropy"))
            cells.append(f"{accuracy:.3f} ({entropy:.3f})")
        lines.append(f"| {labels} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no images in {args.data}")
        return
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subset(args.data, folder, IMAGES, TESTS)
        base = config(folder)
        for seed, strategy in product(range(args.seeds), STRATEGIES):
            points += one(base, strategy, seed)
            print(table(points), flush=True)
    sizes = {"images": IMAGES, "tests": TESTS, "epochs": EPOCHS, "pretext epochs": PRETEXT_EPOCHS, "seeds": args.seeds}
    record("long_tail", {"sizes": sizes, "points": points})


if __name__ == "__main__":
    main()
