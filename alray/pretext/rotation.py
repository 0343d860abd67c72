"""Rotation (Gidaris et al. 2018, as Yi et al. 2022 use it): by which of four right angles was the image turned?"""

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
    """The network sees every image in all four rotations; the loss is the mean of the four cross-entropies."""

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__(classifier, config, size)
        self.head = nn.Linear(self.width, _ANGLES)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> (4 b, 4): the first b turned by 0, the next by 90 degrees, and so on."""
        pixels = self.normalised(images)
        turned = torch.cat([torch.rot90(pixels, quarter, (2, 3)) for quarter in range(_ANGLES)])
        turned = turned.contiguous(memory_format=torch.channels_last)  # rot90 loses it; CPUs are faster with it
        logits: torch.Tensor = self.full(self.head, self.backbone(ordered(turned, self.backbone)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, s, s, 3) uint8 -> (b,)."""
        angle = torch.arange(_ANGLES, device=images.device).repeat_interleave(len(images))
        losses = F.cross_entropy(self.logits(images), angle, reduction="none")
        return losses.view(_ANGLES, len(images)).mean(0)
