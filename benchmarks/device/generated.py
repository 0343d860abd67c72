"""Generated embeddings, logits and images. Every chunk has a random stream of its own, so that any number of threads
write the same numbers. They are not ImageNet's."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alray import keyed

_CHUNK = 8192  # rows that are generated at once: 64 MiB of float32 at a width of 2048
_CLUSTERS = 1000
_SEED = 0


def embeddings(path: Path, n: int, d: int) -> np.ndarray:
    """Clusters of Zipf sizes with a falling spectrum and heavy-tailed radii, (n, d) float16, in a mapped .npy."""
    spectrum = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    middle = keyed.generator(_SEED, "device/middle").standard_normal((_CLUSTERS, d), np.float32) * spectrum
    share = 1 / np.arange(1, _CLUSTERS + 1)
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, d))

    def fill(start: int) -> None:
        rng = keyed.generator(_SEED, f"device/embedding/{start}")
        size = min(_CHUNK, n - start)
        cluster = rng.choice(_CLUSTERS, size, p=share / share.sum())
        radius = 0.3 + 0.3 * np.abs(rng.standard_t(4, size)).astype(np.float32)
        rows = rng.standard_normal((size, d), np.float32)
        rows *= spectrum
        rows *= radius[:, None]
        rows += middle[cluster]
        x[start : start + size] = rows

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, n, _CHUNK)))
    return x


def head(c: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (c, d) and bias (c,), float32."""
    weight = keyed.generator(_SEED, "device/head").standard_normal((c, d), np.float32)
    return weight, np.zeros(c, np.float32)


def logits(path: Path, x: np.ndarray, weight: np.ndarray, device: torch.device) -> np.ndarray:
    """Embedding times head, (n, c) float16, in a mapped .npy; the product runs on the device."""
    found = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(x), len(weight)))
    right = torch.from_numpy(weight.T.copy()).to(device)
    for start in range(0, len(x), 8 * _CHUNK):
        left = torch.from_numpy(np.array(x[start : start + 8 * _CHUNK])).to(device).float()
        found[start : start + 8 * _CHUNK] = (left @ right).half().cpu().numpy()
    return found


def pictures(count: int, size: int) -> np.ndarray:
    """Smooth coloured noise, (count, size, size, 3) uint8: it compresses about as photographs do."""

    def one(number: int) -> np.ndarray:
        rng = keyed.generator(_SEED, f"device/picture/{number}")
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)).resize((size, size))
        return np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (size, size, 3)), 0, 255).astype(np.uint8)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(one, range(count))))


def jpegs(folder: Path, count: int, size: int, distinct: int = 256) -> list[Path]:
    """So many JPEG files, of which some hundred are distinct, as <folder>/<class>/<number>.jpg."""
    encoded = []
    for picture in pictures(min(distinct, count), size):
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "JPEG", quality=85)
        encoded.append(out.getvalue())
    paths = [folder / f"class{number % 10}" / f"{number:06d}.jpg" for number in range(count)]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        paths[number].write_bytes(encoded[number % len(encoded)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))
    return paths
