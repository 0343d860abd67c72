"""The training loop of one worker: end-to-end fine-tuning (Emam et al. 2021). It knows torch.distributed, but not Ray.

All decisions are taken on numbers summed over the workers, and all randomness is keyed, so that any number of workers
take the same steps (up to rounding) and a training that goes on from a checkpoint equals an undisturbed one.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn import functional as F

from alray import keyed
from alray.config import RunConfig
from alray.models.backbone import autocast, create, embed_images, freeze_unused, set_training
from alray.models.head import Head
from alray.models.segmenter import create_segmenter, pixel_losses, segment_images
from alray.store import Store, read_bytes
from alray.train.batches import Array, Batch, Plan, rebatch
from alray.train.optim import learning_rate, loss_weights, make_optimizer
from alray.train.summary import Epoch, TrainError, TrainSummary, best_epoch, finished

MODEL = "model.pt"
_KEPT_BYTES = 512 * 2**20  # decoded validation images that a worker keeps between epochs

State = dict[str, Any]
Report = Callable[[dict[str, Any], State | None], None]  # metrics, and (from rank 0) what to restore from
Tell = Callable[[Callable[[], dict[str, Any]]], None]  # called after every step with a function that makes a message


@dataclass(frozen=True)
class Job:
    """One training. rows (n,) and val_rows (m,) int64 ascending with their labels; start: a model.pt to begin with."""

    config: RunConfig
    round: int
    num_classes: int
    seed: int  # of fresh weights
    rows: Array
    labels: Array
    val_rows: Array
    val_labels: Array
    start: str | None
    out: Store

    def plan(self, place: Place) -> Plan:
        """What the worker at this place trains on."""
        train = self.config.train
        weights = loss_weights(train, self.labels, self.num_classes)
        return Plan(
            self.rows, self.labels, weights, self.config.seed, self.round, train.batch_size, place.rank, place.world
        )

    def held_out(self, place: Place) -> tuple[Array, Array]:
        """This worker's validation rows and labels: none dropped, none twice, whatever the number of workers."""
        return self.val_rows[place.rank :: place.world], self.val_labels[place.rank :: place.world]


@dataclass(frozen=True)
class Place:
    """Which worker this is."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def total(self, *values: torch.Tensor | float) -> list[float]:
        """Sums over all workers."""
        tensor = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        if self.world > 1:
            dist.all_reduce(tensor)
        return [float(value) for value in tensor]


class Images(Protocol):
    """Who reads the images: Ray Data, or arrays in a test."""

    def training(self, plan: Plan, first_epoch: int) -> Generator[Batch, None, None]:
        """Blocks of any length with columns row, label and image (m, size, size, 3) uint8, in the plan's order."""
        ...

    def held_out(self) -> Iterator[Batch]:
        """This worker's validation images (`Job.held_out`), in blocks with columns label and image."""
        ...


def fit(
    job: Job,
    place: Place,
    images: Images,
    *,
    wrap: Callable[[nn.Module], nn.Module],
    report: Report,
    tell: Tell,
    state: State | None = None,
) -> TrainSummary:
    """Train to the end, from the beginning or from a reported state. Rank 0 writes the best epoch's model.pt, head.npz.

    wrap: makes the model synchronise its gradients (DistributedDataParallel). Raises TrainError when training diverges.
    """
    train = job.config.train
    worker = Worker(job, place, wrap)
    if state is not None:
        worker.restore(state)
    if not finished(worker.history, train.epochs, train.patience):
        plan, held_out = job.plan(place), HeldOut(job, images)
        with closing(images.training(plan, len(worker.history))) as blocks:
            batches = rebatch(blocks, itertools.cycle([len(part) for part in plan.parts]))
            while True:
                worker.epoch(plan, batches, held_out, tell)
                if finished(worker.history, train.epochs, train.patience):
                    break
                if len(worker.history) % train.checkpoint_every == 0:
                    report(asdict(worker.history[-1]), worker.state() if place.rank == 0 else None)
    if place.rank == 0:
        worker.save(job.out)
    return TrainSummary.of(worker.history)


class HeldOut:
    """This worker's validation images: decoded once and kept where they are few, else read again every epoch."""

    def __init__(self, job: Job, images: Images) -> None:
        self.images, self.size = images, len(job.val_rows)
        few = self.size * 3 * job.config.transform.size**2 <= _KEPT_BYTES
        self.kept = list(images.held_out()) if few and self.size else None

    def batches(self) -> Iterator[Batch]:
        """All of them, in blocks."""
        return self.images.held_out() if self.kept is None else iter(self.kept)


