"""Does pretraining without labels help? Linear accuracy on real CIFAR-10 images of a backbone that SimCLR trained for a
few epochs, beside the same backbone with its initial weights, on the same labels.

    python benchmarks/bench_simclr.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_pt4al import config, subset
from results import record

from alray import replace
from alray.models.backbone import create
from alray.rounds import run
from alray.train.learner import model_seed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--task", default="simclr", choices=["simclr", "simsiam", "rotation", "colorization"])
    for name, value in (("images", 3000), ("tests", 2000), ("epochs", 10), ("labels", 1500), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no images in {args.data}")
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subset(args.data, folder, args.images, args.tests)
        for seed in range(args.seeds):
            base = replace(
                config(folder, seed, args.epochs, args.labels),
                {"strategy": "random", "rounds": 1, "split.seed_set_how": "random", "pretext.task": args.task},
            )
            initial = folder / f"initial-{seed}.pt"
            torch.save(create(base.model, 10, model_seed(base), 32).backbone.state_dict(), initial)
            plain = replace(
                base, {"pretext.task": "none", "pretext.as_backbone": False, "model.checkpoint": str(initial)}
            )
            accuracy = {name: run(c).rounds[0]["test"]["top1"] for name, c in (("initial", plain), (args.task, base))}
            found.append({"seed": seed, **accuracy})
            print(found[-1], flush=True)
    sizes = {name: value for name, value in vars(args).items() if name != "data"}
    record(f"pretraining_{args.task}", {"sizes": sizes, "linear top-1": found})


if __name__ == "__main__":
    main()
