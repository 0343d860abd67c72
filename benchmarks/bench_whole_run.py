"""ImageNet's number of small images in tar files: from `alray index` to the end of round 3, with BASE and k-center.

    python benchmarks/bench_whole_run.py [DATA] [IMAGES]   # DATA: a folder with cifar10/ (../shared/data); 1281167

1,281,167 training and 50,000 test images of 32 x 32 pixels in 1,000 classes are made of CIFAR-10's: shifted, mirrored
and brightened, no two alike. The class is the original's number modulo 1,000. A small residual network with fresh
weights embeds them once. What is recorded: the CPU seconds of every stage, of all processes; the largest memory of each
kind of process; and beside them, in the same run, a bare PyTorch DataLoader that reads the same tars for the same
network, and the plain loop of k-center in float32, both on a part of the work. About 30 minutes on two idle cores; 5 GB
of disk.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray._private.services  # noqa: F401  imports psutil, which Ray brings
import simplejpeg
import torch
from bench_plan import Account, counted
from PIL import Image
from results import record
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from alray import RunConfig, replace
from alray.config import (
    DataConfig,
    FeatureConfig,
    ModelConfig,
    ResourceConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
)
from alray.data.catalog import index
from alray.every import every
from alray.features.arrays import EMBEDDING
from alray.features.table import FeatureTable
from alray.models.backbone import create
from alray.rounds import run
from alray.rundir import RunDir

IMAGES, TESTED, CLASSES, SIZE, IN_TAR = 1_281_167, 50_000, 1000, 32, 10_000
NETWORK = ModelConfig(backbone="resnet18", options={"channels": [32, 64, 128, 256]})
BESIDE, CENTERS = 40_000, 20  # images of the DataLoader; centers of the plain loop
BATCH = 256


def originals(data: Path) -> np.ndarray:
    """The training images of CIFAR-10, (50000, 32, 32, 3) uint8."""
    parts = sorted((data / "cifar10").glob("*train*.parquet"))
    images = [image for part in parts for image in pq.read_table(part)["image"].to_pylist()]
    return np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])


def changed(pixels: np.ndarray, number: int) -> np.ndarray:
    """An image of its own for every number: shifted by up to 7 pixels, mirrored, brighter or darker."""
    turn = number // len(pixels)
    image = np.roll(pixels[number % len(pixels)], (turn % 8, turn // 8 % 8), (0, 1))
    image = image[:, ::-1] if turn % 2 else image
    return np.ascontiguousarray(np.clip(image.astype(np.int16) + (number % 41 - 20), 0, 255).astype(np.uint8))


def write(folder: Path, pixels: np.ndarray, first: int, count: int) -> None:
    """Tar files of `count` samples from this number on, each an image and its class."""
    folder.mkdir(parents=True)
    for start in range(0, count, IN_TAR):
        with tarfile.open(folder / f"{start // IN_TAR:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first + start, first + min(start + IN_TAR, count)):
                image = simplejpeg.encode_jpeg(changed(pixels, number), 90)
                for ending, data in (("jpg", image), ("cls", b"%d" % (number % len(pixels) % CLASSES))):
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def look(largest: dict[str, int]) -> None:
    """Keep the largest memory of each kind of process at or below this one, in bytes: what a process has for itself,
    without the pages that it shares with others."""
    psutil = sys.modules["psutil"]  # Ray brings it
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_info()
            name = "driver" if process == me else (process.cmdline() or [process.name()])[0].rpartition("/")[2]
            largest[name] = max(largest[name], memory.rss - memory.shared)


@contextmanager
def timed(account: Account, found: dict[str, Any], name: str) -> Iterator[None]:
    """Record CPU seconds and seconds under a name."""
    cpu, began = account.seconds, time.monotonic()
    yield
    found[name] = {"cpu_seconds": round(account.seconds - cpu, 1), "seconds": round(time.monotonic() - began, 1)}
    print(name, found[name], flush=True)


class Tars(IterableDataset):  # type: ignore[type-arg]
    """What a bare loop over tars does: read a member, decode it, make a tensor of its pixels."""

    def __init__(self, folder: Path, most: int) -> None:
        self.tars, self.most = sorted(folder.glob("*.tar")), most

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        share, at = (worker.num_workers, worker.id) if worker else (1, 0)
        left = self.most // share
        for path in self.tars[at::share]:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".jpg") and left:
                        data = tar.extractfile(member)
                        assert data is not None
                        image = Image.open(io.BytesIO(data.read())).convert("RGB")
                        yield torch.from_numpy(np.asarray(image).copy())
                        left -= 1


def bare_loader(folder: Path, most: int) -> int:
    """Embed so many images by a DataLoader with two processes; returns how many."""
    model = create(NETWORK, 0, 0, SIZE).eval()
    done = 0
    with torch.inference_mode():
        for batch in DataLoader(Tars(folder, most), batch_size=BATCH, num_workers=2):
            model(batch)  # it normalises
            done += len(batch)
    return done


def plain_loop(x: np.ndarray, centers: int) -> None:
    """k-center as ten lines of NumPy: one center a step, distances in float32."""
    squares, best = np.einsum("nd,nd->n", x, x), np.full(len(x), np.inf, np.float32)
    for _ in range(centers):
        at = int(np.argmax(best))
        np.minimum(best, squares - 2 * (x @ x[at]) + squares[at], out=best)


def config(folder: Path, images: int) -> RunConfig:
    """BASE's linear evaluation in small."""
    weights = folder / "weights.pt"
    torch.save(create(NETWORK, 0, 0, SIZE).state_dict(), weights)
    part = images / IMAGES
    return RunConfig(
        name="base", root=str(folder / "runs"), rounds=4, budget=max(10, round(10_000 * part)), strategy="base",
        data=DataConfig(catalog=str(folder / "catalog")),
        split=SplitConfig(val_size=round(12_000 * part), seed_set_size=max(2000, round(30_000 * part))),
        transform=TransformConfig(size=SIZE, resize=0, flip=False),
        model=replace(NETWORK, {"checkpoint": str(weights)}),
        train=TrainConfig(mode="linear", epochs=20, batch_size=128, lr=1.0, schedule="step", step_size=10),
        features=FeatureConfig(dtype="float16", batch_size=BATCH),
        resources=ResourceConfig(extract_actors=2, select_shards=2),
    )  # fmt: skip


