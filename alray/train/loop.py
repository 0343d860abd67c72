"""The training loop of one worker, for every objective. It uses torch.distributed, but not Ray.

All decisions are taken on numbers that are summed over the workers, and all randomness is keyed. Any number of workers
therefore takes the same steps (up to rounding), and a training that continues from a checkpoint gives the same weights
as an uninterrupted one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from alray.train.batches import Array, Batch, BatchPlan, PairedPlan, rebatch
from alray.train.objective import Images, Place, Recipe, Report, State, Tell, Validation, Weights, Wrap
from alray.train.summary import EpochRecord, TrainError, TrainSummary, best_epoch, finished

_KEPT_BYTES = 512 * 2**20  # of decoded validation images that a worker keeps between epochs


def fit(
    recipe: Recipe, place: Place, images: Images, *, wrap: Wrap, report: Report, tell: Tell, state: State | None = None
) -> TrainSummary:
    """Train from the first epoch, or from a reported state, to the last. Rank 0 writes the weights of the best epoch.

    report is called with every checkpoint, tell after every step. Raises TrainError if the training diverges.
    """
    training = _Training(recipe, place, wrap, tell)
    if state is not None:
        training.restore(state)
    if not training.finished:
        plan, first = recipe.plan(place), len(training.history)
        sizes = itertools.chain.from_iterable(plan.sizes(epoch) for epoch in range(first, recipe.epochs))
        validation = None if recipe.validation is None else _ValidationImages(recipe.validation, images)
        with closing(images.training(plan, first)) as blocks:
            batches = rebatch(blocks, sizes)
            while True:
                training.epoch(plan, batches, validation)
                if training.finished:
                    break
                if len(training.history) % recipe.checkpoint_every == 0:
                    report(asdict(training.history[-1]), training.state() if place.rank == 0 else None)
    if place.rank == 0:
        training.save()
    return TrainSummary.of(training.history)


class _ValidationImages:
    """This worker's validation images: kept in memory if all of them are small, else read again in every epoch."""

    def __init__(self, validation: Validation, images: Images) -> None:
        self.images, self.count = images, len(validation.rows)
        self.kept = list(images.validation()) if validation.nbytes <= _KEPT_BYTES else None

    def blocks(self) -> Iterator[Batch]:
        """All of them, in blocks."""
        return self.images.validation() if self.kept is None else iter(self.kept)


class _Training:
    """The objective and the history of one worker; on rank 0 also the best epoch's weights."""

    def __init__(self, recipe: Recipe, place: Place, wrap: Wrap, tell: Tell) -> None:
        self.recipe, self.place, self.tell = recipe, place, tell
        self.objective = recipe.build(place, wrap)
        self.history: list[EpochRecord] = []
        self.best: Weights | None = None  # None if the objective's own weights are the best

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return finished(self.history, self.recipe.epochs, self.recipe.patience)

    def epoch(
        self, plan: BatchPlan | PairedPlan, batches: Iterator[Batch], validation: _ValidationImages | None
    ) -> None:
        """One pass over the training images and one over the validation images; adds to the history."""
        began, number = time.monotonic(), len(self.history)
        lr = self.objective.begin(number)
        loss = self._steps(plan, number, batches)
        if not np.isfinite(loss):
            raise TrainError(f"training diverged: the loss of epoch {number} is {loss}; {self.recipe.advice}")
        accuracy = None
        if validation is not None:
            right = sum((self.objective.right(block) for block in validation.blocks()), 0.0)
            accuracy = self.place.total(right)[0] / validation.count
        self.history.append(EpochRecord(number, loss, lr, accuracy, plan.images, round(time.monotonic() - began, 3)))
        if self.place.rank == 0 and validation is not None and best_epoch(self.history) == number:
            self.best = self.objective.weights()

    def _steps(self, plan: BatchPlan | PairedPlan, number: int, batches: Iterator[Batch]) -> float:
        """The steps of an epoch; returns the mean loss over all workers' images."""
        part = plan.epoch(number)
        total, at = torch.zeros((), device=self.place.device), 0
        for step, norm in enumerate(part.norms):
            batch = next(batches)
            expected = part.rows[at : at + len(batch["row"])]
            assert np.array_equal(batch["row"], expected), "images came in another order"
            at += len(expected)
            total += self.objective.step(batch, float(norm))
            self.tell(partial(self._message, number, step + 1, part.norms, total))
        self.objective.end()
        return self.place.total(total)[0] / float(part.norms.sum())

    def _message(self, epoch: int, step: int, norms: Array, total: torch.Tensor) -> dict[str, Any]:
        return {
            "state": "training",
            "epoch": epoch,
            "epochs": self.recipe.epochs,
            "step": step,
            "steps": len(norms),
            "loss": float(total) * self.place.world / float(norms[:step].sum()),
            "val_accuracy": self.history[-1].val_accuracy if self.history else None,
        }

    def state(self) -> State:
        """Everything that the next epoch needs."""
        latest = best_epoch(self.history) == len(self.history) - 1
        return {
            "history": [asdict(record) for record in self.history],
            "objective": self.objective.state(),
            "best": None if latest else self.best,  # the latest weights are in the objective's state
        }

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.objective.restore(state["objective"])
        self.best = state["best"]
        if self.best is None and self.recipe.validation is not None:
            self.best = self.objective.weights()  # a copy: the next epoch changes the objective's own

    def save(self) -> None:
        """Write the best epoch's weights."""
        self.objective.save(self.objective.weights() if self.best is None else self.best, self.recipe.out)
