"""CIFAR-10 in memory: decoded once into .npy files that many processes map, with keyed random crops and flips."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from generated import pictures
from PIL import Image
from pyarrow import parquet

from alray import keyed
from alray.train.batches import Batch, BatchPlan, PairedPlan

PAD, MEAN, STD = 4, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES = 10
_AT_ONCE = 8  # batches that are cropped by one call of NumPy
_PARTS = ("train", "train_labels", "test", "test_labels")


def files(data: Path) -> tuple[list[Path], list[Path]]:
    """The Parquet files of the training and of the test images; both are empty where the data are absent."""
    folder = data / "cifar10"
    return sorted(folder.glob("*train*.parquet")), sorted(folder.glob("*test*.parquet"))


def count(paths: list[Path]) -> int:
    """Images in some of the files."""
    return sum(parquet.read_metadata(path).num_rows for path in paths)


def write(data: Path | None, folder: Path, images: int, tests: int) -> None:
    """Write the first images of training and so many test images of all classes; data None generates them."""
    if data is None:
        made = pictures(images + tests, 32)
        labels = np.arange(images + tests) % CLASSES
        made[..., 0] = np.clip(made[..., 0] // 2 + 12 * labels[:, None, None], 0, 255)  # something to learn
        arrays = made[:images], labels[:images], made[images:], labels[images:]
    else:
        train, test = files(data)
        arrays = *_read(train, images), *_read(test, tests, spread=True)  # the test images are sorted by class
    padding = ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0))
    for name, array in zip(_PARTS, (np.pad(arrays[0], padding), *arrays[1:]), strict=True):
        np.save(folder / f"{name}.npy", array)


def _read(paths: list[Path], count: int, spread: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (count, 32, 32, 3) uint8 and labels (count,) int64: the first ones, or some at equal steps."""
    encoded: list[bytes] = []
    labels: list[int] = []
    for path in paths:
        table = parquet.read_table(path, columns=["label", "image"])
        encoded += table["image"].to_pylist()
        labels += table["label"].to_pylist()
    at = np.arange(count) * (len(labels) // count if spread else 1)
    pixels = np.empty((count, 32, 32, 3), np.uint8)
    for number, place in enumerate(at.tolist()):
        pixels[number] = np.asarray(Image.open(io.BytesIO(encoded[place])).convert("RGB"))
    return pixels, np.asarray(labels, np.int64)[at]


@dataclass(frozen=True)
class Cifar:
    """padded (n, 40, 40, 3) and test (m, 32, 32, 3) uint8, labels (n,) and test_labels (m,) int64."""

    padded: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Cifar:
        """Map what `write` wrote."""
        return cls(*(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _PARTS))

    @property
    def rows(self) -> np.ndarray:
        """All rows of the pool, (n,) int64."""
        return np.arange(len(self.labels))

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Whole images (k, 32, 32, 3)."""
        return np.asarray(self.padded[rows, PAD:-PAD, PAD:-PAD])

    def cropped(self, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Random crops of the padded images, half of them mirrored. draws (k,) uint64 decide everything."""
        n, side = self.padded.shape[:2]
        size, places = side - 2 * PAD, np.uint64(2 * PAD + 1)
        lines = self.padded.reshape(n, side, 3 * side)
        windows = np.lib.stride_tricks.sliding_window_view(lines, (size, 3 * size), axis=(1, 2))
        top, left = (draws % places).astype(np.int64), (draws // places % places).astype(np.int64)
        found = np.asarray(windows[rows, top, 3 * left]).reshape(len(rows), size, size, 3)
        mirrored = draws >> np.uint64(63) == 1
        found[mirrored] = found[mirrored, :, ::-1]
        return found


@dataclass(frozen=True)
class InMemory:
    """Images for `alray.train.loop.fit`. A crop depends on (seed, epoch, row) alone; crop False gives whole images."""

    cifar: Cifar
    epochs: int
    crop: bool
    seed: int

    def training(self, plan: BatchPlan | PairedPlan, first_epoch: int) -> Generator[Batch, None, None]:
        """Blocks of some batches in the plan's order."""
        assert isinstance(plan, BatchPlan)
        for tables in plan.streams(first_epoch, self.epochs, _AT_ONCE * plan.batch_size):
            for table in tables:
                yield self._block(table)

    def validation(self) -> Iterator[Batch]:
        """None: there is no validation set."""
        return iter(())

    def _block(self, table: Any) -> Batch:
        rows, epochs = table["row"].to_numpy(), table["epoch"].to_numpy()
        block = {"row": rows, "label": table["label"].to_numpy()}
        if not self.crop:
            return {**block, "image": self.cifar.images(rows)}
        keys = {epoch: keyed.stream_key(self.seed, f"device/crop/{epoch}") for epoch in np.unique(epochs).tolist()}
        draws = keyed.by_key(np.asarray([keys[epoch] for epoch in epochs.tolist()], np.uint64), rows)
        return {**block, "image": self.cifar.cropped(rows, draws)}