class Worker:
    """Model, optimizer and history of one worker."""

    def __init__(self, job: Job, place: Place, wrap: Callable[[nn.Module], nn.Module]) -> None:
        self.job, self.place, self.train = job, place, job.config.train
        self.model = build(job, place)
        self.parallel = wrap(self.model)
        self.optimizer = make_optimizer(self.train, [p for p in self.model.parameters() if p.requires_grad])
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=self.train.amp == "fp16")
        weights = loss_weights(self.train, job.labels, job.num_classes)
        self.weights = torch.from_numpy(weights).to(place.device)
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] = {}

    def epoch(self, plan: Plan, batches: Iterator[Batch], held_out: HeldOut, tell: Tell) -> None:
        """One pass over the labeled images and one over the validation images; adds to the history."""
        number, began = len(self.history), time.monotonic()
        lr = learning_rate(self.train, number)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        stream = f"train/round={self.job.round}/epoch={number}/rank={self.place.rank}"
        torch.manual_seed(keyed.stream_key(self.job.config.seed, stream) % 2**63)  # dropout and the like
        set_training(self.parallel, self.train.freeze_bn)
        loss = self._steps(plan, number, batches, tell)
        if not np.isfinite(loss):
            raise TrainError(
                f"training diverged: the loss of epoch {number} is {loss}; lower train.lr={self.train.lr}, or set "
                "train.clip_norm"
            )
        accuracy = self._accuracy(held_out) if held_out.size else None
        self.history.append(Epoch(number, loss, lr, accuracy, plan.images, round(time.monotonic() - began, 3)))
        if self.place.rank == 0 and best_epoch(self.history) == number:
            self.best = self._weights()

    def _steps(self, plan: Plan, number: int, batches: Iterator[Batch], tell: Tell) -> float:
        epoch = plan.epoch(number)
        total, at = torch.zeros((), device=self.place.device), 0
        for step, norm in enumerate(epoch.norms):
            batch = next(batches)
            expected = epoch.rows[at : at + len(batch["row"])]
            assert np.array_equal(batch["row"], expected), "images came in another order"
            at += len(expected)
            total += self._step(batch, float(norm))
            tell(partial(self._message, number, step + 1, epoch.norms, total))
        return self.place.total(total)[0] / float(epoch.norms.sum())

    def _step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step; returns the sum of this worker's weighted losses.

        The gradients are averaged over the workers, so that world / norm makes them those of the global batch's mean,
        however unequal the workers' parts.
        """
        device = self.place.device
        images = torch.from_numpy(batch["image"]).to(device, non_blocking=True)
        with autocast(device, self.train.amp):
            _, logits = self.parallel(images)
        loss = self._loss(logits, batch)
        torch.autograd.backward(self.scaler.scale(loss * (self.place.world / norm)))
        if self.train.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum over images of their (weighted) cross-entropy, of images with masks the mean over their pixels."""
        device = self.place.device
        if "mask" in batch:
            masks = torch.from_numpy(batch["mask"]).to(device, non_blocking=True)
            return pixel_losses(logits, masks, self.job.config.data.ignore_label).sum()
        labels = torch.from_numpy(batch["label"].astype(np.int64)).to(device, non_blocking=True)
        return F.cross_entropy(logits, labels, self.weights, reduction="sum")

    def _accuracy(self, held_out: HeldOut) -> float:
        """Share of all workers' validation images that are classified right (ties go to the lower class), or the mean
        over images with masks of the share of their pixels."""
        if self.place.world > 1 and not self.train.freeze_bn:
            for buffer in self.model.buffers():  # each worker's BatchNorm saw other images: rank 0's statistics count
                dist.broadcast(buffer, 0)
        right, device, size = 0.0, self.place.device, self.job.config.features.batch_size
        for block in held_out.batches():
            if "mask" in block:
                right += self._right_pixels(block)
                continue
            logits = embed_images(self.model, block["image"], size, device, self.train.amp)[1]
            right += int((logits.argmax(axis=1) == block["label"]).sum())
        return self.place.total(right)[0] / held_out.size

    def _right_pixels(self, block: Batch) -> float:
        """The sum over images of the share of pixels that are classified right."""
        device, size = self.place.device, self.job.config.features.batch_size
        batches = segment_images(self.model, block["image"], size, device, self.train.amp)
        predicted = np.concatenate([logits.argmax(1).cpu().numpy() for _, logits in batches])
        counted = block["mask"] != self.job.config.data.ignore_label
        right = ((predicted == block["mask"]) & counted).sum((1, 2))
        return float((right / np.maximum(counted.sum((1, 2)), 1)).sum())

    def _message(self, number: int, step: int, norms: Array, total: torch.Tensor) -> dict[str, Any]:
        return {
            "state": "training",
            "epoch": number,
            "epochs": self.train.epochs,
            "step": step,
            "steps": len(norms),
            "loss": float(total) * self.place.world / float(norms[:step].sum()),
            "val_accuracy": self.history[-1].val_accuracy if self.history else None,
        }

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def state(self) -> State:
        """Everything that the next epoch needs."""
        latest = best_epoch(self.history) == len(self.history) - 1
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "model": self.best if latest else self._weights(),  # saved once where they are the same
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.model.load_state_dict(state["model"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def save(self, out: Store) -> None:
        """Write the best epoch's weights."""
        buffer = io.BytesIO()
        torch.save(self.best, buffer)
        out.write_bytes(MODEL, buffer.getbuffer())
        if "head.weight" in self.best:
            Head(self.best["head.weight"].numpy(), self.best["head.bias"].numpy()).save(out)


def build(job: Job, place: Place) -> nn.Module:
    """The model at the start of a training: the configuration's weights, or those of an earlier training."""
    config = job.config
    spec = (
        config.model if job.start is None else config.model.model_copy(update={"checkpoint": "", "pretrained": False})
    )
    model: nn.Module
    if config.task == "segmentation":
        model = create_segmenter(spec, job.num_classes, job.seed, config.transform.size)
    else:
        model = create(spec, job.num_classes, job.seed, config.transform.size)
    if job.start is not None:
        try:
            model.load_state_dict(torch.load(io.BytesIO(read_bytes(job.start)), map_location="cpu", weights_only=True))
        except (RuntimeError, FileNotFoundError) as error:
            raise TrainError(f"{job.start}: not the weights of this model: {error}") from error
    freeze_unused(model, config.transform.size)
    if config.train.sync_bn and place.device.type == "cuda" and place.world > 1:
        model = convert_sync_batchnorm(model)
    if place.device.type == "cuda":
        return model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return model.to(place.device)
