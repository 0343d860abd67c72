"""The papers' transforms: what happens to an image between decoding and the model.

Emam et al. 2021, appendix: crop 32 with a border of 4 and flip (CIFAR-10); RandomResizedCrop 224 and flip, and for
evaluation resize 256 and center crop 224 (ImageNet). Images stay 8-bit: the model normalises, on its device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision import transforms

from alray.config import TransformConfig
from alray.keyed import priorities


@dataclass(frozen=True)
class Transform:
    """A picklable function of (image, row, epoch).

    seed: None for evaluation; in training what is random depends on (seed, epoch, row) alone, never on the batch, the
    worker or anything drawn before, and the global random state stays as it was.
    """

    config: TransformConfig
    seed: int | None

    def __call__(self, image: Image.Image, row: int, epoch: int = 0) -> npt.NDArray[np.uint8]:
        """An RGB image as (size, size, 3) uint8."""
        if self.seed is None:
            return np.asarray(self._steps(image))
        key = priorities(self.seed, f"augment/epoch={epoch}", np.array([row]))[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(key))  # torch.manual_seed would reseed the GPUs too
            return np.asarray(self._steps(image))

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _steps(self) -> transforms.Compose:
        return transforms.Compose(_eval_steps(self.config) if self.seed is None else _train_steps(self.config))


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


def _eval_steps(config: TransformConfig) -> list[Any]:
    if config.resize == 0:
        return [_square(config.size)]
    return [transforms.Resize(config.resize), transforms.CenterCrop(config.size)]


def _train_steps(config: TransformConfig) -> list[Any]:
    if config.train == "random_resized_crop":
        crop = [transforms.RandomResizedCrop(config.size)]
    else:
        crop = [_square(config.size), transforms.RandomCrop(config.size, padding=config.pad)]
    return crop + [transforms.RandomHorizontalFlip()] * config.flip


def _square(size: int) -> Any:
    return transforms.Resize((size, size))  # does nothing to an image that has this size
