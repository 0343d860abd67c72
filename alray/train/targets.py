"""What a network is trained on: one class per image, or one class per pixel.

A kind of target decides on everything that differs between the two: how images are read, the network, the loss and the
validation accuracy. `alray.train.supervised` trains on either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import nn

from alray.config import ModelConfig, TransformConfig
from alray.data.augment import eval_transform, train_transform
from alray.data.masks import VOID, Masks
from alray.data.paired import PairTransform
from alray.models.backbone import create, embed_images
from alray.models.device import sent
from alray.models.head import Head
from alray.models.segmenter import create_segmenter, segment_images
from alray.store import Store
from alray.train.batches import Batch
from alray.train.losses import Loss, image_losses, pixel_losses, total
from alray.train.objective import Weights, write_weights

if TYPE_CHECKING:
    from alray.data.pixels import AnyTransform


class Targets(Protocol):
    """A kind of target: small and picklable."""

    @property
    def num_classes(self) -> int:
        """How many classes the network tells apart."""
        ...

    @property
    def masks(self) -> Masks | None:
        """Where the masks are, if images have any."""
        ...

    def transform(self, config: TransformConfig, seed: int | None) -> AnyTransform:
        """The transform of an image; seed None gives that of validation."""
        ...

    def create(self, config: ModelConfig, seed: int, size: int) -> nn.Module:
        """The network with its starting weights: images (b, s, s, 3) uint8 -> (embedding, logits (b, c, ...))."""
        ...

    def loss(self, loss: Loss, logits: torch.Tensor, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """The sum of the images' losses. weights: of the classes, (c,)."""
        ...

    def right(self, model: nn.Module, block: Batch, batch_size: int, device: torch.device, amp: str) -> float:
        """The sum of the images' accuracies, each in [0, 1]. batch_size: images per forward pass."""
        ...

    def save(self, weights: Weights, out: Store) -> None:
        """Write the network's weights."""
        ...


@dataclass(frozen=True)
class ClassTargets:
    """One class per image: the column label."""

    num_classes: int
    masks: Masks | None = None

    def transform(self, config: TransformConfig, seed: int | None) -> AnyTransform:
        """The configured crops."""
        return eval_transform(config) if seed is None else train_transform(config, seed)

    def create(self, config: ModelConfig, seed: int, size: int) -> nn.Module:
        """A backbone with a linear head."""
        return create(config, self.num_classes, seed, size)

    def loss(self, loss: Loss, logits: torch.Tensor, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """An image's loss counts as much as the weight of its class."""
        labels = sent(batch["label"].astype(np.int64), logits.device)
        return total(image_losses(loss, logits, labels, weights))

    def right(self, model: nn.Module, block: Batch, batch_size: int, device: torch.device, amp: str) -> float:
        """The number of images whose largest logit is their label's; ties go to the lower class."""
        logits = embed_images(model, block["image"], batch_size, device, amp)[1]
        return float((logits.argmax(axis=1) == block["label"]).sum())

    def save(self, weights: Weights, out: Store) -> None:
        """Write model.pt and head.npz."""
        write_weights(weights, out)
        Head(weights["head.weight"].numpy(), weights["head.bias"].numpy()).save(out)


@dataclass(frozen=True)
class MaskTargets:
    """One class per pixel: the column mask (b, s, s) uint8 of channel numbers and VOID (see `alray.data.masks`)."""

    masks: Masks

    @property
    def num_classes(self) -> int:
        """The classes that count, one channel each."""
        return self.masks.num_classes

    def transform(self, config: TransformConfig, seed: int | None) -> AnyTransform:
        """One transform of image and mask together."""
        return PairTransform(config, seed)

    def create(self, config: ModelConfig, seed: int, size: int) -> nn.Module:
        """A backbone with a decoder."""
        return create_segmenter(config, self.num_classes, seed, size)

    def loss(self, loss: Loss, logits: torch.Tensor, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """An image's loss is the mean over its pixels. There are no class weights: the configuration refuses them."""
        masks = sent(batch["mask"], logits.device)
        return pixel_losses(loss, logits, masks, VOID).sum()

    def right(self, model: nn.Module, block: Batch, batch_size: int, device: torch.device, amp: str) -> float:
        """The sum over images of the share of their pixels that are classified right; void pixels do not count."""
        batches = segment_images(model, block["image"], batch_size, device, amp)
        predicted = np.concatenate([logits.argmax(1).cpu().numpy() for _, logits in batches])
        counted = block["mask"] != VOID
        right = ((predicted == block["mask"]) & counted).sum((1, 2))
        return float((right / np.maximum(counted.sum((1, 2)), 1)).sum())

    def save(self, weights: Weights, out: Store) -> None:
        """Write model.pt."""
        write_weights(weights, out)
