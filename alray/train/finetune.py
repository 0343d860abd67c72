"""End-to-end fine-tuning with Ray Train: workers that read their own images and step together (Emam et al. 2021).

This is the driver's half: it checks, starts the workers and waits. What a worker does is in `alray.train.worker`. A
training leaves model.pt and head.npz of its best epoch and, last, train.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.store import Store
from alray.train.batches import Array
from alray.train.launch import clean, launch
from alray.train.loop import MODEL, Job
from alray.train.measure import model_seed
from alray.train.summary import TrainError, TrainSummary
from alray.train.worker import work

SUMMARY = "train.json"


def finetune(
    config: RunConfig,
    catalog: Catalog,
    *,
    labeled: tuple[Array, Array],
    held_out: tuple[Array, Array],
    round: int,
    out: Store,
    start: str | None,
    num_classes: int,
    use_gpu: bool,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> TrainSummary:
    """Train all weights on the labeled images; returns at once where `out` holds a finished training.

    labeled, held_out: (rows int64, labels integer); held-out images decide the best epoch and may be none. start: path
    or URI of an earlier model.pt (warm start); None begins with the configuration's weights. `progress` is called at
    once and then now and then from a thread, with state, epoch (how many are finished), epochs, and while training
    step, steps, loss and val_accuracy. Raises TrainError (cannot start, diverged, or a worker failed), ImageError,
    ModelError, CheckpointError, StoreError.
    """
    if not out.has(SUMMARY):
        rows, labels = _ascending(*labeled)
        job = Job(config, round, num_classes, model_seed(config), rows, labels, *_ascending(*held_out), start, out)
        _check(job)
        summary = launch(
            lambda cpus: work(job, catalog, cpus),
            what=f"training of round {round}",
            written=MODEL,
            out=out,
            resources=config.resources,
            use_gpu=use_gpu,
            epochs=config.train.epochs,
            progress=progress,
        )
        out.write_json(SUMMARY, summary)
    clean(out)
    return TrainSummary.from_json(out.read_json(SUMMARY))


def _ascending(rows: Array, labels: Array) -> tuple[Array, Array]:
    rows, labels = np.asarray(rows, np.int64), np.asarray(labels, np.int64)
    if rows.ndim != 1 or rows.shape != labels.shape:
        raise TrainError(f"expected as many rows as labels, got shapes {rows.shape} and {labels.shape}")
    order = np.argsort(rows, kind="stable")
    return rows[order], labels[order]


def _check(job: Job) -> None:
    workers, batch = job.config.resources.train_workers, job.config.train.batch_size
    if batch < workers:
        raise TrainError(f"train.batch_size={batch} cannot be shared by resources.train_workers={workers}")
    if len(job.rows) < workers:
        raise TrainError(f"{len(job.rows)} labeled images cannot be shared by resources.train_workers={workers}")
    for what, rows, labels in (("labeled", job.rows, job.labels), ("held-out", job.val_rows, job.val_labels)):
        if (np.diff(rows) == 0).any():
            raise TrainError(f"{what} images: row {rows[:-1][np.diff(rows) == 0][0]} occurs twice")
        if len(labels) and (labels.min() < 0 or labels.max() >= job.num_classes):
            raise TrainError(
                f"{what} images: labels must be 0 to {job.num_classes - 1}, got {labels.min()} to {labels.max()}"
            )
