"""kill -9 of the driver inside a pretext task's training and inside the measuring of its losses: the same losses and
picks after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import facts
from test_kill_finetune import config_of, start, write_images

from alray import RunConfig, replace

SNAPSHOT = "ray/train/checkpoint_manager_snapshot.json"


def config(root: Path, data: Path) -> RunConfig:
    return replace(
        config_of(root, data),
        {
            "strategy": "pt4al",
            "strategy_options": {"batches": 4},
            "split.seed_set_how": "pretext",
            "train.mode": "linear",
            "train.epochs": 3,
            "pretext.task": "rotation",
            "pretext.as_backbone": True,
            "pretext.epochs": 25,
            "pretext.batch_size": 20,
            "pretext.lr": 0.02,
        },
    )


def task(run: Path) -> Path:
    return next(run.parent.glob("pretext/rotation-*"), run / "nothing")


def in_training(run: Path) -> bool:
    return (task(run) / SNAPSHOT).exists() and not (task(run) / "train.json").exists()


def in_measuring(run: Path) -> bool:
    (folder,) = list(task(run).glob("losses/*")) or [run / "nothing"]
    return any(folder.glob("part-*")) and not (folder / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_the_pretext_task_and_in_its_losses(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    undisturbed, killed = (config(tmp_path / name, tmp_path / "images") for name in ("undisturbed", "killed"))
    start(undisturbed)
    start(killed, in_training)
    start(killed, in_measuring)
    start(killed)
    assert facts(tmp_path / "killed") == facts(tmp_path / "undisturbed")
    for name in ("model.pt", "encoder.pt", "losses/*/part-00000.arrow", "losses/*/part-00005.arrow"):
        one, other = (
            next((tmp_path / root).glob(f"pretext/*/{name}")).read_bytes() for root in ("undisturbed", "killed")
        )
        assert one == other, name
