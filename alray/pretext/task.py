"""What all pretext tasks have in common: normalisation, a backbone, and one loss per image."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from alray.config import PretextConfig
from alray.models.backbone import Classifier
from alray.models.layout import ordered


class Task(nn.Module):
    """A network that learns without labels. Subclasses add their heads and `forward`.

    views: whether an image comes as two random views, (b, 2, s, s, 3), or as it is, (b, s, s, 3). even: whether every
    worker must bring as many images of a batch as every other.
    """

    views: ClassVar[bool] = False
    even: ClassVar[bool] = False
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__()
        self.backbone, self.config = classifier.backbone, config
        self.width = classifier.head.in_features  # of the embedding
        self.register_buffer("mean", classifier.mean.clone(), persistent=False)
        self.register_buffer("std", classifier.std.clone(), persistent=False)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> (b, 3, s, s) float32."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255.0 - self.mean) / self.std
        return ordered(pixels, self.backbone)

    def full(self, head: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """A head on features (b, ...) in float32, under mixed precision too: losses order a pool."""
        with torch.autocast(features.device.type, enabled=False):
            found: torch.Tensor = head(features.float())
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the task wants them, uint8 -> losses (b,) float32 to train on."""
        raise NotImplementedError

    def measure(self, images: torch.Tensor) -> torch.Tensor:
        """Losses (b,) in evaluation mode, each of its image alone."""
        return self(images)  # type: ignore[no-any-return]


def projector(widths: list[int]) -> nn.Sequential:
    """Linear layers with BatchNorm, and ReLU between them (Chen et al. 2020; Chen & He 2021)."""
    layers: list[nn.Module] = []
    for at, (inside, outside) in enumerate(pairwise(widths)):
        layers += [nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside)]
        if at < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
