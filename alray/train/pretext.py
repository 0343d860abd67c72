"""Train a pretext task on the whole pool, and measure the loss of every image (Yi et al. 2022, section 3.1).

A task is trained once, before the first round. It is stored under the runs' root in a directory named by its
fingerprint, so that all runs with the same data, task and seed share it. The losses order the pool for `pt4al`; the
encoder can be the self-supervised backbone of any other strategy.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm

from alray import pretext
from alray.config import Dtype, ModelConfig, PretextConfig, TransformConfig, changed, fingerprint
from alray.data.augment import Transform, eval_transform
from alray.data.decode import DECODING
from alray.data.masks import Masks
from alray.data.views import Views
from alray.features.arrays import PRETEXT_LOSS, Array, Rows
from alray.features.measures import Measured
from alray.keyed import stream_key
from alray.models.backbone import autocast, freeze_untouched, one_number_each
from alray.models.device import sent
from alray.pretext.task import PretextTask
from alray.store import Store, content_hash, read_checked
from alray.train.batches import Batch, BatchPlan
from alray.train.objective import (
    Objective,
    Place,
    State,
    Weights,
    Wrap,
    check_two_images_each,
    copied,
    write_weights,
)
from alray.train.optim import ModelOptimizer

ENCODER = "encoder.pt"
_BACKBONE = "backbone."
_AT_ONCE = 64  # images per forward pass when measuring; it is fixed, because it can change the last bits of a loss


@dataclass(frozen=True)
class PretextRecipe:
    """The training of a pretext task on some images. rows (n,) int64 ascending."""

    config: PretextConfig
    model: ModelConfig
    image: TransformConfig
    seed: int
    rows: Rows
    out: Store
    masks: None = None
    validation: None = None
    patience: int = 0

    @property
    def epochs(self) -> int:
        """Passes over the images."""
        return self.config.epochs

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return self.config.checkpoint_every

    @property
    def advice(self) -> str:
        """The settings to change if the loss is not finite."""
        return f"lower pretext.lr={self.config.lr}, or set pretext.clip_norm"

    @property
    def transform(self) -> Transform | Views:
        """Two random views, or the whole image (the published rotation task does not augment)."""
        return transform(self.config, self.image, self.seed, fixed=False)

    def into(self, out: Store) -> PretextRecipe:
        """The same training in another directory."""
        return replace(self, out=out)

    def identity(self) -> dict[str, Any]:
        """Everything that can change the weights."""
        return {
            "pretext": changed(self.config, without={"as_backbone"}),
            "model": changed(self.model, without={"pretrained"}),
            "decoding": DECODING,
            "image": [self.image.size, self.image.resize, self.image.flip],
            "seed": self.seed,
            "rows": content_hash(self.rows.tobytes()),
        }

    def check(self, workers: int) -> None:
        """Raise TrainError for too few images."""
        check_two_images_each(self.rows, workers)

    def plan(self, place: Place) -> BatchPlan:
        """The batches of an epoch: all images in a keyed random order."""
        n = len(self.rows)
        return BatchPlan(
            self.rows, np.zeros(n, np.int32), np.ones(1, np.float32), stream_key(self.seed, "pretext"), 0,
            self.config.batch_size, place.rank, place.world,
            even=pretext.TASKS[self.config.task].even,
        )  # fmt: skip

    def build(self, place: Place, wrap: Wrap) -> Objective:
        """The objective, with fresh weights."""
        return PretextObjective(self, place, wrap)


class PretextObjective:
    """One worker's network and optimizer."""

    def __init__(self, recipe: PretextRecipe, place: Place, wrap: Wrap) -> None:
        self.recipe, self.place, self.config = recipe, place, recipe.config
        self.task = fresh(self.config, recipe.model, recipe.image, recipe.seed)
        blank = torch.zeros(2, *recipe.transform.shape, dtype=torch.uint8)
        freeze_untouched(self.task, lambda: self.task.measure(blank))
        if self.config.sync_bn and place.device.type == "cuda" and place.world > 1:
            self.task = convert_sync_batchnorm(self.task)
        self.task.to(place.device)
        self.parallel = wrap(self.task)
        self.optimizer = ModelOptimizer(self.config, self.task, place.device)

    def begin(self, epoch: int) -> float:
        """Set training mode, the epoch's learning rate, and the seed of torch's random numbers (for dropout)."""
        lr = self.optimizer.begin(epoch)
        stream = f"pretext/epoch={epoch}/rank={self.place.rank}"
        torch.manual_seed(stream_key(self.recipe.seed, stream) % 2**63)
        self.task.train()
        return lr

    def step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step of the mean loss over the global batch."""
        images = sent(batch["image"], self.place.device)
        with autocast(self.place.device, self.config.amp):
            loss: torch.Tensor = self.parallel(images).sum()
        self.optimizer.step(loss * (self.place.world / norm))
        return loss.detach()

    def end(self) -> None:
        """No-op: the weights of all workers are the same, and only rank 0's BatchNorm statistics are written."""

    def right(self, block: Batch) -> float:
        """Not called: a pretext task has no validation images."""
        raise NotImplementedError

    def weights(self) -> Weights:
        """A copy of the weights of the task's network."""
        return copied(self.task)

    def state(self) -> State:
        """The state of weights and optimizer."""
        return {"task": self.task.state_dict(), **self.optimizer.state()}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        self.task.load_state_dict(state["task"])
        self.optimizer.restore(state)

    def save(self, weights: Weights, out: Store) -> None:
        """Write the weights of the backbone to encoder.pt and all weights to model.pt."""
        encoder = {
            name.removeprefix(_BACKBONE): tensor for name, tensor in weights.items() if name.startswith(_BACKBONE)
        }
        write_weights(encoder, out, ENCODER)
        write_weights(weights, out)


