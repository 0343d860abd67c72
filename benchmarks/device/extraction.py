"""Section d: embeddings from JPEG files by alray's extraction (Ray Data) and by a DataLoader with the same model.

Both decode, resize and crop on all processors and run the same ResNet in float32 on one device. A few images come
first, so that files are cached and Ray is warm. The rate after the first finished part leaves out the start.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import jpegs
from machine import device_name
from PIL import Image
from section import Section
from torch.utils.data import DataLoader, Dataset

from alray import cluster
from alray.config import FeatureConfig, ModelConfig, ResourceConfig, TransformConfig
from alray.data.augment import Transform
from alray.data.catalog import index
from alray.features.extract import Measurers, extract
from alray.features.measures import Extraction, Features, ModelSource
from alray.models.device import best_device
from alray.store import Store


@dataclass(frozen=True)
class Size:
    """Images, side of the files and of what the model sees, backbone, images of the first try."""

    images: int
    file: int
    side: int
    backbone: str
    first: int


FULL, TINY = Size(30_000, 400, 224, "resnet50", 1_024), Size(96, 40, 32, "test_resnet", 32)


def run(section: Section) -> None:
    """Write the files, warm both up, then each in turn."""
    size, device = (TINY if section.tiny else FULL), best_device()
    cpus = 2 if section.tiny else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        paths = jpegs(Path(folder) / "images", size.images, size.file)
        catalog = index(f"{folder}/images", f"{folder}/catalog", check="none")
        start = time.monotonic()
        cluster.start(ResourceConfig(address="local", num_cpus=cpus, use_gpu="yes" if device.type == "cuda" else "no"))
        section.more["ray_start_seconds"] = time.monotonic() - start
        transform = TransformConfig(size=size.side, train="eval", resize=round(size.side * 256 / 224))
        source = ModelSource(ModelConfig(backbone=size.backbone), 10, 0, "", "fresh", size.side)
        measure = Features(source, transform, FeatureConfig(dtype="float16", batch_size=128), with_logits=False)
        plan = Extraction(catalog, np.arange(size.images), measure)
        use_gpu = device.type == "cuda"
        first = replace(plan, rows=plan.rows[: size.first])
        tries = _ours(first, f"{folder}/first", use_gpu)[0], _loader(paths[: size.first], measure, device, cpus)[0]
        images = size.images if section.tiny else max(size.first, _fitting(tries, size.images, 0.8 * section.left))
        if images < size.images:
            section.note(f"Cut from {size.images:,} to {images:,} images: there was no time for all.")
        plan = replace(plan, rows=plan.rows[:images])
        ours, table = _ours(plan, f"{folder}/features", use_gpu)
        theirs, expected = _loader(paths[:images], measure, device, cpus)
        _record(section, images, device, {"alray on Ray Data": ours, "DataLoader": theirs})
        _compare(
            section, plan.rows, catalog.keys(plan.rows).to_pylist(), Path(folder) / "images", paths, table, expected
        )


def _ours(plan: Extraction, out: str, use_gpu: bool) -> tuple[list[tuple[float, int]], Any]:
    """(seconds, rows so far) from the call to each finished part and to the end, and the features."""
    start, done = time.perf_counter(), [(0.0, 0)]
    table = extract(
        plan, Store(out), measurers=Measurers(1, use_gpu), decode_cpus=1,
        advance=lambda rows, note: done.append((time.perf_counter() - start, done[-1][1] + rows)) if rows else None,
    )  # fmt: skip
    return [*done, (time.perf_counter() - start, done[-1][1])], table


def _fitting(tries: Iterable[list[tuple[float, int]]], images: int, seconds: float) -> int:
    """How many of the images fit: the starts cost what they cost in the tries, each image what those after the first
    part did."""
    starts = each = 0.0
    for done in tries:
        (first, before), (last, after) = done[1], done[-2]
        starts += first
        each += (last - first) / (after - before) if after > before else first / before
    return min(images, int((seconds - starts) / max(each, 1e-9)))


class Files(Dataset):
    """What anybody would write: open, decode, transform."""

    def __init__(self, paths: list[Path], transform: Transform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i]) as image:
            return torch.from_numpy(np.array(self.transform(image.convert("RGB"), i, 0)))


def _loader(
    paths: list[Path], measure: Features, device: torch.device, cpus: int
) -> tuple[list[tuple[float, int]], np.ndarray]:
    start, done = time.perf_counter(), [(0.0, 0)]
    model = measure.model.load().to(device)
    loader = DataLoader(
        Files(paths, measure.transform), batch_size=128, num_workers=cpus, pin_memory=device.type == "cuda"
    )
    found = []
    with torch.no_grad():
        for batch in loader:
            found.append(model(batch.to(device, non_blocking=True))[0].half().cpu().numpy())
            done.append((time.perf_counter() - start, done[-1][1] + len(batch)))
    return [*done, (time.perf_counter() - start, done[-1][1])], np.concatenate(found)


def _record(section: Section, images: int, device: torch.device, ways: dict[str, list[tuple[float, int]]]) -> None:
    for way, done in ways.items():
        (first, before), (last, after) = done[1], done[-2]
        section.add(
            "Extraction",
            way=way,
            ran_on=device_name(device),
            images=images,
            seconds=done[-1][0],
            images_per_second=images / done[-1][0],
            seconds_to_first_part=first,
            images_per_second_afterwards=(after - before) / (last - first) if last > first else None,
        )


def _compare(
    section: Section, rows: np.ndarray, keys: list[str], root: Path, paths: list[Path], table: Any, expected: np.ndarray
) -> None:
    """The same embeddings, up to rounding, of the same files."""
    at = {path: number for number, path in enumerate(paths)}
    there = np.array([at[root / key] for key in keys])
    found, both = table.read(rows, "embedding").astype(np.float32), there < len(expected)
    apart = np.abs(found[both] - expected[there[both]].astype(np.float32)).max()
    largest = float(np.abs(expected.astype(np.float32)).max())
    section.add("Embeddings", compared=int(both.sum()), largest=largest, largest_difference=float(apart))
    if not apart <= 0.02 * largest:
        section.failures.append(f"embeddings differ from the DataLoader's by {apart}, their largest is {largest}")
