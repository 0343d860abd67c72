#!/usr/bin/env python
"""BASE on CIFAR-10, the protocol of Emam et al. 2021: ResNet-18 with a 32-pixel stem, SimCLR weights, 1,000 -> 30,000
labels.

    python jobs/cifar10_base.py --data.root /data/cifar10 --model.checkpoint simclr_resnet18.pth

Without a checkpoint every round trains from fresh weights; `--preset scratch` has the hyper-parameters for that.
"""

from __future__ import annotations

from alray import RunConfig, replace
from alray.cli import job
from alray.config import DataConfig, ModelConfig, SplitConfig, TrainConfig, TransformConfig

CONFIG = RunConfig(
    name="cifar10",
    rounds=30,
    budget=1_000,
    strategy="base",
    data=DataConfig(root="data/cifar10"),
    split=SplitConfig(val_size=5_000, seed_set_size=1_000),
    transform=TransformConfig(size=32, train="crop_pad", pad=4, resize=0),
    model=ModelConfig(
        backbone="resnet18", small_stem=True, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    ),
    train=TrainConfig(
        epochs=200, patience=50, batch_size=128, lr=1e-3, weight_decay=5e-4, schedule="cosine", freeze_bn=True
    ),
)
SCRATCH = replace(CONFIG, {"name": "cifar10-scratch", "train.lr": 0.1, "train.freeze_bn": False})
IMBALANCED = replace(
    CONFIG,
    {
        "name": "cifar10-imbalanced",
        "data.imbalance.kind": "exponential",
        "data.imbalance.factor": 0.1,
        "split.val_size": 2_040,
        "rounds": 15,
        "train.lr": 2e-3,
        "train.weight_decay": 0.0,
        "train.class_weights": True,
    },
)
PRESETS = {"finetune": CONFIG, "scratch": SCRATCH, "imbalanced": IMBALANCED}

if __name__ == "__main__":
    job(PRESETS)
