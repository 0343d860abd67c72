"""VAAL (Sinha et al. 2019): an autoencoder and a discriminator trained against each other on labeled and unlabeled
images.

The discriminator learns to tell from the latent code whether an image is labeled. The autoencoder learns to reconstruct
the images and to make all of them look labeled. Images that still look unlabeled differ from the labeled ones: they are
queried first.

The published code has two faults: its autoencoder reseeds NumPy's global random state, and what its multi-GPU workers
train is lost. Here the noise comes from the objective's own generator, keyed by (seed, round, epoch, worker), and
gradients are summed over the workers' images and divided by the global number of images.

Labeled and unlabeled images go through the autoencoder in one batch, where the published code has a batch of each. When
the pool is measured, BatchNorm normalises all images by the same statistics. It must do so in training, too, because
otherwise the discriminator learns from codes that it never sees again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.optim import Adam

from alray.config import Dtype, TransformConfig, VaalConfig, changed
from alray.data.augment import Transform, eval_transform
from alray.data.masks import Masks
from alray.features.arrays import DISCRIMINATOR, Array, Rows
from alray.features.measures import Measured
from alray.keyed import stream_key
from alray.models.backbone import one_number_each, random_state
from alray.models.device import sent
from alray.models.vaal import VaalNetworks, discrimination_losses, pixels
from alray.store import Store, read_checked
from alray.train.batches import Batch, BatchPlan, PairedPlan
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

_AT_ONCE = 256  # images per forward pass when measuring: fixed, so that the numbers are too


@dataclass(frozen=True)
class VaalRecipe:
    """The training of VAAL's networks in one round. labeled, unlabeled: rows (n,) int64 ascending."""

    config: VaalConfig
    seed: int
    round: int
    labeled: Rows
    unlabeled: Rows
    out: Store
    masks: None = None
    validation: None = None
    patience: int = 0

    @property
    def epochs(self) -> int:
        """Passes over the labeled images."""
        return self.config.epochs

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return self.config.checkpoint_every

    @property
    def advice(self) -> str:
        """The settings to change if the loss is not finite."""
        return f"lower vaal.lr={self.config.lr} or vaal.lr_discriminator={self.config.lr_discriminator}"

    @property
    def rows(self) -> Rows:
        """Labeled and unlabeled."""
        return np.union1d(self.labeled, self.unlabeled)

    @property
    def transform(self) -> Transform:
        """The whole image, resized to a square of the networks' size."""
        return _transform(self.config)

    def check(self, workers: int) -> None:
        """Raise TrainError for too few images."""
        check_two_images_each(self.rows, workers)

    def plan(self, place: Place) -> PairedPlan:
        """Every labeled batch beside an unlabeled one."""

        def side(rows: Rows, name: str) -> BatchPlan:
            seed = stream_key(self.seed, f"vaal/{name}")
            zeros, size = np.zeros(len(rows), np.int32), self.config.batch_size
            return BatchPlan(rows, zeros, np.ones(1, np.float32), seed, self.round, size, place.rank, place.world)

        return PairedPlan(side(self.labeled, "labeled"), side(self.unlabeled, "unlabeled"))

    def build(self, place: Place, wrap: Wrap) -> Objective:
        """Fresh networks, the same on every worker and in every round."""
        return VaalObjective(self, place)


