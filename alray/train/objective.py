"""Training that needs no classes: any objective, stepped by any number of workers along one keyed order of images.

`alray.train.pretext` (Yi et al. 2022) and `alray.train.vaal` (Sinha et al. 2019) are such objectives. The order of
images and everything random is a function of (seed, epoch, row), so that a training goes on after a kill as if nothing
had happened.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from alray.data.augment import Transform
from alray.data.views import Views
from alray.store import Store
from alray.train.batches import Array, Batch, Pairs, Plan, rebatch
from alray.train.loop import Place, Report, State, Tell
from alray.train.summary import Epoch, TrainError, TrainSummary

WEIGHTS = "model.pt"
Wrap = Callable[[nn.Module], nn.Module]
Images = Callable[[Plan | Pairs, int], Generator[Batch, None, None]]  # (plan, first epoch) -> blocks in its order


class Objective(Protocol):
    """One worker's networks and optimizers."""

    def begin(self, epoch: int) -> float:
        """Prepare for an epoch; returns its learning rate."""
        ...

    def step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step on this worker's part of a global batch whose norm (number of images) is given; returns the sum of
        this worker's losses."""
        ...

    def end(self) -> None:
        """Make all workers' networks one, so that any of them can be saved."""
        ...

    def state(self) -> State:
        """Everything that the next epoch needs."""
        ...

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        ...

    def save(self, out: Store) -> None:
        """Write the weights."""
        ...


class Recipe(Protocol):
    """What to train on which images: small and picklable."""

    @property
    def out(self) -> Store:
        """Where the weights go."""
        ...

    @property
    def epochs(self) -> int:
        """Passes over the images."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        ...

    @property
    def rows(self) -> Array:
        """All rows that may occur, ascending."""
        ...

    @property
    def transform(self) -> Transform | Views:
        """What happens to an image."""
        ...

    def plan(self, place: Place) -> Plan | Pairs:
        """What the worker at this place trains on."""
        ...

    def build(self, place: Place, wrap: Wrap) -> Objective:
        """The objective at its start; wrap averages a module's gradients over the workers."""
        ...


def fit(
    recipe: Recipe, place: Place, images: Images, *, wrap: Wrap, report: Report, tell: Tell, state: State | None = None
) -> TrainSummary:
    """Train to the end, from the beginning or from a reported state; rank 0 writes the weights.

    Raises TrainError when training diverges.
    """
    objective, plan = recipe.build(place, wrap), recipe.plan(place)
    history: list[Epoch] = []
    if state is not None:
        history = [Epoch(**epoch) for epoch in state["history"]]
        objective.restore(state["objective"])
    if len(history) < recipe.epochs:
        sizes = itertools.chain.from_iterable(plan.sizes(epoch) for epoch in range(len(history), recipe.epochs))
        with closing(images(plan, len(history))) as blocks:
            batches = rebatch(blocks, sizes)
            while True:
                history.append(_epoch(objective, plan, len(history), recipe.epochs, batches, place, tell))
                if len(history) == recipe.epochs:
                    break
                if len(history) % recipe.checkpoint_every == 0:
                    report(asdict(history[-1]), _state(history, objective) if place.rank == 0 else None)
    if place.rank == 0:
        objective.save(recipe.out)
    return TrainSummary.of(history)


def _epoch(
    objective: Objective,
    plan: Plan | Pairs,
    number: int,
    epochs: int,
    batches: Iterator[Batch],
    place: Place,
    tell: Tell,
) -> Epoch:
    began, lr, epoch = time.monotonic(), objective.begin(number), plan.epoch(number)
    total, at = torch.zeros((), device=place.device), 0
    for step, norm in enumerate(epoch.norms):
        batch = next(batches)
        expected = epoch.rows[at : at + len(batch["row"])]
        assert np.array_equal(batch["row"], expected), "images came in another order"
        at += len(expected)
        total += objective.step(batch, float(norm))
        tell(partial(_message, number, epochs, step + 1, epoch.norms, total, place.world))
    objective.end()
    loss = place.total(total)[0] / float(epoch.norms.sum())
    if not np.isfinite(loss):
        raise TrainError(f"training diverged: the loss of epoch {number} is {loss}; lower the learning rate {lr}")
    return Epoch(number, loss, lr, None, plan.images, round(time.monotonic() - began, 3))


def _message(epoch: int, epochs: int, step: int, norms: Array, total: torch.Tensor, world: int) -> dict[str, Any]:
    loss = float(total) * world / float(norms[:step].sum())
    return {"state": "training", "epoch": epoch, "epochs": epochs, "step": step, "steps": len(norms), "loss": loss}


def _state(history: list[Epoch], objective: Objective) -> State:
    return {"history": [asdict(epoch) for epoch in history], "objective": objective.state()}
