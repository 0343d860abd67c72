"""People draw masks, from a flat folder on: cold start, two rounds with corrections, and an export, by commands."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alray import RunConfig
from alray.cli import main
from alray.rundir import PLAN, RunDir

ROOT = Path(__file__).parents[2]
SIZE = 32
TEST = ("28.png", "29.png")


def mask_of(key: str) -> np.ndarray:
    number = int(Path(key).stem)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[2 + number % 7 : 18, 4 + number % 5 : 20] = 1 + number % 2
    return mask


def data(place: Path) -> None:
    (place / "photos").mkdir()
    for number in range(30):
        key = f"{number:02d}.png"
        image = np.random.default_rng(number).integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
        image[mask_of(key) > 0, number % 2] = 230
        Image.fromarray(image).save(place / "photos" / key)
    (place / "test.txt").write_text("\n".join(TEST))
    config = RunConfig(
        name="masks", task="segmentation", rounds=3, budget=5, strategy="entropy", top_k=(),
        data={"root": "photos", "classes": ("ground", "red", "green")},
        split={"seed_set_how": "given", "cold_start": "random", "seed_set_size": 6, "test_list": "test.txt"},
        labels={"oracle": "files", "wait": "exit"}, transform={"size": SIZE, "resize": 0},
        model={"backbone": "test_resnet"},
        train={"epochs": 3, "batch_size": 4, "optimizer": "adamw", "lr": 3e-3},
        resources={"select_workers": "process"},
    )  # type: ignore[arg-type]  # fmt: skip
    (place / "job.json").write_text(config.to_json())


def run_job(place: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alray.cli", "run", "job.json"], cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-5000:]
    return done.stdout


def draw(folder: Path, masks: dict[str, np.ndarray]) -> str:
    folder.mkdir()
    for key, mask in masks.items():
        Image.fromarray(mask).save(folder / key)
    return str(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_flat_folder_becomes_a_segmentation_model_and_a_set_of_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def alray(*command: str) -> str:
        main(list(command))
        return capsys.readouterr().out

    data(tmp_path)
    asked: dict[str, list[str]] = {}
    for number in range(3):
        assert "draw a mask of each image" in run_job(tmp_path, code=75)
        (run,) = (tmp_path / "runs").glob("masks-*")
        (batch,) = (path for path in run.glob("batches/*/batch.csv") if path.parent.name not in asked)
        keys = [row["key"] for row in csv.DictReader(batch.open())]
        asked[batch.parent.name] = keys
        wrong = draw(tmp_path / f"wrong{number}", {keys[0]: mask_of(keys[0])[:, :9]})
        with pytest.raises(SystemExit) as refused:
            main(["label", str(run), wrong])
        assert refused.value.code == 2
        assert "expected the image's 32 x 32 pixels, got 9 x 32" in capsys.readouterr().err
        slip = {key: mask_of(key) if key != keys[1] else 2 - mask_of(key) // 2 for key in keys[:3]}
        alray("label", str(run), draw(tmp_path / f"a{number}", slip))
        assert "waiting for labels" in alray("status", str(run))
        corrected = draw(tmp_path / f"b{number}", {keys[1]: mask_of(keys[1])})
        alray("label", str(run), corrected, "--correct")
        rest = draw(tmp_path / f"c{number}", {key: mask_of(key) for key in keys[3:]})
        assert "the batch is complete" in alray("label", str(run), rest)
    run_job(tmp_path)
    assert sum((RunDir(str(run)).noted(PLAN) or {})["seconds"]["train"]) > 0, "measured on the first masks"
    assert sorted(asked["start"][-2:]) == list(TEST)
    given = [key for keys in asked.values() for key in keys]
    assert len(given) == len(set(given)) == 6 + 2 + 5 + 5
    metrics = [json.loads((run / f"round_{number:02d}/metrics.json").read_text()) for number in range(3)]
    assert [one["labels"] for one in metrics] == [6, 11, 16]
    assert [one["labels_bought"] for one in metrics] == [0, 5, 10]
    for one, keys in zip(metrics, ([], asked["round_0"], asked["round_0"] + asked["round_1"]), strict=True):
        labeled = [key for key in asked["start"] if key not in TEST] + keys
        counts = np.sum([np.bincount(mask_of(key).ravel(), minlength=3) for key in labeled], axis=0)
        assert one["labeled_set"]["counts"] == counts.tolist(), "of pixels of the masks as they were corrected"
        assert one["test"]["num_images"] == 2
    assert "test: 2 labels that people gave" in alray("status", str(run))
    alray("report", str(run), "--out", f"{tmp_path}/report")
    alray("export", str(run), "--out", f"{tmp_path}/out", "--format", "none")
    exported = list(csv.DictReader((tmp_path / "out/labels.csv").open()))
    assert sorted(row["key"] for row in exported) == sorted(given)
    for row in exported:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["label"])), mask_of(row["key"]))
    assert "all as alray wrote them" in alray("verify", str(run))
