#!/usr/bin/env python
"""PT4AL on street scenes (Yi et al. 2022, section 4.4, there on Cityscapes): segmentation, whole images are queried.

    python jobs/camvid_pt4al.py --data.root 'camvid/*.parquet'
    python jobs/camvid_pt4al.py --data.root camvid/images --data.mask-root camvid/masks --data.ignore-label 11
    python jobs/camvid_pt4al.py --preset random ...      # or --strategy entropy, k_center ...

The rotation task orders the images; its encoder is where every round's network starts.
"""

from __future__ import annotations

from alray import RunConfig, replace
from alray.cli import job
from alray.config import (
    DataConfig,
    ModelConfig,
    PretextConfig,
    ResourceConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
)

PT4AL = RunConfig(
    name="camvid",
    task="segmentation",
    rounds=4,
    budget=40,
    strategy="pt4al",
    strategy_options={"batches": 5},
    top_k=(),
    data=DataConfig(root="data/camvid/*.parquet", format="auto", key="frame", label_column="", ignore_label=11),
    split=SplitConfig(seed_set_size=40, seed_set_how="pretext", val_how="random"),
    transform=TransformConfig(size=192, resize=0),
    model=ModelConfig(backbone="mobilenetv3_small_100"),
    train=TrainConfig(epochs=60, batch_size=8, optimizer="adamw", lr=1e-3, weight_decay=1e-4, schedule="cosine"),
    pretext=PretextConfig(task="rotation", as_backbone=True, epochs=15, batch_size=64, lr=0.1),
    resources=ResourceConfig(select_shards=2),
)
RANDOM = replace(PT4AL, {"strategy": "random", "strategy_options": {}, "split.seed_set_how": "random"})
PRESETS = {"pt4al": PT4AL, "random": RANDOM}

if __name__ == "__main__":
    job(PRESETS)
