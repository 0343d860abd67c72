#!/usr/bin/env python
"""PT4AL on CIFAR-10 (Yi et al. 2022): rotation learnt for 15 epochs without labels, then ten rounds of 1,000 labels.

    python jobs/cifar10_pt4al.py --data.root /data/cifar10
    python jobs/cifar10_pt4al.py --strategy-options uncertainty entropy --split.seed-set-options cold_start middle
    python jobs/cifar10_pt4al.py --preset imbalanced --strategy random --split.seed-set-how random ...

`paper` is the paper's text; `published` does what its code does besides (it goes on from the previous round's weights
and divides logits by their norm), without its errors; `imbalanced` draws an exponentially imbalanced pool.
"""

from __future__ import annotations

from alray import RunConfig, replace
from alray.cli import job
from alray.config import (
    DataConfig,
    ModelConfig,
    PretextConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
)

PAPER = RunConfig(
    name="cifar10-pt4al",
    rounds=10,
    budget=1_000,
    strategy="pt4al",
    data=DataConfig(root="data/cifar10"),
    split=SplitConfig(seed_set_size=1_000, seed_set_how="pretext"),
    transform=TransformConfig(size=32, train="crop_pad", pad=4, resize=0),
    model=ModelConfig(
        backbone="resnet18", small_stem=True, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    ),
    train=TrainConfig(epochs=200, batch_size=128, lr=0.1, weight_decay=5e-4, schedule="step", step_size=160),
    pretext=PretextConfig(task="rotation", epochs=15, batch_size=256, lr=0.1, weight_decay=5e-4),
)
PUBLISHED = replace(
    PAPER,
    {
        "name": "cifar10-pt4al-published",
        "train.warm_start": True,
        "strategy_options": {"normalise_logits": True},
    },
)
IMBALANCED = replace(
    PAPER,
    {
        "name": "cifar10-pt4al-imbalanced",
        "data.imbalance.kind": "exponential",
        "data.imbalance.factor": 0.1,
        "train.class_weights": True,
    },
)
PRESETS = {"paper": PAPER, "published": PUBLISHED, "imbalanced": IMBALANCED}

if __name__ == "__main__":
    job(PRESETS)
