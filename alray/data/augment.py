"""The papers' transforms: what happens to an image between decoding and the model.

Emam et al. 2021, appendix: crop 32 with a border of 4 and flip (CIFAR-10); RandomResizedCrop 224 (Szegedy et al. 2015)
and flip, and for evaluation resize 256 and center crop 224 (ImageNet). Images stay 8-bit: the model normalises, on its
device. The pixels are torchvision's, bit for bit; torchvision itself would bring PyTorch and its compiler into every
decoding process, which is 9 seconds of a processor and most of a gigabyte before the first image.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from alray.config import TransformConfig
from alray.keyed import stream_key

Box = tuple[int, int, int, int]  # left, top, right, bottom
Draw = Callable[[], float]
_AREA = (0.08, 1.0)  # of the image
_ASPECT = (3 / 4, 4 / 3)  # width over height
_LOG_ASPECT = (math.log(_ASPECT[0]), math.log(_ASPECT[1]))
_TRIES = 10


@dataclass(frozen=True)
class Transform:
    """A picklable function of (image, row, epoch).

    seed: None for evaluation; in training what is random depends on (seed, epoch, row) alone, never on the batch, the
    worker or anything drawn before, and no global random state is used.
    """

    config: TransformConfig
    seed: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what comes out."""
        return (self.config.size, self.config.size, 3)

    def __call__(self, image: Image.Image, row: int, epoch: int = 0) -> npt.NDArray[np.uint8]:
        """An RGB image as (size, size, 3) uint8."""
        if self.seed is None:
            return np.asarray(_center(image, self.config))
        draw = draws(self.seed, row, epoch)
        size = self.config.size
        if self.config.train == "random_resized_crop":
            image = _square(image.crop(random_box(*image.size, draw)), size)
        else:
            places = 2 * self.config.pad + 1
            left, top = int(draw() * places), int(draw() * places)
            padded = ImageOps.expand(_square(image, size), self.config.pad)
            image = padded.crop((left, top, left + size, top + size))
        if self.config.flip and draw() < 0.5:
            image = ImageOps.mirror(image)
        return np.asarray(image)


def eval_transform(config: TransformConfig) -> Transform:
    """Resize and center crop. Raises ValueError where the resized image is smaller than the crop."""
    if 0 < config.resize < config.size:
        raise ValueError(
            f"transform.resize: expected 0 or at least transform.size={config.size}, got {config.resize}: "
            "the center crop would reach over the border"
        )
    return Transform(config, None)


def train_transform(config: TransformConfig, seed: int) -> Transform:
    """The random crop and flip of the config; with train="eval" the same as `eval_transform`."""
    return eval_transform(config) if config.train == "eval" else Transform(config, seed)


def draws(seed: int, row: int, epoch: int) -> Draw:
    """Uniform numbers in [0, 1) for one image in one epoch; Python keeps this sequence the same in every version."""
    return random.Random(stream_key(seed, f"augment/epoch={epoch}/row={row}")).random


def random_box(width: int, height: int, draw: Draw) -> Box:
    """Part of an image: 8 % to all of its area, aspect 3:4 to 4:3; the largest centered one where ten draws fail."""
    for _ in range(_TRIES):
        area = width * height * _between(*_AREA, draw())
        aspect = math.exp(_between(*_LOG_ASPECT, draw()))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw() * (width - w + 1)), int(draw() * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * _ASPECT[1]))), min(height, max(1, round(width / _ASPECT[0])))
    return _centered(width, height, w, h)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _centered(width: int, height: int, w: int, h: int) -> Box:
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _square(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR)  # leaves an image of this size as it is


def _center(image: Image.Image, config: TransformConfig) -> Image.Image:
    if config.resize == 0:
        return _square(image, config.size)
    width, height = image.size
    shorter = min(width, height)
    sides = (config.resize * width // shorter, config.resize * height // shorter)
    resized = image.resize(sides, Image.Resampling.BILINEAR)
    left, top = (round((side - config.size) / 2) for side in sides)
    return resized.crop((left, top, left + config.size, top + config.size))
