"""End-to-end fine-tuning on labeled images (Emam et al. 2021), with classes or masks as targets.

A training leaves model.pt of its best epoch, with classes as targets also head.npz, and last train.json.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn

from alray import keyed
from alray.config import RunConfig
from alray.data.masks import Masks
from alray.models.backbone import autocast, freeze_unused, set_training
from alray.models.device import sent
from alray.store import Store, read_checked
from alray.train.batches import Array, Batch, BatchPlan
from alray.train.losses import configured
from alray.train.objective import Objective, Place, State, Validation, Weights, Wrap, copied
from alray.train.optim import ModelOptimizer, loss_weights
from alray.train.summary import TrainError
from alray.train.targets import Targets

if TYPE_CHECKING:
    from alray.data.pixels import AnyTransform


@dataclass(frozen=True)
class SupervisedRecipe:
    """The training of one round. rows (n,) and val_rows (m,) int64 ascending with their labels, integer.

    seed: of fresh weights. start: path or URI of an earlier model.pt (warm start); None begins with the configuration's
    weights.
    """

    config: RunConfig
    targets: Targets
    round: int
    seed: int
    rows: Array
    labels: Array
    val_rows: Array
    val_labels: Array
    start: str | None
    out: Store

    @property
    def epochs(self) -> int:
        """The most epochs."""
        return self.config.train.epochs

    @property
    def patience(self) -> int:
        """Epochs without improvement after which training stops; 0: never."""
        return self.config.train.patience

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return self.config.train.checkpoint_every

    @property
    def advice(self) -> str:
        """The settings to change if the loss is not finite."""
        return f"lower train.lr={self.config.train.lr}, or set train.clip_norm"

    @property
    def transform(self) -> AnyTransform:
        """The crop of an image changes with the epoch and the round, not with the worker or the batch."""
        seed = keyed.stream_key(self.config.seed, f"augment/round={self.round}")
        return self.targets.transform(self.config.transform, seed)

    @property
    def masks(self) -> Masks | None:
        """The masks of the targets; None for classes of whole images."""
        return self.targets.masks

    @property
    def validation(self) -> Validation | None:
        """The held-out images, if there are any."""
        if not len(self.val_rows):
            return None
        return Validation(self.val_rows, self.val_labels, self.targets.transform(self.config.transform, None))

    @property
    def class_weights(self) -> Array:
        """Weights of the loss, (c,) float32."""
        return loss_weights(self.config.train, self.labels, self.targets.num_classes)

    def check(self, workers: int) -> None:
        """Raise TrainError for too few images, rows that occur twice, and labels that are no class."""
        batch = self.config.train.batch_size
        if batch < workers:
            raise TrainError(f"train.batch_size={batch} cannot be shared by resources.train_workers={workers}")
        if len(self.rows) < workers:
            raise TrainError(f"{len(self.rows)} labeled images cannot be shared by resources.train_workers={workers}")
        self._check_images("labeled", self.rows, self.labels)
        self._check_images("held-out", self.val_rows, self.val_labels)

    def _check_images(self, what: str, rows: Array, labels: Array) -> None:
        c = self.targets.num_classes
        if (np.diff(rows) == 0).any():
            raise TrainError(f"{what} images: row {rows[:-1][np.diff(rows) == 0][0]} occurs twice")
        if len(labels) and (labels.min() < 0 or labels.max() >= c):
            raise TrainError(f"{what} images: labels must be 0 to {c - 1}, got {labels.min()} to {labels.max()}")

    def plan(self, place: Place) -> BatchPlan:
        """The labeled images in a keyed order."""
        return BatchPlan(
            self.rows, self.labels, self.class_weights, self.config.seed, self.round, self.config.train.batch_size,
            place.rank, place.world,
        )  # fmt: skip

    def build(self, place: Place, wrap: Wrap) -> Objective:
        """The network with its starting weights."""
        return SupervisedObjective(self, place, wrap)


def supervised_recipe(
    config: RunConfig,
    targets: Targets,
    *,
    labeled: tuple[Array, Array],
    held_out: tuple[Array, Array],
    round: int,
    seed: int,
    start: str | None,
    out: Store,
) -> SupervisedRecipe:
    """A recipe with ascending rows. All paths must be absolute: Ray's workers run in other directories.

    labeled, held_out: (rows, labels) in any order; the held-out images decide on the best epoch and may be none. Raises
    TrainError if there are not as many rows as labels.
    """
    return SupervisedRecipe(config, targets, round, seed, *_ascending(*labeled), *_ascending(*held_out), start, out)


def _ascending(rows: Array, labels: Array) -> tuple[Array, Array]:
    rows, labels = np.asarray(rows, np.int64), np.asarray(labels, np.int64)
    if rows.ndim != 1 or rows.shape != labels.shape:
        raise TrainError(f"expected as many rows as labels, got shapes {rows.shape} and {labels.shape}")
    order = np.argsort(rows, kind="stable")
    return rows[order], labels[order]


class SupervisedObjective:
    """One worker's network and optimizer."""

    def __init__(self, recipe: SupervisedRecipe, place: Place, wrap: Wrap) -> None:
        self.recipe, self.place, self.config, self.targets = recipe, place, recipe.config, recipe.targets
        self.model = build_model(recipe, place)
        self.parallel = wrap(self.model)
        self.optimizer = ModelOptimizer(self.config.train, self.model, place.device)
        self.class_weights = torch.from_numpy(recipe.class_weights).to(place.device)
        self.loss = configured(self.config.train)

    def begin(self, epoch: int) -> float:
        """Training mode, the epoch's learning rate and its own random numbers (for dropout)."""
        lr = self.optimizer.begin(epoch)
        stream = f"train/round={self.recipe.round}/epoch={epoch}/rank={self.place.rank}"
        torch.manual_seed(keyed.stream_key(self.config.seed, stream) % 2**63)
        set_training(self.parallel, self.config.train.freeze_bn)
        return lr

    def step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step on the weighted mean loss of the global batch.

        The gradients are averaged over the workers. The factor world / norm makes this average the gradient of the
        global batch's mean, also if the workers' parts have different sizes.
        """
        images = sent(batch["image"], self.place.device)
        with autocast(self.place.device, self.config.train.amp):
            _, logits = self.parallel(images)
        loss = self.targets.loss(self.loss, logits, batch, self.class_weights)
        self.optimizer.step(loss * (self.place.world / norm))
        return loss.detach()

    def end(self) -> None:
        """Every worker's BatchNorm saw other images: all workers take the statistics of rank 0."""
        if self.place.world > 1 and not self.config.train.freeze_bn:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, 0)

    def right(self, block: Batch) -> float:
        """By the network in evaluation mode."""
        size, device = self.config.features.batch_size, self.place.device
        return self.targets.right(self.model, block, size, device, self.config.train.amp)

    def weights(self) -> Weights:
        """A copy of the weights of the network."""
        return copied(self.model)

    def state(self) -> State:
        """Weights and optimizer."""
        return {"model": self.model.state_dict(), **self.optimizer.state()}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.restore(state)

    def save(self, weights: Weights, out: Store) -> None:
        """Write model.pt and what belongs to it."""
        self.targets.save(weights, out)


def build_model(recipe: SupervisedRecipe, place: Place) -> nn.Module:
    """The network before the first step, on the worker's device: with the configuration's weights, or those of
    `recipe.start`. Raises TrainError if these belong to another network."""
    config, start = recipe.config, recipe.start
    spec = config.model if start is None else config.model.without_weights()
    model = recipe.targets.create(spec, recipe.seed, config.transform.size)
    if start is not None:
        try:
            model.load_state_dict(torch.load(io.BytesIO(read_checked(start)), map_location="cpu", weights_only=True))
        except (RuntimeError, FileNotFoundError) as error:
            raise TrainError(f"{start}: not the weights of this model: {error}") from error
    freeze_unused(model, config.transform.size)
    if config.train.sync_bn and place.device.type == "cuda" and place.world > 1:
        model = convert_sync_batchnorm(model)
    if place.device.type == "cuda":
        return model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return model.to(place.device)
