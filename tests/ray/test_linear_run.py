"""Linear evaluation on images: what has been extracted needs no cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alray import RunConfig, replace
from alray.config import DataConfig, ModelConfig, ResourceConfig, SplitConfig, TrainConfig, TransformConfig
from alray.models.backbone import create
from alray.rounds import run

pytestmark = pytest.mark.usefixtures("ray_session")
MODEL = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 16, 16]}, small_stem=True)
AGAIN = """
import sys
from alray.config import RunConfig
from alray.rounds import run
run(RunConfig.model_validate_json(open(sys.argv[1]).read()), quiet=True)
found = {name.partition(".")[0] for name in sys.modules}
assert not found & {"ray", "timm", "torchvision"}, found
"""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "images" / ("test" if number < 12 else "train") / f"class{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    torch.save(create(MODEL, 3, seed=4).backbone.state_dict(), tmp_path / "backbone.pt")
    return RunConfig(
        root=str(tmp_path / "runs"),
        run_dir=str(tmp_path / "first"),
        rounds=3,
        budget=6,
        strategy="margin",
        data=DataConfig(root=str(tmp_path / "images")),
        split=SplitConfig(seed_set_size=6, val_size=0),
        transform=TransformConfig(size=16, resize=0),
        model=MODEL.model_copy(update={"checkpoint": str(tmp_path / "backbone.pt")}),
        train=TrainConfig(mode="linear", epochs=3, patience=0),
        resources=ResourceConfig(extract_actors=1, select_workers="process"),
    )


def picks(folder: Path) -> list[list[int]]:
    return [pq.read_table(path)["row"].to_pylist() for path in sorted(folder.glob("round_*/picks.parquet"))]


def test_a_run_on_cached_features_starts_no_ray_and_picks_the_same(config: RunConfig, tmp_path: Path) -> None:
    run(config, quiet=True)
    again = replace(config, {"run_dir": str(tmp_path / "second")})
    (tmp_path / "again.json").write_text(again.model_dump_json())
    subprocess.run([sys.executable, "-c", AGAIN, str(tmp_path / "again.json")], check=True, timeout=300)
    assert len(picks(tmp_path / "first")) == 2
    assert picks(tmp_path / "second") == picks(tmp_path / "first")
    assert (tmp_path / "first" / "cluster.json").exists()
    assert not (tmp_path / "second" / "cluster.json").exists()
