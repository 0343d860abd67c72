#!/usr/bin/env python
"""BASE on ImageNet (Emam et al. 2021): ResNet-50 with MoCo v2 weights, 30,000 labels, then 7 times 10,000.

    python jobs/imagenet_base.py --data.root s3://bucket/imagenet --model.checkpoint moco_v2_800ep_pretrain.pth.tar
    python jobs/imagenet_base.py --preset finetune --resources.train-workers 8 ...

`linear`, the paper's linear evaluation, embeds every image once and trains a head per round; `finetune` trains all
weights every round and embeds the pool again.
"""

from __future__ import annotations

from alray import RunConfig, replace
from alray.cli import job
from alray.config import DataConfig, FeatureConfig, ModelConfig, SplitConfig, TrainConfig

LINEAR = RunConfig(
    name="imagenet",
    rounds=8,
    budget=10_000,
    strategy="base",
    data=DataConfig(root="data/imagenet"),
    split=SplitConfig(val_size=12_000, seed_set_size=30_000),
    model=ModelConfig(backbone="resnet50"),
    train=TrainConfig(
        mode="linear", epochs=60, patience=30, batch_size=128, lr=15.0, weight_decay=1e-4, schedule="step", step_size=20
    ),
    features=FeatureConfig(dtype="float16", batch_size=256),
)
FINETUNE = replace(
    LINEAR,
    {
        "name": "imagenet-finetune",
        "train.mode": "finetune",
        "train.lr": 1e-3,
        "train.weight_decay": 0.0,
        "train.step_size": 10,
        "train.freeze_bn": True,
    },
)
PRESETS = {"linear": LINEAR, "finetune": FINETUNE}

if __name__ == "__main__":
    job(PRESETS)
