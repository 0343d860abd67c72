"""Segmentation: a timm backbone with the light decoder of LR-ASPP (Howard et al. 2019, section 6.4).

Letters: b images, s their side in pixels, d channels of the last feature map, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from alray.config import ModelConfig
from alray.keyed import stream_key
from alray.models.backbone import Classifier, ModelError, autocast, create, evaluating, random_state
from alray.models.layout import network_input

_STRIDE = 8  # the largest stride of the feature map for fine details
_CHANNELS = 128
Array = npt.NDArray[Any]


class Segmenter(nn.Module):
    """Normalisation, backbone and decoder in one module.

    Each channel of the last feature map is weighted by a function of the map's mean. The result is upsampled and added
    to a feature map of stride 8.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, classifier: Classifier, maps: tuple[int, int], widths: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.backbone, self.maps, self.report = classifier.backbone, maps, classifier.report
        self.register_buffer("mean", classifier.mean.clone(), persistent=False)
        self.register_buffer("std", classifier.std.clone(), persistent=False)
        low, high = widths
        self.narrow = nn.Sequential(nn.Conv2d(high, _CHANNELS, 1, bias=False), nn.BatchNorm2d(_CHANNELS), nn.ReLU())
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, _CHANNELS, 1, bias=False), nn.Sigmoid())
        self.coarse = nn.Conv2d(_CHANNELS, classes, 1)
        self.fine = nn.Conv2d(low, classes, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images (b, s, s, 3) uint8 -> embedding (b, d) (the mean of the last feature map), logits (b, c, s, s)."""
        pixels = network_input(images, self.mean, self.std, self.backbone)
        low, high = self.backbone.forward_intermediates(  # type: ignore[operator]
            pixels, indices=list(self.maps), intermediates_only=True
        )
        wide = F.interpolate(self.narrow(high) * self.weigh(high), size=low.shape[-2:], mode="bilinear")
        logits = self.coarse(wide) + self.fine(low)
        logits = F.interpolate(logits.float(), size=images.shape[1:3], mode="bilinear")
        return high.float().mean((2, 3)), logits


def create_segmenter(config: ModelConfig, num_classes: int, seed: int, image_size: int) -> Segmenter:
    """Build the model. Its weights depend on (config, c, seed) alone. Raises ModelError, CheckpointError."""
    classifier = create(config, 1, seed, image_size)
    backbone = classifier.backbone
    if not hasattr(backbone, "forward_intermediates") or not hasattr(backbone, "feature_info"):
        raise ModelError(
            f"model.backbone: expected a backbone with feature maps in timm, for segmentation, got {config.backbone!r}"
        )
    info: Any = getattr(backbone.feature_info, "info", backbone.feature_info)
    strides = [int(part["reduction"]) for part in info]
    low = max((i for i, stride in enumerate(strides[:-1]) if stride <= _STRIDE), default=0)
    maps = (low, len(strides) - 1)
    with evaluating(backbone):
        found = backbone.forward_intermediates(  # type: ignore[operator]
            torch.zeros(1, 3, image_size, image_size), indices=list(maps), intermediates_only=True
        )
    with random_state(stream_key(seed, "decoder")):
        return Segmenter(classifier, maps, (int(found[0].shape[1]), int(found[1].shape[1])), num_classes)


def segment_images(
    model: nn.Module, images: npt.NDArray[np.uint8], batch_size: int, device: torch.device, amp: str = "none"
) -> Iterator[tuple[Array, torch.Tensor]]:
    """Yield the embedding (b, d) float32 and the logits (b, c, s, s), on the device, of every batch of images.

    images (n, s, s, 3) uint8; batch_size: b. The model is in evaluation mode and must be on the device.
    """
    with evaluating(model), autocast(device, amp):
        for start in range(0, len(images), batch_size):
            batch = torch.tensor(images[start : start + batch_size])  # a copy: Ray's arrays are read-only
            embedding, logits = model(batch.to(device, non_blocking=True))
            yield embedding.cpu().numpy(), logits


def uncertainties(logits: torch.Tensor) -> dict[str, Array]:
    """The model's uncertainty about each image: logarithms of the means over its pixels of 1 - p1, of 1 - (p1 - p2)
    and of the entropy in nats.

    logits (b, c, h, w) -> "confidence", "margin", "entropy", each (b, 1); higher is more uncertain. p1 and p2 are the
    two largest probabilities of a pixel. Everything is computed from logarithms of probabilities, so that images still
    differ where the model is certain of all pixels. With one class alone each value is -infinity.
    """
    log_p = logits.log_softmax(1)
    top = log_p.argmax(1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf)
    rest = torch.logsumexp(others, 1)  # log(1 - p1)
    wrong = rest.exp()
    certain = torch.where(wrong > 0, rest + (-torch.log1p(-wrong) / wrong).log(), rest)  # log(-log p1)
    flat = torch.where(others == -torch.inf, others, others + (-others).log())  # log(-p log p)
    parts = torch.cat([flat, certain[:, None] + log_p.gather(1, top)], 1)
    values = {
        "confidence": rest,
        "margin": torch.logaddexp(rest, others.amax(1)),
        "entropy": torch.logsumexp(parts, 1),
    }
    pixels = math.log(logits.shape[2] * logits.shape[3])
    return {name: (value.flatten(1).logsumexp(1) - pixels).cpu().numpy()[:, None] for name, value in values.items()}


def confusion(predicted: Array, mask: Array, num_classes: int, ignore: int) -> npt.NDArray[np.int64]:
    """Count pixels by true class (row) and predicted class (column): (c, c) int64.

    predicted, mask (h, w) integer. Pixels whose mask is `ignore` are not counted.
    """
    counted = mask != ignore
    pairs = mask[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
