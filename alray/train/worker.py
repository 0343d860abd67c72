"""What Ray Train runs on every worker: a training loop on Ray Data streams.

Each worker drives a stream of just the images it trains on, decoded by tasks anywhere in the cluster, so that no
coordinator stands between the workers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch
from torch import nn

from alray.data.augment import eval_transform, train_transform
from alray.data.catalog import Catalog
from alray.data.images import AnyTransform, block_rows, first_cause, image_dataset
from alray.data.masks import VOID, Masks, masks_of
from alray.data.paired import PairTransform
from alray.keyed import stream_key
from alray.store import Store
from alray.train.batches import Array, Batch, Plan, blocks
from alray.train.launch import PROGRESS
from alray.train.loop import Job, Place, State, fit

_STATE = "state.pt"
_TASK_ROWS = 512  # of small images: enough to hide a task's start, few enough to begin soon


def work(job: Job, catalog: Catalog, cpus: float) -> dict[str, Any]:
    """One worker's fine-tuning; cpus: what its decoding may use. Returns the summary as JSON."""
    resources = job.config.resources
    with at_work(resources.cpus_per_train_worker, cpus) as place:
        masks = masks_of(job.config.data, catalog) if job.config.task == "segmentation" else None
        job = job if masks is None else in_channels(job, masks)
        streams = Streams(catalog, cpus, resources.decode_cpus, job.config.transform.size, masks)
        summary = fit(
            job,
            place,
            RayImages(job, place, streams),
            wrap=wrap,
            report=report,
            tell=teller(job.out, place),
            state=restored(),
        )
    return summary.to_json()


def in_channels(job: Job, masks: Masks) -> Job:
    """The training as decoded masks are: a channel for each class that counts, and VOID."""
    data = job.config.data.model_copy(update={"ignore_label": VOID})
    config = job.config.model_copy(update={"data": data})
    return replace(job, config=config, num_classes=masks.num_classes)


@contextmanager
def at_work(cpus: float, decoding_cpus: float) -> Iterator[Place]:
    """This worker's place, its threads limited; errors leave as their first cause."""
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(cpus)))
    limits = ray.data.ExecutionResources(cpu=decoding_cpus)
    ray.data.DataContext.get_current().execution_options.resource_limits = limits
    try:
        yield Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    except Exception as error:
        cause = first_cause(error)
        if cause is error:
            raise
        raise cause from None  # the stack of Ray Data says nothing about a broken image


def wrap(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over the workers."""
    wrapped: nn.Module = ray.train.torch.prepare_model(
        model, parallel_strategy_kwargs={"gradient_as_bucket_view": True}
    )
    return wrapped


def restored() -> State | None:
    """What the last report of an earlier start left to go on from."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: State = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
    return state


def report(metrics: dict[str, Any], state: State | None) -> None:
    """Every worker reports, worker 0 with what to go on from."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if state is not None:
            torch.save(state, Path(folder) / _STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def teller(out: Store, place: Place) -> Callable[[Callable[[], dict[str, Any]]], None]:
    """Who tells of progress: worker 0."""
    return Progress(out) if place.rank == 0 else lambda message: None


class Progress:
    """Writes what it is told into progress.json, at most once a second."""

    def __init__(self, out: Store) -> None:
        self.out, self.next = out, 0.0

    def __call__(self, message: Callable[[], dict[str, Any]]) -> None:
        """Ask for the message and write it, if it is time."""
        if time.monotonic() >= self.next:
            self.out.write_json(PROGRESS, message())
            self.next = time.monotonic() + 1.0


@dataclass(frozen=True)
class Streams:
    """Images of a catalog as one worker reads them."""

    catalog: Catalog
    cpus: float  # for decoding, all tasks together
    decode_cpus: float  # of a task
    size: int  # of an image, in pixels
    masks: Masks | None = None

    @property
    def block_rows(self) -> int:
        """Images per task."""
        return min(block_rows(self.size), _TASK_ROWS)

    def read(self, tables: list[pa.Table], rows: Array, transform: AnyTransform) -> Generator[Batch, None, None]:
        """Each table (columns row, epoch and others) with its images, in order; rows: all that may occur."""
        tasks = max(1, int(self.cpus / self.decode_cpus))
        dataset = image_dataset(
            self.catalog, rows, tables, transform, num_cpus=self.decode_cpus, max_tasks=tasks, masks=self.masks
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)


@dataclass(frozen=True)
class RayImages:
    """The images of one worker as Ray Data streams, decoded by tasks anywhere in the cluster."""

    job: Job
    place: Place
    streams: Streams

    def training(self, plan: Plan, first_epoch: int) -> Generator[Batch, None, None]:
        """Blocks of images in the plan's order, to the last epoch."""
        config = self.job.config
        # The crop of an image changes with the epoch and the round, not with the worker or the batch.
        seed = stream_key(config.seed, f"augment/round={self.job.round}")
        transform = self._pairs(seed) or train_transform(config.transform, seed)
        for tables in plan.streams(first_epoch, config.train.epochs, self.streams.block_rows):
            yield from self.streams.read(tables, self.job.rows, transform)

    def held_out(self) -> Iterator[Batch]:
        """This worker's validation images."""
        rows, labels = self.job.held_out(self.place)
        if len(rows):
            tables = blocks(rows, np.zeros(len(rows), np.int32), labels, self.streams.block_rows)
            transform = self._pairs(None) or eval_transform(self.job.config.transform)
            yield from self.streams.read(tables, rows, transform)

    def _pairs(self, seed: int | None) -> PairTransform | None:
        """Image and mask together, where there are masks."""
        return None if self.streams.masks is None else PairTransform(self.job.config.transform, seed)
