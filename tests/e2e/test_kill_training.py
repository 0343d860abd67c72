"""kill -9 of the driver inside a pretext task, the measuring of its losses, fine-tuning and extraction: the same
weights, losses, picks, labels and metrics after a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import below, processes
from program import facts

from alray.config import (
    DataConfig,
    FeatureConfig,
    ModelConfig,
    PretextConfig,
    ResourceConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
    replace,
)
from alray.report import report

SNAPSHOT = "ray/train/checkpoint_manager_snapshot.json"  # Ray Train has a checkpoint to go on from
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
        strategy="pt4al",
        strategy_options={"batches": 4},
        top_k=(2,),
        data=DataConfig(root=str(data)),
        split=SplitConfig(val_size=15, seed_set_size=20, seed_set_how="pretext"),
        transform=TransformConfig(size=8, train="crop_pad", pad=1, resize=0),
        model=ModelConfig(backbone="test_resnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        train=TrainConfig(epochs=30, patience=0, batch_size=10, lr=0.02, checkpoint_every=1),
        pretext=PretextConfig(task="rotation", as_backbone=True, epochs=25, batch_size=20, lr=0.02),
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


def start_and_kill_a_worker(config: RunConfig, moment: Callable[[Path], bool]) -> str:
    """Run to the end; a training worker is killed at the moment. Returns what was printed."""
    program = PROGRAM.replace(", quiet=True", "")
    process = subprocess.Popen([sys.executable, "-c", program, config.to_json()], stdout=subprocess.PIPE, text=True)
    folders = Path(config.root)
    while not any(moment(run) for run in folders.glob("kill-*")):
        assert process.poll() is None, "the run ended before its worker was killed"
        time.sleep(0.02)
    killed = next(pid for pid in processes("ray::RayTrainWorker") if below(pid, process.pid))
    os.kill(killed, signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 0
    return said


def unfinished(folder: Path, begun: str, end: str) -> bool:
    """Whether the stage that fills a directory has left its first file there, and not yet its last."""
    return any(folder.glob(begun)) and not (folder / end).exists()


def task(run: Path) -> Path:
    return next(run.parent.glob("pretext/rotation-*"), run / "nothing")


def extracted(folder: Path) -> Path:
    return next(folder.glob("*"), folder / "nothing")


STAGES: dict[str, Callable[[Path], bool]] = {
    "pretext task": lambda run: unfinished(task(run), SNAPSHOT, "train.json"),
    "its losses": lambda run: unfinished(extracted(task(run) / "losses"), "part-*", "manifest.json"),
    "fine-tuning": lambda run: unfinished(run / "round_00/checkpoint", SNAPSHOT, "train.json"),
    "extraction": lambda run: unfinished(extracted(run / "round_00/features"), "part-*", "manifest.json"),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_every_stage_on_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    undisturbed, killed = (config_of(tmp_path / name, tmp_path / "images") for name in ("undisturbed", "killed"))
    start(undisturbed)
    for kill in STAGES.values():
        start(killed, kill)
    start(killed)
    assert facts(tmp_path / "killed") == facts(tmp_path / "undisturbed")
    weights = [f"kill-*/round_{number:02d}/checkpoint/model.pt" for number in range(2)]
    losses = ["pretext/*/losses/*/part-00000.arrow", "pretext/*/losses/*/part-00005.arrow"]
    for name in (*weights, *losses, "pretext/*/model.pt", "pretext/*/encoder.pt"):
        one, other = (next((tmp_path / root).glob(name)).read_bytes() for root in ("undisturbed", "killed"))
        assert one == other, name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_worker_is_killed_ends_well_and_tells_it(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    changes = {
        "strategy": "margin",
        "strategy_options": {},
        "split.seed_set_how": "random",
        "pretext.as_backbone": False,
    }
    undisturbed, killed = (
        replace(config_of(tmp_path / name, tmp_path / "images"), changes) for name in ("undisturbed", "killed")
    )
    start(undisturbed)
    said = start_and_kill_a_worker(killed, lambda run: unfinished(run / "round_01/checkpoint", SNAPSHOT, "train.json"))
    (run,), (calm,) = (list((tmp_path / name).glob("kill-*")) for name in ("killed", "undisturbed"))
    (restart,) = json.loads((run / "round_01/timings.json").read_text())["restarts"]
    print(restart)
    assert restart["stage"] == "train" and restart["epoch"] >= 1 and restart["seconds"] > 0
    assert restart["cause"] in said and "1 of 3 restarts" in said
    assert "restarts" not in json.loads((run / "round_00/timings.json").read_text())
    found = facts(tmp_path / "killed")
    assert found["metrics 1"].pop("restarts") == [restart]  # type: ignore[attr-defined]
    assert found == facts(tmp_path / "undisturbed")
    for number in range(2):
        one, other = (folder / f"round_{number:02d}/checkpoint/model.pt" for folder in (run, calm))
        assert one.read_bytes() == other.read_bytes()
    report([str(run)], str(tmp_path / "report"))
    page = (tmp_path / "report/report.html").read_text()
    assert "Training lost workers and went on from its last checkpoint once" in page
