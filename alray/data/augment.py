"""The papers' transforms: what happens to an image between decoding and the model.

Emam et al. 2021, appendix: crop 32 with a border of 4 and flip (CIFAR-10); RandomResizedCrop 224 (Szegedy et al. 2015)
and flip, and for evaluation resize 256 and center crop 224 (ImageNet). Images stay 8-bit: the model normalises, on its
device. The pixels equal those of torchvision bit for bit. torchvision itself is not used, because every decoding
process would then import PyTorch and its compiler: 9 seconds of CPU time and most of a gigabyte before the first image.
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
_AREA = (0.08, 1.0)  # of the crop, as a share of the image
_ASPECT = (3 / 4, 4 / 3)  # width over height
_LOG_ASPECT = (math.log(_ASPECT[0]), math.log(_ASPECT[1]))
_TRIES = 10
_STRIP = 16  # an image that is longer than this many times its width is a strip
_GAP = 8  # strips are reduced by whole numbers until they are this many times as long as the result


@dataclass(frozen=True)
class Transform:
    """A picklable function of (image, row, epoch).

    seed: None for evaluation. In training all randomness depends on (seed, epoch, row) alone, never on the batch, the
    worker or what was drawn before; the global random state is not used.
    """

    config: TransformConfig
    seed: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result: (size, size, 3)."""
        return (self.config.size, self.config.size, 3)

    def __call__(self, image: Image.Image, row: int, epoch: int = 0) -> npt.NDArray[np.uint8]:
        """Transform an RGB image to pixels (size, size, 3) uint8."""
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
    """The transform for evaluation: resize and center crop. Raises ValueError where the resized image would be smaller
    than the crop."""
    if 0 < config.resize < config.size:
        raise ValueError(
            f"transform.resize: expected 0 or at least transform.size={config.size}, got {config.resize}: "
            "the center crop would be larger than the resized image"
        )
    return Transform(config, None)


def train_transform(config: TransformConfig, seed: int) -> Transform:
    """The transform for training: the random crop and flip of the config, or `eval_transform` if config.train is
    "eval"."""
    return eval_transform(config) if config.train == "eval" else Transform(config, seed)


def draws(seed: int, row: int, epoch: int) -> Draw:
    """A function that draws uniform numbers in [0, 1) for one image in one epoch.

    Python guarantees that the sequence of numbers is the same in every version.
    """
    return random.Random(stream_key(seed, f"augment/epoch={epoch}/row={row}")).random


def random_box(width: int, height: int, draw: Draw) -> Box:
    """A random box in an image of width x height pixels: 8 % to 100 % of its area, with an aspect ratio from 3:4 to
    4:3.

    If ten draws do not fit into the image, it is the largest centered box with such an aspect ratio.
    """
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
    return resized(image, (size, size), (0, 0, *image.size))  # an image of this size is not changed


def resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """A box of an RGB image, resized to (width, height).

    A box that is very long and thin is reduced by whole numbers first. Otherwise an intermediate image would be as long
    as the box and as wide as the result.
    """
    gap = _GAP if _is_strip(box[2] - box[0], box[3] - box[1]) else None
    return image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=gap)


def _is_strip(width: float, height: float) -> bool:
    return max(width, height) > _STRIP * min(width, height)


def _center(image: Image.Image, config: TransformConfig) -> Image.Image:
    if config.resize == 0:
        return _square(image, config.size)
    width, height = image.size
    shorter = min(width, height)
    sides = (config.resize * width // shorter, config.resize * height // shorter)
    left, top = (round((side - config.size) / 2) for side in sides)
    crop = (left, top, left + config.size, top + config.size)
    if not _is_strip(width, height):
        return image.resize(sides, Image.Resampling.BILINEAR).crop(crop)
    # A strip would become gigabytes long: only the part of it that is cropped is resized. The pixels are the same up to
    # two levels of brightness, because Pillow rounds the corners of a box.
    x, y = width / sides[0], height / sides[1]
    return resized(image, (config.size, config.size), (crop[0] * x, crop[1] * y, crop[2] * x, crop[3] * y))
