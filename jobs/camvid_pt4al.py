#!/usr/bin/env python
"""PT4AL on street scenes (Yi et al. 2022, section 4.4, there on Cityscapes): segmentation, whole images are queried.

    python jobs/camvid_pt4al.py --data.root 'camvid/*.parquet'
    python jobs/camvid_pt4al.py --data.root camvid/images --data.mask-root camvid/masks
    python jobs/camvid_pt4al.py --preset random --data.root 'camvid/*.parquet'
    python jobs/camvid_pt4al.py --preset random --strategy k_center --data.root 'camvid/*.parquet'
    python jobs/camvid_pt4al.py --strategy entropy --data.root 'camvid/*.parquet'
    python jobs/camvid_pt4al.py --preset cityscapes --data.root 'leftImg8bit/[tv][ra]*/*/*.png' --data.mask-root gtFine

The rotation task orders the images; its encoder is where every round's network starts. Images and masks of a folder
have the same names, and train/ and val/ above them say which are the test images. Of Cityscapes these two are read (the
masks of test/ are void); labelTrainIds are made of its masks by its own cityscapesscripts.
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

CAMVID = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
          "Bicyclist")  # fmt: skip
CITYSCAPES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
              "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")  # fmt: skip

PT4AL = RunConfig(
    name="camvid",
    task="segmentation",
    rounds=4,
    budget=40,
    strategy="pt4al",
    strategy_options={"batches": 5},
    top_k=(),
    data=DataConfig(
        root="data/camvid/*.parquet", format="auto", key="frame", label_column="", classes=CAMVID, ignore_label=11
    ),
    # The seed set's options, too: other strategies, which leave pt4al's out, then start from the same images.
    split=SplitConfig(seed_set_size=40, seed_set_how="pretext", seed_set_options={"batches": 5}, val_how="random"),
    transform=TransformConfig(size=192, resize=0),
    model=ModelConfig(backbone="mobilenetv3_small_100"),
    train=TrainConfig(epochs=60, batch_size=8, optimizer="adamw", lr=1e-3, weight_decay=1e-4, schedule="cosine"),
    pretext=PretextConfig(task="rotation", as_backbone=True, epochs=15, batch_size=64, lr=0.1),
)
RANDOM = replace(PT4AL, {"strategy": "random", "split.seed_set_how": "random"})
STREETS = replace(
    PT4AL,
    {
        "name": "cityscapes",
        "data.classes": CITYSCAPES,
        "data.ignore_label": 255,
        "data.image_suffix": "_leftImg8bit.png",
        "data.mask_suffix": "_gtFine_labelTrainIds.png",
    },
)
PRESETS = {"pt4al": PT4AL, "random": RANDOM, "cityscapes": STREETS}

if __name__ == "__main__":
    job(PRESETS)
