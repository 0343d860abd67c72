"""`alray plan` against what the run then takes, by stage, on five kinds of jobs.

    python benchmarks/bench_plan.py [DATA]     # DATA: a folder with camvid/ and embeddings/ (default ../shared/data)

A linear head on a frozen backbone, fine-tuning, PT4AL with its pretext task, segmentation, and embeddings that were
brought in. Networks are small, so that the starts of Ray's processes are a large part of each stage. The machine should
do nothing else.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

import torch
from digits import CONFIG, write_digits

from alray import RunConfig, replace
from alray.config import DataConfig, ModelConfig, PretextConfig, SplitConfig, TrainConfig, TransformConfig
from alray.models.backbone import create
from alray.planning.plan import plan
from alray.prepare import check
from alray.rounds import run

NETWORK = ModelConfig(backbone="resnet18", options={"channels": [16, 32, 64, 128]}, small_stem=True)


def jobs(folder: Path, data: Path) -> dict[str, RunConfig]:
    """The configurations by kind."""
    write_digits(str(folder / "digits"))
    weights = folder / "weights.pt"
    torch.save(create(NETWORK, 0, 0, 32).state_dict(), weights)
    root, digits = str(folder / "runs"), DataConfig(root=str(folder / "digits"))
    base = replace(CONFIG, {"root": root, "data": digits, "name": "finetune", "train.epochs": 40})
    small = {"transform": TransformConfig(size=32, train="crop_pad", flip=False, resize=0), "model": NETWORK}
    linear = replace(base, {
        **small, "name": "linear", "model.checkpoint": str(weights), "train": TrainConfig(mode="linear", epochs=200),
        "resources.extract_actors": 2,
    })  # fmt: skip
    pt4al = replace(base, {
        **small, "name": "pt4al", "strategy": "pt4al",
        "pretext": PretextConfig(task="rotation", epochs=8, batch_size=64),
        "split": SplitConfig(seed_set_size=60, seed_set_how="pretext", val_size=0), "train.epochs": 20,
    })  # fmt: skip
    from camvid_pt4al import PT4AL

    camvid = replace(PT4AL, {
        "root": root, "name": "segmentation", "strategy": "entropy", "strategy_options": {}, "rounds": 2, "budget": 20,
        "data.root": str(data / "camvid/*.parquet"), "split": SplitConfig(seed_set_size=40), "train.epochs": 10,
        "pretext": PretextConfig(), "transform.size": 128, "train.patience": 0,
    })  # fmt: skip
    brought = RunConfig(
        name="embeddings", root=root, rounds=4, budget=500, strategy="k_center",
        data=DataConfig(root=str(data / "embeddings/cifar10_mnv2_pca64.npz")), split=SplitConfig(seed_set_size=500),
        train=TrainConfig(mode="linear", epochs=200),
    )  # fmt: skip
    return {"linear": linear, "fine-tuning": base, "pt4al": pt4al, "segmentation": camvid, "embeddings": brought}


def main(data: Path) -> None:
    """Print a table: job, stage, planned and actual seconds, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'job':14} {'stage':10} {'planned':>9} {'actual':>9} {'ratio':>6}")
        for name, config in jobs(Path(folder), data).items():
            planned = plan(check(config)).seconds
            result = run(config, quiet=True)
            rows = [
                (stage, sum(values), sum(one["seconds"].get(stage, 0.0) for one in result.rounds))
                for stage, values in planned.items()
            ]
            everything = sum(sum(one["seconds"].values()) for one in result.rounds)
            for stage, before, after in [*rows, ("total", sum(row[1] for row in rows), everything)]:
                print(f"{name:14} {stage:10} {before:9.1f} {after:9.1f} {after / max(before, 1e-9):6.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