@dataclass(frozen=True)
class PretextLosses:
    """Measures the column `pretext_loss` (n, 1). weights: model.pt of a finished training, path or URI."""

    config: PretextConfig
    model: ModelConfig
    image: TransformConfig
    seed: int
    weights: str
    weights_id: str
    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """One number per image."""
        return {PRETEXT_LOSS: "float32"}

    @property
    def transform(self) -> Transform | Views:
        """The transform of training, except that random views do not depend on the epoch."""
        return transform(self.config, self.image, self.seed, fixed=True)

    def identity(self) -> dict[str, Any]:
        """The task, its weights, the transform and the seed."""
        image = [self.image.size, self.image.resize, self.image.flip]
        return {"task": self.config.task, "weights": self.weights_id, "image": image, "seed": self.seed}

    def load(self, device: torch.device) -> Measured:
        """The task in evaluation mode."""
        task = fresh(self.config, self.model, self.image, self.seed)
        task.load_state_dict(torch.load(io.BytesIO(read_checked(self.weights)), map_location="cpu", weights_only=True))
        task.eval().to(device)

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            return {PRETEXT_LOSS: one_number_each(task.measure, batch["image"], _AT_ONCE, device)}

        return measure


def fresh(config: PretextConfig, model: ModelConfig, image: TransformConfig, seed: int) -> PretextTask:
    """The task with fresh weights."""
    return pretext.build(config, model, seed, image.size)


def transform(config: PretextConfig, image: TransformConfig, seed: int, fixed: bool) -> Transform | Views:
    """The transform of an image: two views for a task that compares views, else the whole image. fixed: see `Views`."""
    if pretext.TASKS[config.task].views:
        return Views(image, stream_key(seed, "pretext/views"), fixed)
    return eval_transform(image)


def name(recipe: PretextRecipe, catalog_fingerprint: str) -> str:
    """The name of the training's directory under the runs' root."""
    return f"{recipe.config.task}-{fingerprint({**recipe.identity(), 'catalog': catalog_fingerprint})}"
