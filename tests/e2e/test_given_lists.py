"""A CSV in which 20 of 60 images have a label, and a list for validation: from there to a model, by commands alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
VALIDATION = (0, 1, 2, 30, 31, 32)
COLOURS = {"blue": 2, "green": 1, "red": 0}
SMALL = [
    "--model.backbone", "resnet10t", "--model.checkpoint", "weights.pt", "--transform.size", "32",
    "--transform.resize", "0", "--rounds", "3", "--budget", "6", "--train.epochs", "20",
    "--resources.select-workers", "process",
]  # fmt: skip


def name_of(number: int) -> str:
    return f"images/{number:02d}.png"


def truth(key: str) -> str:
    return list(COLOURS)[int(Path(key).stem) % 3]


def data(place: Path) -> None:
    """Images of three colours, photos.csv with the labels of the first 20, and val.txt with six, of which three have
    no label."""
    (place / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        pixels[..., COLOURS[truth(name_of(number))]] += 150
        Image.fromarray(pixels).save(place / name_of(number))
    lines = [f"{name_of(number)},{truth(name_of(number)) if number < 20 else ''}\n" for number in range(60)]
    (place / "photos.csv").write_text("path,label\n" + "".join(lines))
    (place / "val.txt").write_text("".join(f"{name_of(number)}\n" for number in VALIDATION))
    torch.save(timm.create_model("resnet10t").state_dict(), place / "weights.pt")


def do(place: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{command}\n{done.stdout[-5000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_csv_with_some_labels_and_a_validation_list_becomes_a_model_and_a_labeled_set(tmp_path: Path) -> None:
    data(tmp_path)
    job = (str(ROOT / "jobs/people.py"), "--data.root", "photos.csv", "--split.val-list", "val.txt", *SMALL)
    asked: list[list[str]] = []
    while True:
        said = do(tmp_path, *job, code=75 if len(asked) < 3 else 0)
        if len(asked) == 3:
            break
        (run,) = (tmp_path / "runs").glob("people-*")
        (batch,) = set(run.glob("batches/*/batch.csv")) - {Path(one[0]) for one in asked}
        rows = list(csv.DictReader(batch.open()))
        assert "answers are there" in said and f"alray label {run}" in said
        wrong = rows[0]["key"]
        other = next(name for name in COLOURS if name != truth(wrong))
        answers = [f"{row['key']},{other if row['key'] == wrong else truth(row['key'])}\n" for row in rows]
        half = len(rows) // 2 + 1
        (tmp_path / "a.csv").write_text("key,label\n" + "".join(answers[:half]))
        (tmp_path / "b.csv").write_text("key,label\n" + "".join(answers[half:]))
        do(tmp_path, "-m", "alray.cli", "label", str(run), "a.csv")
        assert "waiting for labels" in do(tmp_path, "-m", "alray.cli", "status", str(run))
        (tmp_path / "fix.csv").write_text(f"key,label\n{wrong},{truth(wrong)}\n")
        do(tmp_path, "-m", "alray.cli", "label", str(run), "fix.csv", "--correct")
        assert "the batch is complete" in do(tmp_path, "-m", "alray.cli", "label", str(run), "b.csv")
        asked.append([str(batch), *(row["key"] for row in rows)])
    assert asked[0][1:] == [name_of(number) for number in VALIDATION[3:]], "what has no label is asked for first"
    bought = [key for batch in asked[1:] for key in batch[1:]]
    assert len(set(bought)) == 12 and not set(bought) & {name_of(number) for number in VALIDATION}
    status = do(tmp_path, "-m", "alray.cli", "status", str(run))
    assert "validation: 6 labels, counted apart" in status and "29 labels" in status
    do(tmp_path, "-m", "alray.cli", "report", str(run), "--out", "report")
    do(tmp_path, "-m", "alray.cli", "export", str(run), "--out", "model", "--format", "timm")
    exported = csv.DictReader((tmp_path / "model/labels.csv").open())
    labels = {row["key"]: (row["label"], row["origin"]) for row in exported}
    assert {key: label for key, (label, _) in labels.items()} == {key: truth(key) for key in labels}
    origins = [origin for _, origin in labels.values()]
    assert [origins.count(one) for one in ("validation", "seed set", "round 0", "round 1")] == [6, 17, 6, 6]
    assert (tmp_path / "model/model.safetensors").exists()
