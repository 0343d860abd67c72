"""What Ray Train runs on every worker: the training loop on Ray Data streams.

Each worker reads a stream of only those images that it trains on. Tasks anywhere in the training's reservation
decode them, and no coordinator stands between the workers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch
from torch import nn

from alray.config import ResourceConfig
from alray.data.catalog import Catalog
from alray.data.fetch import block_rows
from alray.data.images import first_cause, image_dataset
from alray.data.kept import KeptImages, keep, pays
from alray.data.pixels import AnyTransform
from alray.rundir import PROGRESS
from alray.store import Store
from alray.train.batches import Array, Batch, BatchPlan, PairedPlan, blocks
from alray.train.loop import fit
from alray.train.objective import Place, Recipe, State, Tell
from alray.train.reserved import Decoding

_STATE = "state.pt"
_TASK_ROWS = 512  # of small images: enough to hide a task's start, few enough to begin soon


def work(recipe: Recipe, catalog: Catalog, resources: ResourceConfig, decoding: Decoding) -> dict[str, Any]:
    """One worker's training; returns its summary as JSON."""
    with worker_place(resources.cpus_per_train_worker) as place:
        images = RayImages(recipe, place, catalog, decoding)
        summary = fit(
            recipe, place, images, wrap=wrap, report=report, tell=progress_of(recipe.out, place), state=restored()
        )
    return summary.to_json()


@contextmanager
def worker_place(cpus: float) -> Iterator[Place]:
    """Context manager: limits torch's threads, and yields rank, world size and device.

    Re-raises an alray error instead of Ray's wrapper of it. cpus: of this worker itself.
    """
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(cpus)))
    try:
        yield Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    except Exception as error:
        cause = first_cause(error)
        if cause is error:
            raise
        raise cause from None  # Ray Data's stack does not help with a broken image


def wrap(model: nn.Module) -> nn.Module:
    """DistributedDataParallel: the model with its gradients averaged over the workers."""
    wrapped: nn.Module = ray.train.torch.prepare_model(
        model, parallel_strategy_kwargs={"gradient_as_bucket_view": True}
    )
    return wrapped


def restored() -> State | None:
    """The last checkpoint of this training, if an earlier start was interrupted."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: State = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
    return state


def report(metrics: dict[str, Any], state: State | None) -> None:
    """Report an epoch to Ray Train; every worker must call it. Rank 0 passes the state for the checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if state is not None:
            torch.save(state, Path(folder) / _STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def progress_of(out: Store, place: Place) -> Tell:
    """Rank 0 writes the progress; on the other workers this is a no-op."""
    return Progress(out) if place.rank == 0 else lambda message: None


class Progress:
    """Writes messages into progress.json, at most one per second."""

    def __init__(self, out: Store) -> None:
        self.out, self.next = Store(out.uri, sums=""), 0.0

    def __call__(self, message: Callable[[], dict[str, Any]]) -> None:
        """Make and write the message if a second has passed since the last one."""
        if time.monotonic() >= self.next:
            self.out.write_json(PROGRESS, message())
            self.next = time.monotonic() + 1.0


@dataclass(frozen=True)
class RayImages:
    """The images of one worker as Ray Data streams, decoded by tasks anywhere in the training's reservation."""

    recipe: Recipe
    place: Place
    catalog: Catalog
    decoding: Decoding

    def training(self, plan: BatchPlan | PairedPlan, first_epoch: int) -> Generator[Batch, None, None]:
        """Blocks of images in the plan's order, up to the last epoch."""
        transform = self.recipe.transform
        kept = self._kept(self.recipe.epochs - first_epoch)
        for tables in plan.streams(first_epoch, self.recipe.epochs, _task_rows(transform)):
            yield from self._read(tables, self.recipe.rows, transform, kept)

    def validation(self) -> Iterator[Batch]:
        """This worker's validation images."""
        if (validation := self.recipe.validation) is None:
            return
        rows, labels = validation.part(self.place)
        if len(rows):
            tables = blocks(rows, np.zeros(len(rows), np.int32), labels, _task_rows(validation.transform))
            yield from self._read(tables, rows, validation.transform)

    def _kept(self, epochs: int) -> KeptImages | None:
        """The decoded images, where they are few bytes and keeping them pays."""
        if not self.decoding.kept_bytes or not pays(epochs, self.place.world):
            return None
        return keep(
            self.catalog, self.recipe.rows, self.decoding.kept_bytes, num_cpus=self.decoding.cpus_per_task,
            max_tasks=self.decoding.tasks(self.place.rank), where=self.decoding.reservation.anywhere(),
        )  # fmt: skip

    def _read(
        self, tables: list[pa.Table], rows: Array, transform: AnyTransform, kept: KeptImages | None = None
    ) -> Generator[Batch, None, None]:
        """Each table (columns row, epoch, label) with its images, in order. rows: all that may occur."""
        dataset = image_dataset(
            self.catalog, rows, tables, transform, masks=self.recipe.masks, kept=kept,
            num_cpus=self.decoding.cpus_per_task, max_tasks=self.decoding.tasks(self.place.rank),
            where=self.decoding.reservation.anywhere(),
        )  # fmt: skip
        yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)


def _task_rows(transform: AnyTransform) -> int:
    """Images per decoding task."""
    return min(block_rows(transform.config.size), _TASK_ROWS)
