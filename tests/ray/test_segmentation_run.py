"""A whole segmentation run on image and mask files, with two training workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alray import RunConfig, replace
from alray.data.catalog import CatalogError
from alray.rounds import run
from alray.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")
SIZE = 32


def write(folder: Path, count: int) -> None:
    """A red or green square on dark ground; a tenth of the images are the test split."""
    for row in range(count):
        rng = np.random.default_rng(row)
        image, mask = rng.integers(0, 60, (40, SIZE, 3)), np.zeros((40, SIZE), np.uint8)
        top, left, number = *rng.integers(2, 18, 2), 1 + row % 2
        image[top : top + 12, left : left + 12, number - 1] += 180
        mask[top : top + 12, left : left + 12] = number
        mask[0] = 255
        split = "test" if row % 5 == 0 else "train"
        for kind, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
            path = folder / kind / split / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        root=str(tmp_path / "runs"), task="segmentation", rounds=2, budget=8, strategy="entropy", top_k=(),
        data={"root": str(tmp_path / "images"), "mask_root": str(tmp_path / "masks"),
              "classes": ("ground", "red", "green"), "ignore_label": 255},
        split={"seed_set_size": 12, "val_size": 6, "val_how": "random"},
        transform={"size": SIZE, "resize": 0}, model={"backbone": "test_resnet"},
        train={"epochs": 4, "batch_size": 6, "optimizer": "adamw", "lr": 3e-3},
        resources={"train_workers": 2, "select_shards": 2, "select_workers": "process"},
    )  # type: ignore[arg-type]  # fmt: skip


def test_segmentation_from_files_to_miou(tmp_path: Path) -> None:
    write(tmp_path, 60)
    result = run(config(tmp_path), quiet=True)
    first, last = result.rounds
    assert (first["labels"], last["labels"]) == (12, 20)
    for metrics in (first, last):
        test = metrics["test"]
        assert test["num_images"] == 12 and 0 < test["miou"] <= test["balanced_accuracy"] <= 1
        assert len(test["per_class_iou"]) == 3
    assert metrics["labeled_set"]["counts"][0] > metrics["labeled_set"]["counts"][1] > 0  # of pixels
    picks = Store(result.dir).child("round_00").read_table("picks.parquet")
    scores = picks["score"].to_numpy()
    assert len(scores) == 8 and (np.diff(scores) <= 0).all() and 0 < scores[0] < np.log(3) + 1e-6


def test_an_image_without_a_mask_is_named_before_anything_starts(tmp_path: Path) -> None:
    write(tmp_path, 40)
    (tmp_path / "masks" / "train" / "007.png").unlink()
    with pytest.raises(CatalogError, match=r"1 of 40 images have no mask, first train/007.png"):
        run(config(tmp_path), quiet=True)
    assert not list((tmp_path / "runs").glob("*/round_00"))


def test_a_run_without_classes_says_how_to_name_them(tmp_path: Path) -> None:
    write(tmp_path, 40)
    with pytest.raises(ValueError, match="data.classes"):
        run(replace(config(tmp_path), {"data.classes": ()}), quiet=True)
