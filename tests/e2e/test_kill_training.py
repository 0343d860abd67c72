"""kill -9 of the driver inside Ray Train and inside the extraction by Ray Data actors: the same weights, picks, labels
and metrics after a restart."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import facts

from alray.config import DataConfig, FeatureConfig, ModelConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig
from alray.config import TransformConfig as Transform

SNAPSHOT = "round_00/checkpoint/ray/train/checkpoint_manager_snapshot.json"
PROGRAM = "import sys; from alray import RunConfig, run; run(RunConfig.from_json(sys.argv[1]), quiet=True)"


def write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(150):
        pixels = rng.integers(0, 200, (12, 12, 3))
        pixels[..., number % 3] += 55
        path = root / ("test" if number % 5 == 0 else "train") / str(number % 3) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def config_of(root: Path, data: Path) -> RunConfig:
    return RunConfig(
        name="kill",
        root=str(root),
        rounds=2,
        budget=10,
        top_k=(2,),
        data=DataConfig(root=str(data)),
        split=SplitConfig(val_size=15, seed_set_size=20),
        transform=Transform(size=8, train="crop_pad", pad=1, resize=0),
        model=ModelConfig(backbone="test_resnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        train=TrainConfig(epochs=30, patience=0, batch_size=10, lr=0.02, checkpoint_every=1),
        features=FeatureConfig(part_rows=4),
        resources=ResourceConfig(train_workers=2, select_workers="process"),
    )


def start(config: RunConfig, kill: Callable[[Path], bool] | None = None) -> None:
    """Run to the end, or to the moment when `kill` says so of the run's directory."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, config.to_json()])
    while process.poll() is None:
        if kill is not None and any(kill(run) for run in Path(config.root).glob("kill-*")):
            process.kill()
            process.wait()
            return
        time.sleep(0.02)
    assert process.returncode == 0
    assert kill is None, "the run ended before it was killed"


def in_training(run: Path) -> bool:
    return (run / SNAPSHOT).exists() and not (run / "round_00/checkpoint/train.json").exists()


def in_extraction(run: Path) -> bool:
    (folder,) = list(run.glob("round_00/features/*")) or [run / "nothing"]
    return any(folder.glob("part-*")) and not (folder / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_training_and_in_extraction(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    undisturbed, killed = (config_of(tmp_path / name, tmp_path / "images") for name in ("undisturbed", "killed"))
    start(undisturbed)
    start(killed, in_training)
    start(killed, in_extraction)
    start(killed)
    assert facts(tmp_path / "killed") == facts(tmp_path / "undisturbed")
    for number in range(2):
        one, other = (
            next((tmp_path / name).glob(f"kill-*/round_{number:02d}/checkpoint/model.pt")).read_bytes()
            for name in ("undisturbed", "killed")
        )
        assert one == other
