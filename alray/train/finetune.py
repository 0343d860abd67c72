"""End-to-end fine-tuning with Ray Train: workers that read their own images and step together (Emam et al. 2021).

This is the driver's half: it starts a TorchTrainer and waits. What a worker does is in `alray.train.worker`. A training
leaves model.pt and head.npz of its best epoch and, last, train.json; while it runs, Ray Train keeps its checkpoint
beside them, from which a killed training goes on.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import ray
import ray.train
import ray.train.torch
from ray.train import TrainingFailedError, WorkerGroupError

from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.store import Store, absolute, filesystem, read_bytes
from alray.train.batches import Array
from alray.train.learner import model_seed
from alray.train.loop import MODEL, Job
from alray.train.summary import TrainError, TrainSummary
from alray.train.worker import PROGRESS, work

SUMMARY, RAY = "train.json", "ray"
_NAME = "train"

log = logging.getLogger(__name__)


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
    out = Store(absolute(out.uri))
    if not out.has(SUMMARY):
        rows, labels = _ascending(*labeled)
        start = None if start is None else absolute(start)
        job = Job(
            _placed(config), round, num_classes, model_seed(config), rows, labels, *_ascending(*held_out), start, out
        )
        _check(job)
        out.check_writable()
        out.delete(PROGRESS)
        with _watched(out, config.train.epochs, progress):
            summary = _train(job, catalog, use_gpu)
        out.write_json(SUMMARY, summary.to_json())
    for leftover in (RAY, PROGRESS):
        out.delete(leftover)
    return TrainSummary.from_json(out.read_json(SUMMARY))


def _ascending(rows: Array, labels: Array) -> tuple[Array, Array]:
    rows, labels = np.asarray(rows, np.int64), np.asarray(labels, np.int64)
    if rows.ndim != 1 or rows.shape != labels.shape:
        raise TrainError(f"expected as many rows as labels, got shapes {rows.shape} and {labels.shape}")
    order = np.argsort(rows, kind="stable")
    return rows[order], labels[order]


def _placed(config: RunConfig) -> RunConfig:
    """The configuration as workers can use it: Ray runs them in another directory."""
    if not config.model.checkpoint:
        return config
    model = config.model.model_copy(update={"checkpoint": absolute(config.model.checkpoint)})
    return config.model_copy(update={"model": model})


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


def _train(job: Job, catalog: Catalog, use_gpu: bool) -> TrainSummary:
    """Start the workers, wait for them, and turn what went wrong into one error of a line."""
    resources = job.config.resources
    _discard_torn_snapshot(job.out)
    fs, path = filesystem(job.out.at(RAY))
    cpus = _decoding_cpus(job.config)

    def train() -> dict[str, Any]:
        return work(job, catalog, cpus)  # not by train_loop_config: Ray's controller would import torch and timm for it

    trainer = ray.train.torch.TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.train_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": resources.cpus_per_train_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=_NAME,
            storage_path=path,
            storage_filesystem=fs,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        _raise_cause(error, job.round)
    if not job.out.has(MODEL):
        raise TrainError(
            f"{job.out.at(MODEL)}: a worker wrote it, but it cannot be seen from here; on several machines the runs "
            "must be on storage that all of them share"
        )
    return TrainSummary.from_json(result.return_value)


def _decoding_cpus(config: RunConfig) -> float:
    """What each worker's decoding may use: an equal share of the CPUs that the workers themselves leave."""
    resources = config.resources
    left = float(ray.cluster_resources().get("CPU", 0.0)) - resources.train_workers * resources.cpus_per_train_worker
    if left < resources.decode_cpus:
        raise TrainError(
            f"the cluster has {left:g} CPUs beside {resources.train_workers} training workers of "
            f"{resources.cpus_per_train_worker:g}; decoding needs {resources.decode_cpus:g} (resources.decode_cpus)"
        )
    return max(left / resources.train_workers, resources.decode_cpus)


def _discard_torn_snapshot(out: Store) -> None:
    """Ray writes its list of checkpoints in place: a kill in that moment leaves half of it, which Ray refuses."""
    snapshot = out.at(RAY, _NAME, "checkpoint_manager_snapshot.json")
    try:
        json.loads(read_bytes(snapshot))
    except FileNotFoundError:
        return
    except ValueError:
        log.warning("%s was cut off when an earlier start was killed; this training begins again", snapshot)
        out.delete(RAY)


def _raise_cause(error: TrainingFailedError, round: int) -> NoReturn:
    """Raise what the user can act on, without Ray's stack; an unknown failure keeps its kind, message and stack."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for failure in failures.values():
        if type(failure).__module__.startswith("alray."):
            raise failure from None
    rank, cause = next(iter(failures.items()), (None, error))
    where = "" if rank is None else f" on worker {rank}"
    raise TrainError(f"training of round {round} failed{where}: {type(cause).__name__}: {cause}") from error


@contextmanager
def _watched(out: Store, epochs: int, progress: Callable[[dict[str, Any]], None] | None) -> Iterator[None]:
    """Pass on what worker 0 writes about its progress, while the body runs."""
    if progress is None:
        yield
        return
    progress({"state": "starting workers", "epoch": 0, "epochs": epochs})
    done = threading.Event()

    def watch() -> None:
        last = None
        while not done.wait(1.0):
            try:
                state = out.read_json(PROGRESS) if out.has(PROGRESS) else None
            except OSError:  # a busy object store costs one line of progress, not the training
                continue
            if state is not None and state != last:
                progress(state)
                last = state

    thread = threading.Thread(target=watch, name="alray-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
