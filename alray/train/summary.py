"""The history and summary of a training, and the rule of the best epoch and of early stopping.

Both rules are functions of the history alone, so that a resumed training decides as an uninterrupted one.

Rule of Emam et al. 2021: an epoch is the best so far when its validation accuracy is at least the best before it (the
last of equals is kept); training stops when more than `patience` epochs in a row were not the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


class TrainError(ValueError):
    """A training cannot start or has failed; the message says what to change."""


class TrainFailed(TrainError):  # noqa: N818  what happened
    """A training failed because the cluster lost a part of it, or because of a defect."""

    exit_code = 1


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training images."""

    epoch: int  # from 0
    loss: float  # mean over the images, class weights included
    lr: float
    val_accuracy: float | None  # in [0, 1]; None without validation images
    images: int  # seen by all workers together
    seconds: float


@dataclass(frozen=True)
class TrainSummary:
    """How a training went. Kept are the weights of the best epoch, without validation images those of the last."""

    epochs: int  # that were run
    best_epoch: int  # from 0
    val_accuracy: float | None  # of the best epoch
    history: tuple[EpochRecord, ...]

    @classmethod
    def of(cls, history: Sequence[EpochRecord]) -> TrainSummary:
        """The summary of a finished training."""
        best = best_epoch(history)
        return cls(len(history), best, history[best].val_accuracy, tuple(history))

    def to_json(self) -> dict[str, Any]:
        """The summary as dictionaries and lists."""
        return {**asdict(self), "history": [asdict(epoch) for epoch in self.history]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainSummary:
        """Read what `to_json` returned."""
        return cls(**{**value, "history": tuple(EpochRecord(**epoch) for epoch in value["history"])})


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """The last of the epochs with the highest validation accuracy; the last of all where there is no validation."""
    return max(range(len(history)), key=lambda epoch: (history[epoch].val_accuracy or 0.0, epoch))


def finished(history: Sequence[EpochRecord], epochs: int, patience: int) -> bool:
    """Whether a training of at most `epochs` epochs is over; patience 0 never stops early."""
    if len(history) >= epochs:
        return True
    return patience > 0 and bool(history) and len(history) - 1 - best_epoch(history) > patience
