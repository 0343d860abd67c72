#!/usr/bin/env python
"""PT4AL on ImageNet (Yi et al. 2022): rotation learnt without labels orders 1.28 M images; nobody's weights are needed.

    python jobs/imagenet_pt4al.py --data.root s3://bucket/imagenet --resources.train-workers 8
    python jobs/imagenet_pt4al.py --preset backbone --strategy base ...

`finetune` trains a ResNet-50 from fresh weights every round; `backbone` trains heads on the frozen self-supervised
encoder of SimCLR instead, for any strategy.
"""

from __future__ import annotations

from alray import RunConfig, replace
from alray.cli import job
from alray.config import DataConfig, FeatureConfig, ModelConfig, PretextConfig, SplitConfig, TrainConfig

FINETUNE = RunConfig(
    name="imagenet-pt4al",
    rounds=8,
    budget=10_000,
    strategy="pt4al",
    data=DataConfig(root="data/imagenet"),
    split=SplitConfig(val_size=12_000, seed_set_size=30_000, seed_set_how="pretext"),
    model=ModelConfig(backbone="resnet50"),
    train=TrainConfig(
        epochs=60, patience=30, batch_size=256, lr=0.1, weight_decay=1e-4, schedule="step", step_size=20, amp="bf16"
    ),
    pretext=PretextConfig(task="rotation", epochs=15, batch_size=256, lr=0.1, weight_decay=5e-4, amp="bf16"),
    features=FeatureConfig(dtype="float16", batch_size=256),
)
BACKBONE = replace(
    FINETUNE,
    {
        "name": "imagenet-simclr",
        "strategy": "base",
        "split.seed_set_how": "random",  # as in imagenet_base.py; 30,000 centroids would take k_means hours
        "train.mode": "linear",
        "train.batch_size": 128,
        "train.lr": 15.0,
        "pretext.task": "simclr",
        "pretext.as_backbone": True,
        "pretext.epochs": 100,
        "pretext.batch_size": 1024,
        "pretext.sync_bn": True,
        "pretext.lr": 0.5,
        "pretext.schedule": "cosine",
        "pretext.weight_decay": 1e-4,
    },
)

PRESETS = {"finetune": FINETUNE, "backbone": BACKBONE}

if __name__ == "__main__":
    job(PRESETS)
