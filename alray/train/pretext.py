"""Pretext tasks trained with Ray Train on the whole pool, and their loss of every image (Yi et al. 2022, section 3.1).

Trained once before the first round and kept under the runs' root by fingerprint, so that every run and strategy on the
same data, task and seed shares it. The losses order the pool for `pt4al`; the encoder can serve as the self-supervised
backbone of any other strategy.
"""

from __future__ import annotations

import hashlib
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
from alray.data.masks import Masks
from alray.data.views import Views
from alray.features.arrays import PRETEXT_LOSS, Array, Rows
from alray.features.extract import Measured
from alray.keyed import stream_key
from alray.models.backbone import autocast, freeze_untouched
from alray.pretext.task import Task
from alray.store import Store, read_bytes
from alray.train.batches import Batch, Plan
from alray.train.loop import Place, State
from alray.train.objective import WEIGHTS, Objective, Wrap
from alray.train.optim import learning_rate, make_optimizer

ENCODER = "encoder.pt"
_AT_ONCE = 64  # images per forward pass when measuring: fixed, so that the numbers are too


@dataclass(frozen=True)
class PretextRecipe:
    """A pretext task on some images. rows (n,) int64 ascending."""

    config: PretextConfig
    model: ModelConfig
    image: TransformConfig
    seed: int
    rows: Rows
    out: Store

    @property
    def epochs(self) -> int:
        """Passes over the images."""
        return self.config.epochs

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return self.config.checkpoint_every

    @property
    def transform(self) -> Transform | Views:
        """Two random views, or the image as it is (the published rotation task does not augment)."""
        return transform(self.config, self.image, self.seed, fixed=False)

    def into(self, out: Store) -> PretextRecipe:
        """The same, with its weights somewhere else."""
        return replace(self, out=out)

    def identity(self) -> dict[str, Any]:
        """Everything that can change the weights."""
        return {
            "pretext": changed(self.config, without={"as_backbone"}),
            "model": changed(self.model, without={"pretrained"}),
            "image": [self.image.size, self.image.resize, self.image.flip],
            "seed": self.seed,
            "rows": hashlib.blake2b(self.rows.tobytes(), digest_size=8).hexdigest(),
        }

    def plan(self, place: Place) -> Plan:
        """All images in a keyed order."""
        n = len(self.rows)
        return Plan(
            self.rows, np.zeros(n, np.int32), np.ones(1, np.float32), stream_key(self.seed, "pretext"), 0,
            self.config.batch_size, place.rank, place.world,
            even=pretext.TASKS[self.config.task].even,
        )  # fmt: skip

    def build(self, place: Place, wrap: Wrap) -> Objective:
        """The task at its start."""
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
        self.optimizer = make_optimizer(self.config, [p for p in self.task.parameters() if p.requires_grad])
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=self.config.amp == "fp16")

    def begin(self, epoch: int) -> float:
        """Training mode; the epoch's learning rate."""
        lr = learning_rate(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        stream = f"pretext/epoch={epoch}/rank={self.place.rank}"
        torch.manual_seed(stream_key(self.recipe.seed, stream) % 2**63)  # dropout and the like
        self.task.train()
        return lr

    def step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step of the mean loss over the global batch."""
        images = torch.from_numpy(batch["image"]).to(self.place.device, non_blocking=True)
        with autocast(self.place.device, self.config.amp):
            loss = self.parallel(images).sum()
        torch.autograd.backward(self.scaler.scale(loss * (self.place.world / norm)))
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()  # type: ignore[no-any-return]

    def end(self) -> None:
        """Weights are the same everywhere, and worker 0's statistics of BatchNorm count."""

    def state(self) -> State:
        """Weights and optimizer."""
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: State) -> None:
        """What `state` gave."""
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def save(self, out: Store) -> None:
        """Write the backbone alone (encoder.pt) and everything (model.pt)."""
        for name, module in ((ENCODER, self.task.backbone), (WEIGHTS, self.task)):
            buffer = io.BytesIO()
            torch.save({key: tensor.detach().cpu() for key, tensor in module.state_dict().items()}, buffer)
            out.write_bytes(name, buffer.getbuffer())


@dataclass(frozen=True)
class PretextLosses:
    """The column `pretext_loss` (n, 1) by the weights of a finished training (path or URI)."""

    config: PretextConfig
    model: ModelConfig
    image: TransformConfig
    seed: int
    weights: str
    weights_id: str
    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """One number."""
        return {PRETEXT_LOSS: "float32"}

    @property
    def transform(self) -> Transform | Views:
        """As in training, but views that are an image's own for ever."""
        return transform(self.config, self.image, self.seed, fixed=True)

    def identity(self) -> dict[str, Any]:
        """Task and weights."""
        image = [self.image.size, self.image.resize, self.image.flip]
        return {"task": self.config.task, "weights": self.weights_id, "image": image, "seed": self.seed}

    def load(self, device: torch.device) -> Measured:
        """The task in evaluation mode. Every forward pass has the same shape: an image's loss must not depend on how
        many others came with it."""
        task = fresh(self.config, self.model, self.image, self.seed)
        task.load_state_dict(torch.load(io.BytesIO(read_bytes(self.weights)), map_location="cpu", weights_only=True))
        task.eval().to(device)

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            images = batch["image"]
            losses = np.empty((len(images), 1), np.float32)
            filled = torch.zeros(_AT_ONCE, *images.shape[1:], dtype=torch.uint8)
            with torch.no_grad():
                for start in range(0, len(images), _AT_ONCE):
                    part = torch.tensor(images[start : start + _AT_ONCE])
                    filled[: len(part)] = part
                    losses[start : start + len(part), 0] = task.measure(filled.to(device)).cpu().numpy()[: len(part)]
            return {PRETEXT_LOSS: losses}

        return measure


def fresh(config: PretextConfig, model: ModelConfig, image: TransformConfig, seed: int) -> Task:
    """The task with fresh weights."""
    return pretext.build(config, model, seed, image.size)


def transform(config: PretextConfig, image: TransformConfig, seed: int, fixed: bool) -> Transform | Views:
    """What the task sees of an image."""
    if pretext.TASKS[config.task].views:
        return Views(image, stream_key(seed, "pretext/views"), fixed)
    return eval_transform(image)


def name(recipe: PretextRecipe, catalog_fingerprint: str) -> str:
    """Of the directory of a training under the runs' root."""
    return f"{recipe.config.task}-{fingerprint({**recipe.identity(), 'catalog': catalog_fingerprint})}"
