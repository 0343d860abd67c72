"""PT4AL as a whole: rotation learnt by two workers without labels; its losses order the pool, its encoder embeds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from PIL import Image

from alray import RunConfig, replace
from alray.config import ConfigError
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.rounds import run
from alray.rundir import RunError
from alray.selection.protocol import SelectionError
from alray.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")


def images(folder: Path, count: int) -> None:
    """Two classes: a bright bar at the top, long or short."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 120, (16, 16, 3))
        pixels[1 + number % 3 : 5, 2 : 14 - 7 * (number % 2)] += 120
        path = folder / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        root=str(tmp_path / "runs"),
        rounds=3,
        budget=8,
        strategy="pt4al",
        strategy_options={"batches": 5},
        top_k=(),
        data={"root": str(tmp_path / "images")},
        split={"seed_set_size": 8, "seed_set_how": "pretext", "test_share": 0.1, "val_size": 10},
        transform={"size": 16, "resize": 0},
        model={"backbone": "resnet18", "options": {"channels": [16, 16, 16, 16]}, "small_stem": True},
        train={"mode": "linear", "epochs": 10},
        pretext={"task": "rotation", "as_backbone": True, "epochs": 2, "batch_size": 32, "lr": 0.05},
        resources={"train_workers": 2, "select_shards": 2, "select_workers": "process"},
    )  # type: ignore[arg-type]


def table(folder: Store) -> FeatureTable:
    (name,) = folder.names()
    return FeatureTable.open(folder.at(name))


def test_rounds_follow_the_batches(tmp_path: Path) -> None:
    images(tmp_path / "images", 160)
    result = run(config(tmp_path), quiet=True)
    out, root = Store(result.dir), Store(str(tmp_path / "runs"))
    (name,) = root.child("pretext").names()
    task = root.child("pretext", name)
    assert name.startswith("rotation-") and not Store(task.uri).has("ray")

    splits = out.read_table("splits.parquet")
    assert set(splits["role"].to_pylist()) == {"held_out"}
    losses = table(task.child("losses"))
    pool = np.setdiff1d(losses.rows, splits["row"].to_numpy())
    loss, features = losses.read(pool, "pretext_loss")[:, 0], table(root.child("features"))
    chosen = out.read_table("seed_set.parquet")["row"].to_numpy()
    logits = np.zeros((len(pool), 2))
    expected = reference.pt4al(loss, logits, pool, 8, 0, np.empty(0), batches=5)
    np.testing.assert_array_equal(chosen, expected[0])
    labeled = chosen
    for number in range(2):
        round = out.child(f"round_{number:02d}")
        head = Head.load(round.child("checkpoint"))
        logits = reference.logits_of(features.read(pool, "embedding"), head.weight, head.bias)
        expected = reference.pt4al(loss, logits, pool, 8, number + 1, labeled, batches=5)
        picks = round.read_table("picks.parquet")["row"].to_numpy()
        np.testing.assert_array_equal(picks, expected[0])
        labeled = np.append(labeled, picks)
    assert [metrics["labels"] for metrics in result.rounds] == [8, 16, 24]

    # The run keeps to the weights that ordered its pool.
    pinned = out.read_json("pretext.json")
    out.write_json("pretext.json", {"weights": "others"})
    with pytest.raises(RunError, match=r"expected a pretext task with the weights others, as before, got [0-9a-f]+"):
        run(replace(config(tmp_path), {"rounds": 4}), quiet=True)
    out.write_json("pretext.json", pinned)

    # Another strategy on the same pool finds pretext task, losses and embeddings made.
    again = run(replace(config(tmp_path), {"strategy": "k_center", "strategy_options": {}, "rounds": 2}), quiet=True)
    assert root.child("pretext").names() == [name]
    assert len(task.child("losses").names()) == len(root.child("features").names()) == 1
    expected = reference.pt4al(loss, logits, pool, 8, 0, np.empty(0))  # by default of ten batches
    assert Store(again.dir).read_table("seed_set.parquet")["row"].to_pylist() == expected[0].tolist()

    # And one whose seed set is nearest to the centroids.
    changes = {"strategy": "margin", "strategy_options": {}, "split.seed_set_how": "k_means", "rounds": 2}
    third = run(replace(config(tmp_path), changes), quiet=True)
    assert len(Store(third.dir).read_table("seed_set.parquet")) == 8


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pretext.task": "none"}, ConfigError, "pretext.task: strategy pt4al, seed set pretext"),
        ({"rounds": 6}, SelectionError, "pt4al: round 5, but there are 5 batches"),
        ({"model.pretrained": True}, ConfigError, "pretext.as_backbone: expected a model without weights"),
        (
            {"pretext.as_backbone": False, "train.mode": "finetune", "split.seed_set_how": "k_means"},
            ConfigError,
            "k_means reads embeddings before any training",
        ),
        ({"pretext.as_backbone": False}, ConfigError, "linear evaluation needs a pretrained backbone"),
    ],
)
def test_bad_combinations_are_refused_before_training(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    images(tmp_path / "images", 80)
    with pytest.raises(error, match=message):
        run(replace(config(tmp_path), changes), quiet=True)
    assert not (tmp_path / "runs" / "pretext").exists()
