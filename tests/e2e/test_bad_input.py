"""What a user gets wrong is answered with one clear message and exit code 2: no traceback, nothing half-written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

RUN = [
    "--name", "bad", "--data.root", "images", "--model.backbone", "resnet18", "--model.small_stem", "True",
    "--transform.size", "16", "--transform.train", "crop_pad", "--rounds", "2", "--budget", "4", "--train.epochs", "1",
    "--split.seed-set-size", "4", "--resources.address", "local",
]  # fmt: skip


def images(folder: Path, classes: int = 2, each: int = 10) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            for number in range(each):
                path = folder / split / f"class{label}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)


def alray(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alray.cli", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def job(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from alray import RunConfig\nfrom alray.cli import job\njob(RunConfig())\n"
    return subprocess.run(
        [sys.executable, "-c", program, *RUN, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert "ray::" not in said
    for word in words:
        assert word in " ".join(said.split()), said


def broken_jpeg(folder: Path) -> None:
    path = folder / "images/train/class1/3.jpg"
    path.write_bytes(path.read_bytes()[:200])


def tar_with_a_truncated_member(folder: Path) -> None:
    with tarfile.open(folder / "images.tar", "w") as tar:
        for path in sorted((folder / "images/train").rglob("*.jpg")):
            tar.add(path, str(path.relative_to(folder / "images/train")))
    data = (folder / "images.tar").read_bytes()
    (folder / "images.tar").write_bytes(data[: len(data) // 2 + 700])


def label_outside(folder: Path) -> None:
    (folder / "list.csv").write_text("uri,label\nimages/train/class0/1.jpg,0\nimages/train/class0/2.jpg,-7\n")


def empty(folder: Path) -> None:
    (folder / "empty").mkdir()


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (broken_jpeg, ["index", "images"], ["train/class1/3.jpg", "broken image"]),
        (empty, ["index", "empty"], ["empty", "expected images"]),
        (nothing, ["index", "nowhere"], ["nowhere"]),
        (tar_with_a_truncated_member, ["index", "images.tar"], ["images.tar", "truncated"]),
        (label_outside, ["index", "list.csv"], ["images/train/class0/2.jpg", "-7"]),
    ],
    ids=["broken jpeg", "empty folder", "no folder", "truncated tar", "label outside the classes"],
)
def test_bad_sources_are_not_indexed(
    spoil: Callable[[Path], None], arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    images(tmp_path / "images")
    spoil(tmp_path)
    refused(alray(tmp_path, *arguments, "--out", "catalog"), *words)
    assert not (tmp_path / "catalog" / "meta.json").exists()


def test_broken_images_can_be_left_out_and_are_reported(tmp_path: Path) -> None:
    images(tmp_path / "images")
    broken_jpeg(tmp_path)
    done = alray(tmp_path, "index", "images", "--out", "catalog", "--on-problem", "exclude")
    assert done.returncode == 0, done.stderr
    assert "39 images" in done.stdout
    assert "train/class1/3.jpg: broken image" in done.stdout


def other_architecture(folder: Path) -> None:
    import timm

    torch.save(timm.create_model("resnet34").state_dict(), folder / "weights.pth")


def not_a_checkpoint(folder: Path) -> None:
    (folder / "weights.pth").write_bytes(b"hello")


def a_file_where_runs_go(folder: Path) -> None:
    (folder / "file").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (nothing, ["--budget", "50"], ["budget: the pool has 20 images, but the run needs 54"]),
        (nothing, ["--budget", "0"], ["budget"]),
        (nothing, ["--budget", "-3"], ["budget"]),
        (nothing, ["--train.learning-rate", "1"], ["--train.learning-rate: no such option"]),
        (nothing, ["--strategy", "bass"], ["bass", "base"]),
        (nothing, ["--strategy-options", "class_order", "sorted"], ["class_order", "sorted"]),
        (nothing, ["--model.backbone", "resnet19"], ["resnet19"]),
        (nothing, ["--model.options", "{channels"], ["model.options"]),
        (nothing, ["--train.mode", "linear"], ["model.checkpoint"]),
        (other_architecture, ["--model.checkpoint", "weights.pth"], ["weights.pth", "did not load"]),
        (not_a_checkpoint, ["--model.checkpoint", "weights.pth"], ["weights.pth"]),
        (nothing, ["--model.checkpoint", "missing.pth"], ["missing.pth"]),
        (a_file_where_runs_go, ["--root", "file/runs"], ["cannot write", "file/runs"]),
        (nothing, ["--split.val-size", "30"], ["val"]),
        (nothing, ["--resources.address", "127.0.0.1:1"], ["127.0.0.1:1"]),
        (nothing, ["--resources.use-gpu", "yes"], ["0 GPUs"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and str(value[0]).startswith("--") else "",
)
def test_runs_that_cannot_work_do_not_start(
    spoil: Callable[[Path], None], arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    images(tmp_path / "images")
    spoil(tmp_path)
    refused(job(tmp_path, *arguments), *words)
    assert not list(tmp_path.glob("runs/bad-*/round_*"))


def test_a_run_directory_of_another_configuration_is_refused_field_by_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", features=np.eye(20, dtype=np.float32), label=np.arange(20) % 2)
    linear = [
        "--data.root",
        "e.npz",
        "--train.mode",
        "linear",
        "--resources.select-workers",
        "process",
        "--run-dir",
        "mine",
    ]
    assert job(tmp_path, *linear).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    refused(
        job(tmp_path, *linear, "--train.lr", "0.7", "--seed", "3"),
        "train.lr: 0.1 there, 0.7 here",
        "seed: 0 there, 3 here",
    )
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == before


def test_an_image_that_breaks_later_stops_the_run_with_its_key(tmp_path: Path) -> None:
    """Indexed while whole, broken since without a trace in its size and time: found in training, by the worker that
    reads it."""
    images(tmp_path / "images")
    assert alray(tmp_path, "index", "images", "--out", "catalog").returncode == 0
    for path in (tmp_path / "images/train").rglob("*.jpg"):
        buffer, before = io.BytesIO(path.read_bytes()[:150]), path.stat()
        path.write_bytes(buffer.getvalue().ljust(before.st_size, b"\0"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused(job(tmp_path, "--data.catalog", "catalog"), "train/class", ".jpg", "broken image")
