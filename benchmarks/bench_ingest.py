"""Reading images: the Ray Data path against a plain PyTorch DataLoader with as many processes, on the same real JPEGs.

    python benchmarks/bench_ingest.py --data ../shared/data --processes 2

Both fetch, decode, RandomResizedCrop 224 + flip and hand batches of 8-bit pixels to this process. They take turns in
one run after one warm-up each; the ratio is the median over the turns. Processor seconds are those of all processes.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from results import record
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from alray import cluster
from alray.config import ResourceConfig, TransformConfig
from alray.data.augment import train_transform
from alray.data.catalog import Catalog, index
from alray.data.fetch import block_rows
from alray.data.images import image_dataset

SIZE = 224


def write_jpegs(source: Path, folder: Path, images: int) -> None:
    data = pq.read_table(source, columns=["image"])["image"].to_pylist()
    folder.mkdir()
    for i in range(images):
        (folder / f"{i:06d}.jpg").write_bytes(data[i % len(data)])


class Jpegs(Dataset):
    """What anybody would write: open, decode, transform."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with open(self.paths[i], "rb") as file:
            image: torch.Tensor = self.transform(Image.open(io.BytesIO(file.read())).convert("RGB"))
        return image


def ray_data(catalog: Catalog, block: int) -> int:
    rows = np.arange(len(catalog))
    blocks = [pa.table({"row": rows[start : start + block]}) for start in range(0, len(rows), block)]
    images = image_dataset(catalog, rows, blocks, train_transform(TransformConfig(size=SIZE), 0))
    batches = images.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
    return sum(len(batch["image"]) for batch in batches)


def processor_seconds() -> float:
    """Of this process and all its living descendants (Ray's are among them), from /proc."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = int(fields[11]) + int(fields[12])
    mine = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        if not more:
            return sum(used[pid] for pid in mine) / os.sysconf("SC_CLK_TCK")
        mine |= more


def turns(paths: dict[str, Callable[[], int]], repeats: int, images: int) -> Iterator[dict[str, Any]]:
    for work in paths.values():  # processes start, code is imported
        work()
    for turn in range(repeats):
        for name in sorted(paths, reverse=bool(turn % 2)):
            start, used = time.perf_counter(), processor_seconds()
            assert paths[name]() == images
            wall, cpu = time.perf_counter() - start, processor_seconds() - used
            print(f"{turn} {name:12} {images / wall:7.1f} images/s, {1000 * cpu / images:.2f} ms of a processor each")
            yield {"turn": turn, "path": name, "images_per_s": images / wall, "cpu_ms_per_image": 1000 * cpu / images}


def summary(points: list[dict[str, Any]]) -> dict[str, float]:
    def of(path: str, column: str) -> list[float]:
        return [point[column] for point in points if point["path"] == path]

    found = {}
    for column in ("images_per_s", "cpu_ms_per_image"):
        ours, theirs = of("ray_data", column), of("dataloader", column)
        found[f"ratio_{column}"] = median(a / b for a, b in zip(ours, theirs, strict=True))
        found[f"ray_data_{column}"], found[f"dataloader_{column}"] = median(ours), median(theirs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--block", type=int, default=block_rows(SIZE), help="rows of a Ray Data block")
    args = parser.parse_args()
    source = args.data / "imagenet_samples/imagenet1k_every_4th_class_256px.parquet"
    if not source.is_file():
        print(f"skipped: no images in {source}")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(source, Path(folder) / "images", args.images)
        catalog = index(f"{folder}/images", f"{folder}/catalog", check="none")
        files = Jpegs(catalog.references(np.arange(len(catalog)))["uri"].to_pylist())
        loader = DataLoader(files, batch_size=64, num_workers=args.processes, persistent_workers=True)
        cluster.start(ResourceConfig(address="local", num_cpus=args.processes))
        paths: dict[str, Callable[[], int]] = {
            "dataloader": lambda: sum(len(batch) for batch in loader),
            "ray_data": lambda: ray_data(catalog, args.block),
        }
        points = list(turns(paths, args.repeats, args.images))
    result = {"processes": args.processes, "images": args.images, "block": args.block, **summary(points)}
    print(
        f"Ray Data / DataLoader: {result['ratio_images_per_s']:.3f}x the images/s, "
        f"{result['ratio_cpu_ms_per_image']:.3f}x the processor seconds"
    )
    record("ingest", {**result, "turns": points})


if __name__ == "__main__":
    main()
