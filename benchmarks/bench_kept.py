"""Small images decoded once and kept between epochs: CPU seconds of reading a training's images, with and without.

    python benchmarks/bench_kept.py --images 4000 --epochs 10

PNG files of 32 x 32 pixels and JPEG files of 64 x 64 are read as a training worker reads them: by Ray Data tasks that
decode, crop and flip. Nothing is trained. CPU seconds are those of all of Ray's processes and of this one, from the
first block to the last; the pixels of both ways are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image
from results import record

from alray import demand
from alray.config import RunConfig
from alray.data.catalog import Catalog, index
from alray.reservation import Share, reserve
from alray.store import Store
from alray.train.objective import Place
from alray.train.reserved import Decoding
from alray.train.supervised import SupervisedRecipe, supervised_recipe
from alray.train.targets import ClassTargets
from alray.train.worker import RayImages

KINDS = {"png32": (32, "png", "crop_pad"), "jpeg64": (64, "jpeg", "random_resized_crop")}


def write(place: Path, images: int, size: int, suffix: str) -> Catalog:
    rng = np.random.default_rng(0)
    (place / "images").mkdir(parents=True)
    for number in range(images):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((size, size)).save(place / "images" / f"{number:06d}.{suffix}")
    return index(str(place / "images"), str(place / "catalog"), check="none", yes=True)


def recipe_of(images: int, epochs: int, size: int, train: str, out: Path) -> SupervisedRecipe:
    config = RunConfig(
        transform={"size": size, "train": train, "resize": 0}, model={"backbone": "test_resnet"},
        train={"epochs": epochs, "batch_size": 128},
    )  # fmt: skip
    labeled, nothing = (np.arange(images), np.arange(images) % 10), (np.zeros(0, np.int64), np.zeros(0, np.int64))
    return supervised_recipe(
        config, ClassTargets(10), labeled=labeled, held_out=nothing, round=1, seed=0, start=None, out=Store(str(out))
    )


def cpu_seconds() -> dict[int, float]:
    """Of this process and of each that it started, by its number."""
    parents, used = dict[int, int](), dict[int, int]()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(place.name)] = int(fields[1])
        used[int(place.name)] = sum(map(int, fields[11:13]))
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {pid: used[pid] / os.sysconf("SC_CLK_TCK") for pid in mine}


def read(recipe: SupervisedRecipe, catalog: Catalog, kept_bytes: int) -> tuple[float, str]:
    """CPU seconds, and a hash of all pixels."""
    found = hashlib.blake2b(digest_size=8)
    with reserve(Share("all"), "train", demand.training(recipe.config.resources, use_gpu=False)) as held:
        before = cpu_seconds()
        after = dict(before)
        for block in RayImages(recipe, Place(), catalog, Decoding(held, 1, kept_bytes)).training(
            recipe.plan(Place()), 0
        ):
            found.update(np.ascontiguousarray(block["image"]))
            after |= cpu_seconds()  # Ray ends idle processes: what they used is kept
        after |= cpu_seconds()
        return sum(after.values()) - sum(before.values()), found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    result: dict[str, Any] = {"images": args.images, "epochs": args.epochs}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        for kind, (size, suffix, train) in KINDS.items():
            place = Path(folder, kind)
            catalog = write(place, args.images, size, suffix)
            recipe = recipe_of(args.images, args.epochs, size, train, place / "out")
            read(recipe, catalog, 0)  # starts Ray's processes, which import what they need
            found: dict[str, list[float]] = {"read in every epoch": [], "kept": []}
            digests = set()
            for _ in range(2):
                for name, kept_bytes in zip(found, (0, 1 << 28), strict=True):
                    seconds, digest = read(recipe, catalog, kept_bytes)
                    found[name].append(round(seconds, 2))
                    digests.add(digest)
            assert len(digests) == 1, "the pixels differ"
            result[kind] = {**found, "ratio": round(min(found["read in every epoch"]) / min(found["kept"]), 2)}
            print(kind, result[kind])
    ray.shutdown()
    record("kept", result)


if __name__ == "__main__":
    main()
