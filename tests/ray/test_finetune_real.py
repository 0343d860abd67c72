"""Fine-tuning on real images: what two workers report is what one process measures of the checkpoint they wrote."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alray.cluster import Joined
from alray.config import RunConfig
from alray.data.augment import eval_transform
from alray.data.catalog import index
from alray.data.fetch import fetch
from alray.models.backbone import create, embed_images
from alray.store import Store
from alray.train.driver import train
from alray.train.evaluate import classification_metrics
from alray.train.measure import model_seed
from alray.train.supervised import supervised_recipe
from alray.train.targets import ClassTargets

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("ray_session")]
LABELED, HELD_OUT = 3000, 1001  # an odd number: the workers have shares of different sizes


def test_two_workers_report_what_one_process_measures(shared_data: Path, tmp_path: Path) -> None:
    source = str(shared_data / "cifar10/cifar10_test_00-of-01.parquet")
    catalog = index(source, str(tmp_path / "catalog"), yes=True)  # its name says that all of them are test images
    config = RunConfig(
        transform={"size": 32, "train": "crop_pad", "pad": 4, "resize": 0},
        model={"backbone": "resnet18", "options": {"channels": [16, 32, 64, 128]}, "small_stem": True},
        train={"epochs": 2, "batch_size": 128, "lr": 0.1, "schedule": "cosine"},
        resources={"train_workers": 2},
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(catalog))
    rows, held_out = order[:LABELED], np.sort(order[LABELED : LABELED + HELD_OUT])
    labels = catalog.labels()
    recipe = supervised_recipe(
        config, ClassTargets(10), labeled=(rows, labels[rows]), held_out=(held_out, labels[held_out]), round=0,
        seed=model_seed(config), start=None, out=Store(str(tmp_path / "out")),
    )  # fmt: skip
    summary = train(recipe, catalog, Joined(config.resources), what="training of round 0")
    assert [epoch.images for epoch in summary.history] == [LABELED] * 2

    model = create(config.model, 10, 99, 32)
    model.load_state_dict(torch.load(tmp_path / "out/model.pt", weights_only=True))
    transform = eval_transform(config.transform)
    files = fetch(catalog.references(held_out), catalog.source, catalog.image_column)
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    images = np.stack([transform(picture, int(row)) for picture, row in zip(pictures, held_out, strict=True)])
    logits = embed_images(model, images, 64, torch.device("cpu"))[1]
    alone = classification_metrics(logits, labels[held_out], classes=catalog.classes, top_k=(5,))
    assert alone["top1"] == summary.val_accuracy
    assert summary.val_accuracy is not None and summary.val_accuracy > 0.2
