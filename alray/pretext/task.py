"""The base class of all pretext tasks: normalisation, a backbone, and one loss per image."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from alray.config import PretextConfig
from alray.models.backbone import Classifier
from alray.models.layout import network_input


class PretextTask(nn.Module):
    """A network that learns without labels. A subclass adds its head and `forward`.

    views: whether the input is two random views of every image, (b, 2, s, s, 3), or the images, (b, s, s, 3). even:
    whether every worker must have the same number of images of a batch.
    """

    views: ClassVar[bool] = False
    even: ClassVar[bool] = False
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__()
        self.backbone, self.config = classifier.backbone, config
        self.width = classifier.head.in_features  # width of the embedding
        self.register_buffer("mean", classifier.mean.clone(), persistent=False)
        self.register_buffer("std", classifier.std.clone(), persistent=False)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> normalised pixels (b, 3, s, s) float32."""
        return network_input(images, self.mean, self.std, self.backbone)

    def full(self, head: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """Apply a head to features (b, ...) in float32, even under mixed precision.

        The losses order a pool, and bfloat16 has only three digits.
        """
        with torch.autocast(features.device.type, enabled=False):
            found: torch.Tensor = head(features.float())
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 (see `views`) -> training losses (b,) float32."""
        raise NotImplementedError

    def measure(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 (see `views`) -> losses (b,) in evaluation mode; each depends on its image alone."""
        return self(images)  # type: ignore[no-any-return]


def projector(widths: list[int]) -> nn.Sequential:
    """Linear layers with BatchNorm, and ReLU between them (Chen et al. 2020; Chen & He 2021)."""
    layers: list[nn.Module] = []
    for at, (inside, outside) in enumerate(pairwise(widths)):
        layers += [nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside)]
        if at < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
