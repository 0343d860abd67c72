"""Two random views of an image for self-supervised tasks: crop, flip, colours, grey, blur (Chen et al. 2020, app. A).

Pillow with keyed randomness, as in `alray.data.augment`: a view is a function of (seed, epoch, row).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from alray.config import TransformConfig
from alray.data.augment import Draw, draws, random_box

_JITTER, _SATURATION, _HUE = 0.4, 0.4, 0.1  # strength 0.5, as in SimSiam and the successors of SimCLR
_JITTERED, _GREY, _BLURRED = 0.8, 0.2, 0.5  # probabilities
_BLUR_FROM = 64  # pixels: smaller images are not blurred (Chen et al. 2020, section B.9, on CIFAR-10)


@dataclass(frozen=True)
class Views:
    """A picklable function of (image, row, epoch). With `fixed` the views do not depend on the epoch, for measuring."""

    config: TransformConfig
    seed: int
    fixed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result: (2, size, size, 3)."""
        return (2, self.config.size, self.config.size, 3)

    def __call__(self, image: Image.Image, row: int, epoch: int = 0) -> npt.NDArray[np.uint8]:
        """Make two views of an RGB image, (2, size, size, 3) uint8."""
        draw = draws(self.seed, row, -1 if self.fixed else epoch)
        return np.stack([np.asarray(self._view(image, draw)) for _ in range(2)])

    def _view(self, image: Image.Image, draw: Draw) -> Image.Image:
        size = self.config.size
        view = image.crop(random_box(*image.size, draw)).resize((size, size), Image.Resampling.BILINEAR)
        if self.config.flip and draw() < 0.5:
            view = ImageOps.mirror(view)
        if draw() < _JITTERED:
            view = _jittered(view, draw)
        if draw() < _GREY:
            view = view.convert("L").convert("RGB")
        if size >= _BLUR_FROM and draw() < _BLURRED:
            view = view.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * draw()))
        return view


def _jittered(image: Image.Image, draw: Draw) -> Image.Image:
    """Scale brightness, contrast and saturation by random factors from 1 - s to 1 + s, and turn the hue by up to a
    tenth of the circle."""
    for enhance, strength in (
        (ImageEnhance.Brightness, _JITTER),
        (ImageEnhance.Contrast, _JITTER),
        (ImageEnhance.Color, _SATURATION),
    ):
        image = enhance(image).enhance(1 + strength * (2 * draw() - 1))
    turn = round(255 * _HUE * (2 * draw() - 1)) % 256
    hue, saturation, value = image.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda h: (h + turn) % 256), saturation, value)).convert("RGB")
