"""SimSiam (Chen & He 2021): predict the projection of one random view from the other view, without negatives."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from alray.config import PretextConfig
from alray.models.backbone import Classifier
from alray.pretext.task import PretextTask, projector


class SimSiam(PretextTask):
    """A projector of three layers, and a predictor whose hidden layer has a quarter of the width (their algorithm 1).

    Gradients are stopped at the predicted projection. It is as wide as the embedding, at most 2048.
    """

    views: ClassVar[bool] = True

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__(classifier, config, size)
        wide = min(2048, self.width)
        self.projector = projector([self.width, wide, wide, wide])
        hidden = max(1, wide // 4)
        self.predictor = nn.Sequential(
            nn.Linear(wide, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, wide)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Views (b, 2, s, s, 3) uint8 -> losses (b,) from -1, where the views predict each other, to 1."""
        z = [self.full(self.projector, self.backbone(self.normalised(images[:, view]))) for view in (0, 1)]
        p = [self.full(self.predictor, one) for one in z]
        agree = F.cosine_similarity(p[0], z[1].detach()) + F.cosine_similarity(p[1], z[0].detach())
        return -agree / 2
