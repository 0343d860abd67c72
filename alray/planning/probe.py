"""Measure on some of the real images how long one takes: to read and decode, to train on, and to embed.

The networks, transforms and training loops are those of the run; only Ray is left out, so that it takes seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from alray.data.catalog import Catalog
from alray.data.pixels import AnyTransform, Pixels
from alray.data.pool import Rows
from alray.features.measures import Measure
from alray.models.device import best_device
from alray.store import Store
from alray.train.batches import Batch, BatchPlan, PairedPlan
from alray.train.loop import fit
from alray.train.objective import Place, Recipe

_FIRST = 8  # images of the first measurement
_DECODED = 64  # images that are decoded without a transform
_SECONDS = 1.5  # of the last one, at least, if there are images enough


@dataclass(frozen=True)
class Speed:
    """What one image costs. decode: CPU seconds of fetching, decoding and transforming it; compute: seconds of one
    replica of the model, without a GPU its CPU seconds over its threads, which other work on the machine does not
    lengthen; device_bytes: memory of the GPU that the model and a batch take, 0 without one."""

    decode: float
    compute: float
    device_bytes: int = 0


@dataclass(frozen=True)
class Decoded:
    """What a training spares for each image that it keeps decoded, seconds: CPU seconds of reading and decoding it; and
    how many bytes it then takes."""

    seconds: float
    bytes: float


@dataclass
class Probe:
    """Measures on images of a catalog. rows (n,) int64: images that may be used; threads: of one replica of the model
    where it has no GPU."""

    catalog: Catalog
    rows: Rows
    use_gpu: bool = False
    threads: int = 1
    most: int = 256

    @cached_property
    def device(self) -> torch.device:
        """Where the model is measured."""
        return best_device() if self.use_gpu else torch.device("cpu")

    def measuring(self, measure: Measure) -> Speed:
        """The speed of measuring images, such as embedding them."""
        with _threads(self.threads):
            measured = measure.load(self.device)

            def once(count: int) -> tuple[float, float]:
                rows, began = self._some(count), time.process_time()
                images, masks = self._pixels(measure.transform, measure.masks)(
                    self.catalog.references(rows), rows, np.zeros(len(rows), np.int64)
                )
                decode, start = time.process_time() - began, self.clock()
                measured({"row": rows, "image": images, "mask": cast(Any, masks)})
                return decode, self.clock() - start

            return self._speed(once)

    def training(self, recipe_of: Callable[[Rows, Store], Recipe]) -> Speed:
        """The speed of training. recipe_of(rows, out): a training on some rows."""
        with _threads(self.threads), tempfile.TemporaryDirectory() as folder:

            def once(count: int) -> tuple[float, float]:
                recipe = recipe_of(self._some(count), Store(folder))
                images = _Here(self, recipe)
                fit(
                    cast(Recipe, _TwoEpochs(recipe)), Place(device=self.device), images, wrap=lambda module: module,
                    report=lambda *_: None, tell=lambda message: None,
                )  # fmt: skip
                return images.decode / 2, max(self.clock() - images.second, 1e-6)

            return self._speed(once)

    @cached_property
    def decoded(self) -> Decoded:
        """Images that are read and decoded, and not transformed."""
        from alray.data.kept import bytes_of, decoded

        rows, catalog, began = self._some(min(_DECODED, len(self.rows))), self.catalog, time.process_time()
        references = catalog.references(rows)
        shapes = decoded(references, rows, catalog.source, catalog.image_column, catalog.pixel_range)[1]
        return Decoded((time.process_time() - began) / len(rows), float(bytes_of(shapes).mean()))

    def _speed(self, once: Callable[[int], tuple[float, float]]) -> Speed:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        count = min(_FIRST, len(self.rows))
        decode, compute = once(count)
        while compute + decode < _SECONDS and count < min(self.most, len(self.rows)):
            more = int(count * min(16.0, _SECONDS / max(compute + decode, 1e-6))) + 1
            count = min(more, self.most, len(self.rows))
            decode, compute = once(count)
        used = int(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else 0
        return Speed(decode / count, compute / count, used)

    def _some(self, count: int) -> Rows:
        """Rows that are spread over all."""
        return self.rows[np.unique(np.linspace(0, len(self.rows) - 1, count).astype(np.int64))]

    def _pixels(self, transform: AnyTransform, masks: Any) -> Pixels:
        catalog = self.catalog
        return Pixels(catalog.source, catalog.image_column, catalog.pixel_range, transform, masks)

    def clock(self) -> float:
        """Seconds of the GPU, or of the CPU over the threads of a replica."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time() / self.threads


class _Here:
    """Images of a training, decoded by the process that trains. decode: CPU seconds of all; second: the clock when the
    images of the second epoch were decoded. The first epoch makes buffers and plans, so only the second is measured."""

    def __init__(self, probe: Probe, recipe: Recipe) -> None:
        self.probe, self.recipe = probe, recipe
        self.decode, self.second = 0.0, 0.0

    def training(self, plan: BatchPlan | PairedPlan, first_epoch: int) -> Generator[Batch, None, None]:
        """Blocks in the plan's order."""
        pixels = self.probe._pixels(self.recipe.transform, self.recipe.masks)
        for tables in plan.streams(first_epoch, 2, sum(plan.sizes(0))):  # a table is an epoch
            for table in tables:
                block: Batch = {name: table[name].to_numpy() for name in table.column_names}
                begun = time.process_time()
                images, masks = pixels(
                    self.probe.catalog.references(np.unique(block["row"])), block["row"], block["epoch"]
                )
                self.decode += time.process_time() - begun
                self.second = self.probe.clock()
                yield {**block, "image": images, **({} if masks is None else {"mask": np.asarray(masks)})}

    def validation(self) -> Iterator[Batch]:
        """None: validation is a measurement without training."""
        return iter(())


class _TwoEpochs:
    """A recipe that ends after two epochs, without validation."""

    epochs, patience, checkpoint_every, validation = 2, 0, 99, None

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recipe, name)


class Start:
    """Starts a process that imports what Ray's workers import, to measure what a start takes. It runs beside this
    process."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        # After Ctrl-C, which reaches it too, its stack trace would follow what the command says.
        words = [sys.executable, "-c", "import torch, timm, ray.data, ray.train.torch"]
        self._process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        self._cpu, self._wall = 0.0, 0.0
        self._waiting = threading.Thread(target=self._wait, name="alray-start", daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._cpu, self._wall = used.ru_utime + used.ru_stime, time.monotonic() - self._began

    @property
    def seconds(self) -> float:
        """CPU seconds of the start; waits for its end."""
        self._waiting.join()
        return self._cpu

    @property
    def slower(self) -> float:
        """How many times longer it took than it used the CPU: 1 to 1.5 on a machine that does nothing else."""
        return self._wall / max(self.seconds, 1e-9)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Context manager: torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, number))
    try:
        yield
    finally:
        torch.set_num_threads(before)
