"""The base of all pretext tasks: normalisation, a backbone, and one loss per image."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from alray.config import PretextConfig
from alray.models.backbone import Classifier
from alray.models.layout import network_input


class PretextTask(nn.Module):
    """A network that learns without labels. Subclasses add their heads and `forward`.

    views: whether the task sees two random views of an image, (b, 2, s, s, 3), or the image itself, (b, s, s, 3). even:
    whether all workers must have the same number of images of a batch.
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
        return network_input(images, self.mean, self.std, self.backbone)

    def full(self, head: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """A head on features (b, ...) in float32, also under mixed precision: the losses order a pool, and bfloat16 has
        only three digits."""
        with torch.autocast(features.device.type, enabled=False):
            found: torch.Tensor = head(features.float())
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 (see `views`) -> the losses (b,) float32 to train on."""
        raise NotImplementedError

    def measure(self, images: torch.Tensor) -> torch.Tensor:
        """Losses (b,) in evaluation mode; each depends on its image alone."""
        return self(images)  # type: ignore[no-any-return]


def projector(widths: list[int]) -> nn.Sequential:
    """Linear layers with BatchNorm, and ReLU between them (Chen et al. 2020; Chen & He 2021)."""
    layers: list[nn.Module] = []
    for at, (inside, outside) in enumerate(pairwise(widths)):
        layers += [nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside)]
        if at < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
