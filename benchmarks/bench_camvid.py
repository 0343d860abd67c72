"""Segmentation of street scenes (CamVid): mIoU per round of random, entropy, k-center and PT4AL, whole images queried.

    python benchmarks/bench_camvid.py --data ../shared/data

MobileNetV2 (ImageNet weights) with the LR-ASPP decoder, small images and few epochs: what two cores can do.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import mobilenet
import torch
from results import record

from alray import RunConfig, replace
from alray.rounds import run

STRATEGIES = ("random", "entropy", "k_center", "pt4al")


def config(data: Path, folder: Path, seed: int, epochs: int, size: int) -> RunConfig:
    weights = folder / "mobilenet.pt"
    torch.save(mobilenet.state_dict(data / "weights/mobilenet_v2_1.0_224_imagenet_int8.npz"), weights)
    return RunConfig(
        name="camvid", root=str(folder / "runs"), task="segmentation", seed=seed, rounds=3, budget=40, top_k=(),
        data={"root": str(data / "camvid/*.parquet"), "key": "frame", "label_column": "", "ignore_label": 11},
        split={"seed_set_size": 40, "val_how": "random"},
        transform={"size": size, "resize": 0},
        model={"backbone": mobilenet.TIMM_NAME, "options": mobilenet.TIMM_OPTIONS, "checkpoint": str(weights),
               "mean": mobilenet.MEAN, "std": mobilenet.STD},
        train={"epochs": epochs, "batch_size": 8, "optimizer": "adamw", "lr": 1e-3, "schedule": "cosine"},
        pretext={"task": "rotation", "epochs": 5, "batch_size": 32, "lr": 0.05},
        features={"batch_size": 16},
        resources={"train_workers": 2, "select_workers": "process", "num_cpus": 4},
    )  # type: ignore[arg-type]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    for name, value in (("seeds", 1), ("epochs", 12), ("size", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no images in {args.data}")
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            base = config(args.data.absolute(), Path(folder), seed, args.epochs, args.size)
            for strategy in args.strategies:
                options = {"strategy": strategy, "strategy_options": {"batches": 5} if strategy == "pt4al" else {}}
                rounds = run(replace(base, options)).rounds
                points = [{"labels": r["labels"], **{k: r["test"][k] for k in ("miou", "top1")}} for r in rounds]
                found.append({"strategy": strategy, "seed": seed, "rounds": points})
                print(found[-1], flush=True)
    sizes = {name: value for name, value in vars(args).items() if name != "data"}
    record("camvid", {"sizes": sizes, "runs": found})


if __name__ == "__main__":
    main()
