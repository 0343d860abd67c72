"""A whole segmentation run on image and mask files, with two training workers; the second of four classes is void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alray import RunConfig, replace
from alray.data.catalog import Catalog, CatalogError
from alray.models.segmenter import create_segmenter
from alray.rounds import run
from alray.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")
SIZE = 32


def write(folder: Path, count: int) -> None:
    """A red or green square on dark ground; a fifth of the images are the test split."""
    for row in range(count):
        rng = np.random.default_rng(row)
        image, mask = rng.integers(0, 60, (40, SIZE, 3)), np.zeros((40, SIZE), np.uint8)
        top, left, number = *rng.integers(2, 18, 2), row % 2
        image[top : top + 12, left : left + 12, number] += 180
        mask[top : top + 12, left : left + 12] = 2 + number
        mask[0] = 1
        split = "test" if row % 5 == 0 else "train"
        for kind, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
            path = folder / kind / split / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        root=str(tmp_path / "runs"), task="segmentation", rounds=2, budget=8, strategy="entropy", top_k=(),
        data={"root": str(tmp_path / "images"), "mask_root": str(tmp_path / "masks"),
              "classes": ("ground", "border", "red", "green"), "ignore_label": 1},
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
    store = Store(result.dir)
    assert store.read_json("run.json")["classes"] == ["ground", "red", "green"]
    labeled = last["labeled_set"]
    assert labeled["counts"][0] > labeled["counts"][1] > 0 and sum(labeled["counts"]) == 20 * 39 * SIZE  # of pixels
    assert labeled["empty_classes"] == 0 and labeled["max_min_ratio"] > 1
    picks = store.child("round_00").read_table("picks.parquet")
    entropy = recomputed_entropy(config(tmp_path), Store(result.dir))
    rows, scores = picks["row"].to_numpy(), np.exp(picks["score"].to_numpy())  # scores are logarithms
    assert len(rows) == 8 and (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, [entropy[row] for row in rows.tolist()], rtol=1e-4)
    left = [value for row, value in entropy.items() if row not in rows]
    assert len(left) == 48 - 12 - 6 - 8 and scores[-1] >= max(left) * (1 - 1e-4) and scores[0] > 1.01 * min(left)


def recomputed_entropy(config: RunConfig, run: Store) -> dict[int, float]:
    """Mean entropy of the pixels of what was not labeled in round 0, by row: by its weights, an image at a time."""
    model = create_segmenter(config.model, 3, 0, SIZE).eval()
    weights = run.child("round_00", "checkpoint").at("model.pt")
    model.load_state_dict(torch.load(weights, weights_only=True))
    catalog = Catalog.open(run.read_json("run.json")["catalog"])
    used = run.read_table("splits.parquet")["row"].to_pylist()
    found = {}
    for row in np.setdiff1d(np.flatnonzero(~catalog.is_test()), used).tolist():
        uri = catalog.references(np.array([row]))["uri"][0].as_py()
        pixels = np.asarray(Image.open(uri).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        with torch.no_grad():
            p = model(torch.tensor(pixels)[None])[1][0].double().softmax(0).numpy()
        found[row] = float(-(p * np.log(p)).sum(0).mean())
    return found


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
