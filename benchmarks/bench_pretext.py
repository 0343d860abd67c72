"""What is learnt without labels from real CIFAR-10 images in a few epochs by two workers: how well rotations of unseen
images are told (chance: 25 %), and linear accuracy on the frozen encoder of each task beside the same backbone with its
initial weights, on the same labels and test images.

    python benchmarks/bench_pretext.py --data ../shared/data --tasks rotation simclr
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from bench_pt4al import config, subset
from results import record

from alray import RunConfig, replace
from alray.data.augment import eval_transform
from alray.data.decode import decode
from alray.models.backbone import create
from alray.pretext import TASKS, build
from alray.pretext.rotation import Rotation
from alray.rounds import run
from alray.store import Store
from alray.train.measure import model_seed

CHANNELS = [8, 16, 32, 64]


def with_task(folder: Path, seed: int, task: str, args: argparse.Namespace) -> RunConfig:
    """One round: a head on the encoder that the task has trained on all training images."""
    views = TASKS[task].views
    return replace(
        config(folder, seed, args.epochs, args.labels),
        {
            "strategy": "random",
            "rounds": 1,
            "split.seed_set_how": "random",
            "model.options": {"channels": CHANNELS},
            "pretext.task": task,
            "pretext.lr": 0.1 if views else 0.05,
            "pretext.schedule": "cosine",
            "pretext.batch_size": 256 if views else 128,
        },
    )


def told(base: RunConfig, weights: Store, folder: Path) -> float:
    """The share of the four rotations of unseen images that the trained task tells."""
    task = build(base.pretext, base.model, base.pretext.seed, 32).eval()
    assert isinstance(task, Rotation)
    task.load_state_dict(torch.load(weights.at("model.pt"), weights_only=True))
    table, show = pq.read_table(folder / "test"), eval_transform(base.transform)
    images = np.stack([show(decode(data, str(row)), row, 0) for row, data in enumerate(table["image"].to_pylist())])
    right = 0
    with torch.no_grad():
        for part in torch.from_numpy(images).split(250):
            angle = torch.arange(4).repeat_interleave(len(part))
            right += int((task.logits(part).argmax(1) == angle).sum())
    return right / (4 * len(images))


def one_seed(folder: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    base = with_task(folder, seed, args.tasks[0], args)
    initial = folder / f"initial-{seed}.pt"
    torch.save(create(base.model, 10, model_seed(base), 32).backbone.state_dict(), initial)
    plain = replace(base, {"pretext.task": "none", "pretext.as_backbone": False, "model.checkpoint": str(initial)})
    found: dict[str, Any] = {"seed": seed, "initial weights": run(plain).rounds[0]["test"]["top1"], "history": {}}
    root = Store(str(folder / "runs" / "pretext"))
    for task in args.tasks:
        mine = replace(with_task(folder, seed, task, args), {"pretext.seed": seed})
        before = set(root.names())
        found[task] = run(mine).rounds[0]["test"]["top1"]
        (name,) = set(root.names()) - before
        weights = root.child(name)
        found["history"][task] = [round(epoch["loss"], 4) for epoch in weights.read_json("train.json")["history"]]
        if task == "rotation":
            found["rotations of unseen images told"] = told(mine, weights, folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", nargs="+", default=["rotation", "simclr"], choices=list(TASKS))
    for name, value in (("images", 8_000), ("tests", 2_000), ("epochs", 10), ("labels", 2_000), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no images in {args.data}")
        return
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        subset(args.data, Path(temporary), args.images, args.tests)
        for seed in range(args.seeds):
            found.append(one_seed(Path(temporary), seed, args))
            print(found[-1], flush=True)
    sizes = {name: value for name, value in vars(args).items() if name != "data"}
    record("pretext", {"sizes": sizes, "channels": CHANNELS, "linear top-1": found})


if __name__ == "__main__":
    main()
