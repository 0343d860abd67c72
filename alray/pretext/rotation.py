"""Rotation (Gidaris et al. 2018, as Yi et al. 2022 use it): predict by which of four angles an image was turned."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from alray.config import PretextConfig
from alray.models.backbone import Classifier
from alray.models.layout import ordered
from alray.pretext.task import PretextTask

_ANGLES = 4


class Rotation(PretextTask):
    """Classifies all four rotations of every image. The loss is the mean of the four cross-entropies."""

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__(classifier, config, size)
        self.head = nn.Linear(self.width, _ANGLES)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> logits of the angles (4 b, 4).

        The first b are of the images turned by 0 degrees, the next b by 90 degrees, and so on.
        """
        pixels = self.normalised(images)
        turned = torch.cat([torch.rot90(pixels, quarter, (2, 3)) for quarter in range(_ANGLES)])
        turned = turned.contiguous(
            memory_format=torch.channels_last
        )  # rot90 changes the memory order; CPUs are faster with this one
        logits: torch.Tensor = self.full(self.head, self.backbone(ordered(turned, self.backbone)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> losses (b,)."""
        angle = torch.arange(_ANGLES, device=images.device).repeat_interleave(len(images))
        losses = F.cross_entropy(self.logits(images), angle, reduction="none")
        return losses.view(_ANGLES, len(images)).mean(0)
