"""Real CIFAR-10 through the whole data path: index Parquet, repack as tars and as a folder, compare, embed 50,000
images.

    python benchmarks/bench_real_cifar10.py --data ../shared/data

The backbone is MobileNetV2 (ImageNet, int8 weights dequantised) at 96 pixels, so that its embeddings can be compared
with those that another program computed from the same images: see `agreement` in the result.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import mobilenet
import numpy as np
import torch
from results import record
from tqdm import tqdm

from alray import cluster
from alray.config import FeatureConfig, ModelConfig, ResourceConfig, TransformConfig
from alray.data.catalog import Catalog, index
from alray.data.fetch import fetch
from alray.data.repack import repack
from alray.features.extract import Measurers, extract
from alray.features.measures import Extraction, Features, ModelSource
from alray.store import Store

KEY = "{split}/{class}/{filename}"


def contents(catalog: Catalog, rows: np.ndarray) -> list[bytes]:
    return fetch(catalog.references(rows), catalog.source, catalog.image_column)


def three_catalogs(data: Path, folder: Path) -> tuple[Catalog, dict[str, Any]]:
    source, test = str(data / "cifar10/*train*.parquet"), str(data / "cifar10/*test*.parquet")
    parquet = index(source, str(folder / "parquet"), test_root=test, key=KEY)
    found: dict[str, Any] = {"images": len(parquet), "classes": len(parquet.classes)}
    for kind in ("webdataset", "folder"):
        repack(parquet, str(folder / kind), kind)
        other = index(str(folder / kind), str(folder / f"{kind}-catalog"), format=kind)
        same = {
            "keys": other.keys().equals(parquet.keys()),
            "labels": bool(np.array_equal(other.labels(), parquet.labels())),
            "splits": bool(np.array_equal(other.is_test(), parquet.is_test())),
            "fingerprint": other.fingerprint == parquet.fingerprint,
        }
        differing = 0
        for start in range(0, len(parquet), 5000):
            rows = np.arange(start, min(start + 5000, len(parquet)))
            differing += sum(a != b for a, b in zip(contents(parquet, rows), contents(other, rows), strict=True))
        found[kind] = {**same, "images with other bytes": differing}
        print(kind, found[kind])
    return parquet, found


def embed(catalog: Catalog, data: Path, folder: Path, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    weights = folder / "mobilenet.pt"
    torch.save(mobilenet.state_dict(data / "weights/mobilenet_v2_1.0_224_imagenet_int8.npz"), weights)
    model = ModelConfig(
        backbone=mobilenet.TIMM_NAME,
        options=mobilenet.TIMM_OPTIONS,
        checkpoint=str(weights),
        mean=mobilenet.MEAN,
        std=mobilenet.STD,
    )
    rows = np.flatnonzero(~catalog.is_test())[:count]
    plan = Extraction(
        catalog,
        rows,
        Features(
            ModelSource(model, len(catalog.classes), 0, "", "mobilenet", 96),
            TransformConfig(size=96, train="crop_pad", resize=0),
            FeatureConfig(dtype="float16", batch_size=64),
            with_logits=False,
        ),
    )
    cluster.start(ResourceConfig(address="local", num_cpus=4))
    start = time.monotonic()
    with tqdm(total=len(rows)) as bar:
        table = extract(
            plan, Store(str(folder / "features")), measurers=Measurers(2), decode_cpus=1,
            advance=lambda done, note: bar.update(done) and None,
        )  # fmt: skip
    return rows, table.read(rows, "embedding").astype(np.float32), time.monotonic() - start


def agreement(catalog: Catalog, rows: np.ndarray, embedding: np.ndarray, data: Path) -> dict[str, float]:
    """How well our embeddings explain the published ones (L2-normalised, then 64 principal components) linearly."""
    import pyarrow.parquet as pq

    published = np.load(data / "embeddings/cifar10_mnv2_pca64.npz")["features"][:50_000].astype(np.float32)
    files = sorted((data / "cifar10").glob("*train*.parquet"))
    names = [name for file in files for name in pq.read_table(file, columns=["filename"])["filename"].to_pylist()]
    place = {name: number for number, name in enumerate(names)}
    target = published[[place[key.rsplit("/", 1)[1]] for key in catalog.keys(rows).to_pylist()]]
    x = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    x, target = x - x.mean(0), target - target.mean(0)
    half = len(rows) // 2
    fitted = x[half:] @ np.linalg.lstsq(x[:half], target[:half], rcond=None)[0]
    return {"explained variance": float(1 - ((target[half:] - fitted) ** 2).sum() / (target[half:] ** 2).sum())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=50_000)
    args = parser.parse_args()
    if not (args.data / "cifar10").is_dir():
        print(f"skipped: no cifar10 in {args.data}")
        return
    with tempfile.TemporaryDirectory() as name:
        catalog, found = three_catalogs(args.data, Path(name))
        rows, embedding, taken = embed(catalog, args.data, Path(name), args.count)
        found |= {"embedded": len(rows), "images per second": len(rows) / taken}
        found |= agreement(catalog, rows, embedding, args.data)
    print(found)
    record("real_cifar10", found)


if __name__ == "__main__":
    main()