def main(data: Path, images: int) -> None:
    account, found, largest = Account(), dict[str, Any](), defaultdict[str, int](int)
    tested = round(TESTED * images / IMAGES)
    with tempfile.TemporaryDirectory() as place, every(1.0, partial(look, largest), "memory"):
        folder = Path(place)
        with timed(account, found, "generate"):
            pixels = originals(data)
            write(folder / "images/train", pixels, 0, images)
            write(folder / "images/val", pixels, images, tested)
        del pixels
        with timed(account, found, "index"):
            catalog = index(str(folder / "images"), str(folder / "catalog"))
        assert len(catalog) == images + tested
        stages = counted(account)
        for strategy in ("base", "k_center"):
            stages.clear()
            with timed(account, found, f"run with {strategy}"):
                chosen = replace(config(folder, images), {"name": strategy, "strategy": strategy})
                done = run(chosen)
            print(stages, flush=True)
            found[f"run with {strategy}"] |= {
                "cpu_seconds_by_round": [{k: round(v, 1) for k, v in one.items()} for one in stages],
                "seconds_by_round": [one["seconds"] for one in done.rounds],
                "top1": [one.get("top1") for one in done.rounds],
            }
        memory = dict(largest)
        with timed(account, found, "bare DataLoader"):
            found_images = bare_loader(folder / "images/train", min(BESIDE, images))
        table: FeatureTable = RunDir(done.dir).round(0).selected_by()
        vectors = np.asarray(table.read(table.rows[: min(len(table.rows), 200_000)], EMBEDDING), np.float32)
        with timed(account, found, "plain loop"):
            plain_loop(vectors, CENTERS)
    record("whole_run", {
        "images": images, "tested": tested, "classes": CLASSES, "width": int(vectors.shape[1]), "stages": found,
        "dataloader_images": found_images, "plain_loop": {"rows": len(vectors), "centers": CENTERS},
        "peak_bytes": {name: size for name, size in sorted(memory.items()) if size > 1 << 26},
        "cores": os.cpu_count(),
    })  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"), int((sys.argv[2:3] or [IMAGES])[0]))
