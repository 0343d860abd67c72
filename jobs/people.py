#!/usr/bin/env python
"""People give the labels: from a folder of images, of which some or none have a label, to a trained model.

python jobs/people.py --data.root photos --data.classes cat dog owl --model.checkpoint moco_v2_800ep_pretrain.pth.tar

The run writes a batch of images, stops with exit code 75 and says where the batch is. `alray label` takes the answers,
and the same command goes on. `alray status` tells at any time what is missing. Labels that the source has already are
the seed set; without any, people label the first batch, which k-means spreads over the images.
"""

from __future__ import annotations

from alray import RunConfig
from alray.cli import job
from alray.config import FeatureConfig, LabelConfig, ModelConfig, SplitConfig, TrainConfig, TransformConfig

CONFIG = RunConfig(
    name="people",
    rounds=6,
    budget=100,
    strategy="margin",
    split=SplitConfig(seed_set_how="given", cold_start="k_means", seed_set_size=100),
    labels=LabelConfig(oracle="files", new_classes="allow"),
    transform=TransformConfig(train="eval"),
    model=ModelConfig(backbone="resnet50"),  # frozen: its embeddings are made once, and a round takes seconds
    train=TrainConfig(mode="linear", epochs=100, batch_size=64, lr=0.5, schedule="cosine"),
    features=FeatureConfig(dtype="float16"),
)

if __name__ == "__main__":
    job(CONFIG)
