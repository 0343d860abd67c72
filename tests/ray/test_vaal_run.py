"""A run whose strategy needs a network of its own: VAAL's, trained by two workers on real files, measured by actors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alray import RunConfig
from alray.config import ConfigError, ModelConfig
from alray.models.backbone import create
from alray.rounds import run
from alray.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")
MODEL = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 16, 16]}, small_stem=True)


def images(folder: Path, count: int) -> None:
    """Two classes of grey noise; every fourth image is bright."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(60, 140, (16, 16, 3))
        pixels += 100 * (number % 4 == 3)
        path = folder / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def config(tmp_path: Path) -> RunConfig:
    torch.save(create(MODEL, 2, 0, 16).backbone.state_dict(), tmp_path / "weights.pt")
    return RunConfig(
        root=str(tmp_path / "runs"),
        rounds=2,
        budget=20,
        strategy="vaal",
        top_k=(),
        data={"root": str(tmp_path / "images")},
        split={"seed_set_size": 24, "test_share": 0.1},
        transform={"size": 16, "resize": 0},
        model={**MODEL.model_dump(), "checkpoint": str(tmp_path / "weights.pt")},
        train={"mode": "linear", "epochs": 5},
        vaal={"image_size": 16, "latent": 4, "width": 4, "epochs": 3, "batch_size": 16, "lr": 1e-3},
        resources={"train_workers": 2, "select_shards": 2},
    )  # type: ignore[arg-type]


def test_vaal_picks_by_its_discriminator(tmp_path: Path) -> None:
    images(tmp_path / "images", 160)
    result = run(config(tmp_path), quiet=True)
    first = Store(result.dir).child("round_00")
    picks = first.read_table("picks.parquet")
    scores = picks["score"].to_numpy()
    assert len(scores) == 20 and (np.diff(scores) <= 0).all() and np.ptp(scores) > 0
    assert Store(first.at("vaal")).has("train.json") and not Store(first.at("vaal")).has("ray")
    before = {name: picks[name].to_pylist() for name in picks.column_names}

    for name in ("picks.parquet", "labels.parquet", "metrics.json"):  # as if killed before the selection was written
        first.delete(name)
    run(config(tmp_path), quiet=True)
    again = first.read_table("picks.parquet")
    assert {name: again[name].to_pylist() for name in again.column_names} == before


def test_embeddings_alone_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "features.npz", features=rng.normal(size=(60, 4)).astype(np.float32), label=np.arange(60) % 3,
        is_test=np.arange(60) % 10 == 0,
    )  # fmt: skip
    bad = RunConfig(
        root=str(tmp_path), rounds=2, budget=5, strategy="vaal", top_k=(), split={"seed_set_size": 5},
        data={"root": str(tmp_path / "features.npz")}, train={"mode": "linear"},
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(ConfigError, match="discriminator is measured on images"):
        run(bad, quiet=True)
