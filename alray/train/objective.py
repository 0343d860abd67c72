"""What the training loop (`alray.train.loop`) needs of a training: a recipe, and the objective that it builds.

A recipe is small and picklable: the driver sends it to every worker. An objective holds one worker's networks and
optimizers. The objectives are `supervised` (labels or masks), `pretext` (Yi et al. 2022) and `vaal` (Sinha et al.
2019), one module each.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from alray.data.masks import Masks
from alray.rundir import MODEL
from alray.store import Store
from alray.train.batches import Array, Batch, BatchPlan, PairedPlan
from alray.train.summary import TrainError

if TYPE_CHECKING:
    from alray.data.pixels import AnyTransform

State = dict[str, Any]
Weights = dict[str, torch.Tensor]
Wrap = Callable[[nn.Module], nn.Module]  # makes a module average its gradients over the workers
Report = Callable[[dict[str, Any], State | None], None]  # an epoch's metrics, and (on rank 0) the checkpoint
Tell = Callable[[Callable[[], dict[str, Any]]], None]  # called after every step with a function that makes a message


@dataclass(frozen=True)
class Place:
    """Which worker this is, of how many, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def total(self, *values: torch.Tensor | float) -> list[float]:
        """The sum of each value over all workers."""
        tensor = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        if self.world > 1:
            dist.all_reduce(tensor)
        return [float(value) for value in tensor]


@dataclass(frozen=True)
class Validation:
    """The validation images. rows (n,) int64 ascending, labels (n,) integer."""

    rows: Array
    labels: Array
    transform: AnyTransform

    @property
    def nbytes(self) -> int:
        """Size of all decoded images."""
        return len(self.rows) * int(torch.Size(self.transform.shape).numel())

    def part(self, place: Place) -> tuple[Array, Array]:
        """Rows and labels of this worker. Every image belongs to exactly one worker."""
        return self.rows[place.rank :: place.world], self.labels[place.rank :: place.world]


class Objective(Protocol):
    """One worker's networks and optimizers."""

    def begin(self, epoch: int) -> float:
        """Prepare for an epoch (from 0); returns its learning rate."""
        ...

    def step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step on this worker's part of a global batch; returns the sum of this worker's losses.

        norm: the sum of the loss weights of the global batch (without class weights its number of images).
        """
        ...

    def end(self) -> None:
        """Called after the last step of an epoch: make the networks of all workers the same."""
        ...

    def right(self, block: Batch) -> float:
        """The sum of the accuracies of some validation images, each in [0, 1]. Called only if there are such images."""
        ...

    def weights(self) -> Weights:
        """A copy of all weights on the CPU."""
        ...

    def state(self) -> State:
        """Everything that the next epoch needs. It may share memory with the objective."""
        ...

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        ...

    def save(self, weights: Weights, out: Store) -> None:
        """Write what `weights` returned."""
        ...


class Recipe(Protocol):
    """What is trained, on which images, and how these are read."""

    @property
    def out(self) -> Store:
        """The directory of the training."""
        ...

    @property
    def epochs(self) -> int:
        """The most epochs."""
        ...

    @property
    def patience(self) -> int:
        """Stop after this many epochs without a better validation accuracy; 0 never stops early."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        ...

    @property
    def advice(self) -> str:
        """What a user can change when the training diverges: the end of an error message."""
        ...

    @property
    def rows(self) -> Array:
        """All rows to train on, (n,) int64 ascending."""
        ...

    @property
    def transform(self) -> AnyTransform:
        """The transform of training images."""
        ...

    @property
    def masks(self) -> Masks | None:
        """Where the images' masks are, for an objective that learns from masks."""
        ...

    @property
    def validation(self) -> Validation | None:
        """The images that decide on the best epoch and on early stopping, if there are any."""
        ...

    def check(self, workers: int) -> None:
        """Raise TrainError if this many workers cannot train it."""
        ...

    def plan(self, place: Place) -> BatchPlan | PairedPlan:
        """The batches of the worker at this place."""
        ...

    def build(self, place: Place, wrap: Wrap) -> Objective:
        """The objective before the first step."""
        ...


class Images(Protocol):
    """The source of images: Ray Data, or arrays in a test."""

    def training(self, plan: BatchPlan | PairedPlan, first_epoch: int) -> Generator[Batch, None, None]:
        """Blocks of any length with the columns row, label and image (and mask), in the plan's order."""
        ...

    def validation(self) -> Iterator[Batch]:
        """This worker's validation images (`Validation.part`) in blocks with columns label and image (and mask)."""
        ...


def check_two_images_each(rows: Array, workers: int) -> None:
    """Raise TrainError if there are fewer than two images per worker: BatchNorm cannot learn from one."""
    if len(rows) < 2 * workers:
        raise TrainError(
            f"{len(rows)} images cannot be shared by resources.train_workers={workers}; expected at least 2 for each"
        )


def copied(module: nn.Module) -> Weights:
    """A copy of a module's weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def write_weights(weights: Weights, out: Store, name: str = MODEL) -> None:
    """Write weights as a file that `torch.load` reads."""
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    out.write_bytes(name, buffer.getbuffer())