class VaalObjective:
    """One worker's networks and their two optimizers (Adam)."""

    def __init__(self, recipe: VaalRecipe, place: Place) -> None:
        self.recipe, self.place, config = recipe, place, recipe.config
        self.network = fresh(config, recipe.seed).to(place.device)
        self.adversary = config.adversary
        self.optimizers = {
            "autoencoder": Adam(self.network.autoencoder.parameters(), lr=config.lr),
            "discriminator": Adam(self.network.discriminator.parameters(), lr=config.lr_discriminator),
        }
        self.generator = torch.Generator(place.device)

    def begin(self, epoch: int) -> float:
        """Training mode, and the epoch's own noise."""
        stream = f"vaal/round={self.recipe.round}/epoch={epoch}/rank={self.place.rank}"
        self.generator.manual_seed(stream_key(self.recipe.seed, stream) % 2**63)
        self.network.train()
        return self.recipe.config.lr

    def step(self, batch: Batch, norm: float) -> torch.Tensor:
        """One step of the autoencoder, then one of the discriminator; returns the autoencoder's loss."""
        images = pixels(sent(batch["image"], self.place.device))
        labeled = sent(batch["label"].astype(np.float32), self.place.device)
        loss = self._autoencoder_loss(images)
        self._descend("autoencoder", loss / norm)
        with torch.no_grad():
            code = self.network.autoencoder.encode(images)[0]
        guess = self.network.discriminator(code)
        self._descend("discriminator", discrimination_losses(guess, labeled).sum() / norm)
        return loss.detach()

    def _autoencoder_loss(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruction plus the adversarial loss (all images look labeled), summed over this worker's images."""
        noise = torch.randn(len(images), self.network.latent, generator=self.generator, device=images.device)
        coded = self.network.autoencoder(images, noise)
        guess = self.network.discriminator(coded.mean)
        looks = discrimination_losses(guess, torch.ones_like(guess))
        loss: torch.Tensor = (coded.elbo(images) + self.adversary * looks).sum()
        return loss

    def _descend(self, name: str, loss: torch.Tensor) -> None:
        """One step of the named optimizer on the loss, summed over the workers."""
        optimizer = self.optimizers[name]
        self.network.zero_grad(set_to_none=False)
        torch.autograd.backward(loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._sum(p.grad for p in parameters)
        optimizer.step()

    def _sum(self, tensors: Iterable[torch.Tensor | None], share: float = 1.0) -> None:
        """Sum tensors over the workers in place, in one exchange, times `share`."""
        if self.place.world == 1:
            return
        some = [tensor for tensor in tensors if tensor is not None]
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        dist.all_reduce(flat)
        at = 0
        for tensor in some:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor) * share)
            at += tensor.numel()

    def end(self) -> None:
        """Every worker's BatchNorm saw other images: the statistics are averaged over the workers."""
        self._sum((b for b in self.network.buffers() if b.is_floating_point()), 1 / self.place.world)

    def right(self, block: Batch) -> float:
        """Not called: VAAL has no validation images."""
        raise NotImplementedError

    def weights(self) -> Weights:
        """A copy of the weights of both networks."""
        return copied(self.network)

    def state(self) -> State:
        """Weights and both optimizers."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"network": self.network.state_dict(), "optimizers": optimizers}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        self.network.load_state_dict(state["network"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def save(self, weights: Weights, out: Store) -> None:
        """Write model.pt."""
        write_weights(weights, out)


@dataclass(frozen=True)
class Discriminating:
    """Measures the column `discriminator` (n, 1): the logit of being labeled. weights: model.pt, path or URI."""

    config: VaalConfig
    weights: str
    weights_id: str
    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """One number per image."""
        return {DISCRIMINATOR: "float32"}

    @property
    def transform(self) -> Transform:
        """The transform of training."""
        return _transform(self.config)

    def identity(self) -> dict[str, Any]:
        """Networks and weights."""
        return {"vaal": changed(self.config), "weights": self.weights_id}

    def load(self, device: torch.device) -> Measured:
        """The networks in evaluation mode."""
        network = fresh(self.config, 0)
        state = torch.load(io.BytesIO(read_checked(self.weights)), map_location="cpu", weights_only=True)
        network.load_state_dict(state)
        network.eval().to(device)

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            return {DISCRIMINATOR: one_number_each(network, batch["image"], _AT_ONCE, device)}

        return measure


def fresh(config: VaalConfig, seed: int) -> VaalNetworks:
    """Networks with fresh weights: a function of the seed alone; the global random state is put back."""
    with random_state(stream_key(seed, "vaal")):
        return VaalNetworks(config.image_size, config.latent, config.width)


def _transform(config: VaalConfig) -> Transform:
    return eval_transform(TransformConfig(size=config.image_size, resize=0))
