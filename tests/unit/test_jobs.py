"""Every command that a job file's first lines or README.md show: parsed and prepared, on tiny generated data."""

from __future__ import annotations

import ast
import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_config import JOBS, load_job

from alray import RunConfig, replace
from alray.cli import options
from alray.config.command_line import sweep_options
from alray.data.catalog import index
from alray.models.backbone import create
from alray.prepare import Checked, prepare
from alray.sweep import parse_space, plan

ELSEWHERE = {"data/imagenet", "s3://bucket/imagenet", "data/cifar10", "/data/cifar10", ""}
SMALL = {"rounds": 3, "budget": 6, "split.seed_set_size": 6, "split.val_size": 0, "train.patience": 0, "top_k": ()}


def commands() -> list[str]:
    texts = [ast.get_docstring(ast.parse(path.read_text())) or "" for path in sorted(JOBS.glob("*.py"))]
    texts.append((JOBS.parent / "README.md").read_text().replace(" --help", ""))
    return re.findall(r"^ *(python jobs/.*?)(?: \.\.\.)?(?: +#.*)?$", "\n".join(texts), flags=re.MULTILINE)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def images(folder: Path) -> None:
    for number in range(140):
        split, label = "val" if number % 7 == 0 else "train", number % 2
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3))
        write(folder / split / f"class{label}" / f"{number:03d}.png", png(pixels))


def photos(folder: Path) -> None:
    """Images that nobody labeled."""
    for number in range(60):
        write(folder / f"{number:03d}.png", png(np.random.default_rng(number).integers(0, 255, (8, 8, 3))))


def scenes(folder: Path) -> None:
    """CamVid's two layouts and that of Cityscapes, as its job file names them."""
    rows: list[dict[str, Any]] = []
    for number in range(40):
        rng, split = np.random.default_rng(number), "val" if number % 4 == 0 else "train"
        image, mask = png(rng.integers(0, 255, (8, 8, 3))), png(rng.integers(0, 11, (8, 8)))
        name = f"{split}/town/{number:03d}"
        rows.append({"frame": f"{number:03d}", "image": image, "mask": mask})
        write(folder / f"camvid/images/{name}.png", image)
        write(folder / f"camvid/masks/{name}.png", mask)
        write(folder / f"leftImg8bit/{name}_leftImg8bit.png", image)
        write(folder / f"gtFine/{name}_gtFine_labelTrainIds.png", mask)
    for split, part in (("train", rows[:30]), ("test", rows[30:])):
        pq.write_table(pa.Table.from_pylist(part), folder / "camvid" / f"{split}.parquet")


def embeddings(path: Path) -> None:
    rng, rows = np.random.default_rng(0), np.arange(900)
    features = rng.normal(size=(900, 3)).astype(np.float32)
    np.savez(path, features=features, label=rows % 3, is_test=rows % 9 == 0, pretext_loss=rng.random(900))


def tiny(config: RunConfig) -> RunConfig:
    """As much of it as forty images are enough for; networks of the same kind that are built at once."""
    if config.data.root == "features.npz":
        return config
    changes: dict[str, Any] = dict(SMALL)
    if config.data.root in ELSEWHERE:
        changes["data.root"] = "images"
    if config.model.backbone.startswith("resnet"):
        changes |= {"model.backbone": "resnet18", "model.options": {"channels": [16, 16, 16, 16]}}
    found = replace(config, changes)
    if found.model.checkpoint:
        weights = create(found.model.model_copy(update={"checkpoint": ""}), 2, 0).backbone.state_dict()
        torch.save(weights, found.model.checkpoint)
    return found


def prepared(command: str) -> tuple[Checked, ...]:
    _, program, *argv = shlex.split(command)
    job = load_job(Path(program).stem)
    if job.__name__ == "sweep":
        config, fields, _ = sweep_options(job.PRESETS, job.FIELDS, argv)
        return plan(tiny(config), parse_space(fields)).settings
    return (prepare(tiny(options(getattr(job, "PRESETS", None) or job.CONFIG, argv))),)


def test_every_job_shows_a_command() -> None:
    shown = {shlex.split(command)[1] for command in commands()}
    assert shown == {f"jobs/{path.name}" for path in JOBS.glob("*.py")}


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_commands_that_are_shown_can_be_given(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(JOBS)
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "images")
    photos(tmp_path / "photos")
    scenes(tmp_path)
    embeddings(tmp_path / "features.npz")
    if "catalogs/imagenet" in command:
        index("images", "catalogs/imagenet")  # as the line above it in README.md does
    assert len(prepared(command)) >= 1
