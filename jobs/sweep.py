#!/usr/bin/env python
"""A sweep: strategies over budgets and seeds, on one extraction, with the statistics that make a comparison hold.

    python jobs/sweep.py --data.root features.npz --sweep strategy=random,margin,base budget=50,100 seed=0..9
    python jobs/sweep.py --preset imagenet --data.root s3://bucket/imagenet --model.checkpoint moco.pth.tar

`embeddings` takes arrays you bring (.npz with features, label, is_test); `imagenet` is the linear evaluation of
Emam et al. 2021. The same command started again continues: finished trials are not run again.
"""

from __future__ import annotations

from alray import RunConfig, replace
from alray.cli import sweep_job
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.recipes import presets

EMBEDDINGS = RunConfig(
    name="embeddings",
    rounds=5,
    budget=100,
    data=DataConfig(root="features.npz"),
    split=SplitConfig(val_size=200, seed_set_size=100),
    train=TrainConfig(
        mode="linear", epochs=100, patience=0, batch_size=64, lr=10.0, weight_decay=1e-5, schedule="cosine"
    ),
    resources=ResourceConfig(select_workers="process"),
)
FIELDS = ["strategy=random,margin,base,k_center", "seed=0..9"]
IMAGENET = replace(presets("imagenet_base")["linear"], {"name": "imagenet-linear"})
PRESETS = {"embeddings": EMBEDDINGS, "imagenet": IMAGENET}

if __name__ == "__main__":
    sweep_job(PRESETS, FIELDS)
