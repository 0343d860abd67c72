"""Linear evaluation: a head trained on cached embeddings of a frozen backbone, on one device (Emam et al. 2021).

The published code runs the frozen backbone again in every epoch of every round. Here a step is two matrix products, and
the gradient is a closed form (`alray.train.losses`): autograd costs more than the arithmetic.
Letters: n labeled images, m validation images, d width, c classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alray import keyed
from alray.config import TrainConfig
from alray.models.device import best_device
from alray.models.head import Head, initial_head
from alray.train.losses import configured_with_gradient
from alray.train.optim import Stepper, learning_rate, loss_weights
from alray.train.summary import EpochRecord, TrainError, TrainSummary, best_epoch, finished

__all__ = ["Head", "TrainError", "TrainSummary", "fit_head"]

Array = npt.NDArray[Any]

_EVALUATED_AT_ONCE, _LOGITS = 4096, 1 << 26  # most images, and most of their logits, in one step of the evaluation
_SMALL_STEP = 2**24  # multiplications; below it several threads are slower than one


def fit_head(
    config: TrainConfig,
    *,
    seed: int,
    num_classes: int,
    embedding: Array,
    labels: Array,
    val_embedding: Array | None = None,
    val_labels: Array | None = None,
    start: Head | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Head, TrainSummary]:
    """Train a head by minibatch SGD or AdamW; the same inputs give the same head on a CPU.

    embedding (n, d) and val_embedding (m, d) of any floating type (the arithmetic is float32), labels (n,) and
    val_labels (m,) integer. With validation images the head of the best epoch is returned (`alray.train.summary`), else
    the last. `start` replaces the fresh head of this seed. `progress` gets one dictionary per epoch. The settings for
    workers, BatchNorm, clipping and mixed precision are not used. Raises TrainError.
    """
    _check(embedding, labels, num_classes, "labeled")
    device = best_device()
    fit = _Fit(config, start or initial_head(num_classes, embedding.shape[1], seed), embedding, labels, device)
    validation = None
    if val_embedding is not None and val_labels is not None and len(val_labels):
        _check(val_embedding, val_labels, num_classes, "validation")
        validation = (torch.tensor(val_embedding).to(device), torch.tensor(val_labels).to(device))
    with _threads_for(config.batch_size * embedding.shape[1] * num_classes):
        return _run(fit, config, seed, validation, progress)


def _run(
    fit: _Fit,
    config: TrainConfig,
    seed: int,
    validation: tuple[torch.Tensor, torch.Tensor] | None,
    progress: Callable[[dict[str, Any]], None] | None,
) -> tuple[Head, TrainSummary]:
    history: list[EpochRecord] = []
    best = fit.head()
    n = len(fit.labels)
    while not finished(history, config.epochs, config.patience):
        began = time.monotonic()
        epoch = len(history)
        lr = learning_rate(config, epoch)
        loss = fit.epoch(keyed.order(seed, f"linear/epoch={epoch}", np.arange(n)), lr)
        if not np.isfinite(loss):
            raise TrainError(f"training diverged: the loss of epoch {epoch} is {loss}; lower train.lr={config.lr}")
        accuracy = fit.accuracy(*validation) if validation else None
        history.append(EpochRecord(epoch, loss, lr, accuracy, n, round(time.monotonic() - began, 3)))
        if best_epoch(history) == epoch:
            best = fit.head()
        if progress:
            progress({"epoch": epoch + 1, "epochs": config.epochs, "loss": loss, "val_accuracy": accuracy})
    return best, TrainSummary.of(history)


class _Fit:
    """Head, optimizer and data on one device."""

    def __init__(self, config: TrainConfig, head: Head, embedding: Array, labels: Array, device: torch.device) -> None:
        self.batch_size = config.batch_size
        self.weight = torch.tensor(head.weight, device=device)
        self.bias = torch.tensor(head.bias, device=device)
        self.gradients = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.stepper = Stepper(config, [self.weight, self.bias])
        self.embedding = torch.tensor(embedding).to(device)
        self.labels = torch.tensor(labels.astype(np.int64)).to(device)
        weights = torch.from_numpy(loss_weights(config, labels, len(head.bias))).to(device)
        self.weights = weights[self.labels] if config.class_weights else None
        self.losses = configured_with_gradient(config)

    def epoch(self, order: Array, lr: float) -> float:
        """One pass in the given order (n,); returns the mean loss."""
        device = self.labels.device
        total, norm = torch.zeros((), device=device), torch.zeros((), device=device)
        for batch in torch.split(torch.from_numpy(order).to(device), self.batch_size):
            loss, weight = self.step(batch, lr)
            total += loss
            norm += weight
        return float(total / norm)

    def step(self, batch: torch.Tensor, lr: float) -> tuple[torch.Tensor, torch.Tensor | float]:
        """One step on these positions; returns the sum of the weighted losses and of the weights."""
        x = self.embedding[batch].float()
        losses, gradient = self.losses(torch.addmm(self.bias, x, self.weight.t()), self.labels[batch])
        weight: torch.Tensor | float = float(len(batch))
        if self.weights is not None:
            own = self.weights[batch]
            losses, gradient, weight = losses * own, gradient * own.unsqueeze(1), own.sum()
        gradient /= weight
        torch.mm(gradient.t(), x, out=self.gradients[0])
        torch.sum(gradient, dim=0, out=self.gradients[1])
        self.stepper.step(self.gradients, lr)
        return losses.sum(), weight

    def accuracy(self, embedding: torch.Tensor, labels: torch.Tensor) -> float:
        """Share of images whose largest logit is their label's; ties go to the lower class."""
        right = torch.zeros((), dtype=torch.int64, device=labels.device)
        at_once = max(1, min(_EVALUATED_AT_ONCE, _LOGITS // len(self.bias)))
        for x, y in zip(torch.split(embedding, at_once), torch.split(labels, at_once), strict=True):
            logits = torch.addmm(self.bias, x.float(), self.weight.t())
            right += (logits.argmax(dim=1) == y).sum()
        return int(right) / len(labels)

    def head(self) -> Head:
        """A copy of the head as it is now."""
        return Head(self.weight.cpu().numpy().copy(), self.bias.cpu().numpy().copy())


@contextmanager
def _threads_for(multiplications: int) -> Iterator[None]:
    """Context manager: torch uses one thread if a step is small. On a busy machine a dozen hand-overs between threads
    cost far more than such a step."""
    before = torch.get_num_threads()
    if multiplications < _SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(embedding: Array, labels: Array, num_classes: int, what: str) -> None:
    if embedding.ndim != 2 or len(embedding) != len(labels) or len(labels) == 0:
        raise TrainError(
            f"{what} images: expected embedding (n, d) and n > 0 labels, got {embedding.shape} and {labels.shape}"
        )
    if not np.isfinite(embedding).all():
        raise TrainError(f"{what} images: the embedding has values that are not finite")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise TrainError(f"{what} images: labels must be 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
