"""Colorization (after Zhang et al. 2016): predict the colours of an image from its grey version.

The input is the luma Y alone. The network predicts the two chroma planes Cb and Cr (ITU-R BT.601, the linear colour
space of JPEG) at the resolution of its last feature map, and the loss is their mean squared error. The original task
classifies quantised colours. Regression is enough here, because active learning needs one number per image.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from alray.config import PretextConfig
from alray.models.backbone import Classifier, ModelError, evaluating
from alray.models.layout import ordered
from alray.pretext.task import PretextTask

_LUMA = (0.299, 0.587, 0.114)
_SCALE = (1.772, 1.402)  # B - Y and R - Y are divided by these; Cb and Cr are then in [-0.5, 0.5]


class Colorization(PretextTask):
    """A 1x1 convolution on the backbone's last feature map predicts Cb and Cr."""

    luma: torch.Tensor

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__(classifier, config, size)
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Conv2d(_feature_width(self.backbone, size), 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> losses (b,): mean squared error of chroma, which is from -0.5 to 0.5."""
        rgb = images.permute(0, 3, 1, 2).float() / 255.0
        y = (rgb * self.luma).sum(1, keepdim=True)
        grey = (y.expand(-1, 3, -1, -1) - self.mean) / self.std
        predicted = self.full(self.head, feature_map(self.backbone, ordered(grey, self.backbone)))
        chroma = torch.cat([(rgb[:, 2:] - y) / _SCALE[0], (rgb[:, :1] - y) / _SCALE[1]], 1)
        target = F.adaptive_avg_pool2d(chroma, (predicted.shape[2], predicted.shape[3]))
        losses: torch.Tensor = (predicted - target).square().flatten(1).mean(1)
        return losses


def feature_map(backbone: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The last feature map of a timm model as (b, d, h, w); models with `output_fmt` NHWC return (b, h, w, d)."""
    features: torch.Tensor = backbone.forward_features(pixels)  # type: ignore[operator]
    last = features.ndim == 4 and getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    return features.permute(0, 3, 1, 2) if last else features


def _feature_width(backbone: nn.Module, size: int) -> int:
    """The number of channels of the last feature map."""
    with evaluating(backbone):
        features = feature_map(backbone, torch.zeros(1, 3, size, size))
    if features.ndim != 4:
        raise ModelError(
            "pretext.task=colorization: expected a backbone with a feature map (b, d, h, w), as convolutional networks "
            f"have, got shape {tuple(features.shape)}"
        )
    return int(features.shape[1])
