"""Transform an image and its mask together, with the same crop and flip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from alray.config import TransformConfig
from alray.data.augment import draws, resized

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
_SCALE = (0.5, 1.0)  # sides of the crop, as a share of the image's sides


@dataclass(frozen=True)
class PairTransform:
    """A picklable function of (image, mask, row, epoch).

    seed: None for evaluation, where image and mask are resized to a square. In training a random crop with half to all
    of each side is resized, and it may be flipped. Randomness is keyed as in `alray.data.augment`.
    """

    config: TransformConfig
    seed: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the resulting image: (size, size, 3)."""
        return (self.config.size, self.config.size, 3)

    def pair(self, image: Image.Image, mask: npt.NDArray[np.uint8], row: int, epoch: int) -> Pair:
        """RGB image and its mask (h, w) uint8 -> image (size, size, 3) and mask (size, size), both uint8."""
        labels, size = Image.fromarray(mask), (self.config.size, self.config.size)
        box, flip = (0, 0, *image.size), False
        if self.seed is not None and self.config.train != "eval":
            draw = draws(self.seed, row, epoch)
            scale = _SCALE[0] + (_SCALE[1] - _SCALE[0]) * draw()
            w, h = (max(1, round(side * scale)) for side in image.size)
            left, top = int(draw() * (image.width - w + 1)), int(draw() * (image.height - h + 1))
            box, flip = (left, top, left + w, top + h), self.config.flip and draw() < 0.5
        image = resized(image, size, box)
        labels = labels.resize(size, Image.Resampling.NEAREST, box=box)
        if flip:
            image, labels = ImageOps.mirror(image), ImageOps.mirror(labels)
        return np.asarray(image), np.asarray(labels)
