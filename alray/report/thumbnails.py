"""Small pictures as data URIs: images that a strategy picked, and their masks drawn over them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from alray.config import ConfigError, DataConfig
from alray.config.fields import validated
from alray.data.catalog import Catalog, CatalogError
from alray.data.decode import decode
from alray.data.fetch import ImageError, fetch
from alray.data.masks import VOID, Masks, masks_of
from alray.features.arrays import Array, Rows
from alray.labeling import state
from alray.report.runs import RunHistory
from alray.report.styles import class_inks
from alray.rundir import Missing

SIDE = 160  # pixels of the longer side
_TINY = 64  # images up to this side are stored without loss, because a browser enlarges them
_QUALITY = 55
_OPAQUE = 0.6  # of the mask over the image


class Painter(Protocol):
    """Makes a picture of some rows beside their image, such as the image with its mask."""

    def paint(self, rows: Rows, images: dict[int, Image.Image]) -> dict[int, Image.Image]:
        """The pictures by row."""
        ...


@dataclass(frozen=True)
class Thumbnail:
    """uri: a data URI; overlay: that of the image with its mask, empty without a mask."""

    uri: str
    overlay: str = ""


def thumbnails(catalog: Catalog, rows: Rows, painter: Painter | None = None) -> tuple[dict[int, Thumbnail], str]:
    """The pictures by row, and a sentence where masks cannot be drawn ('' where they can, or there are none).

    Raises Missing where the images cannot be read any more.
    """
    references = catalog.references(rows)
    try:
        data = fetch(references, catalog.source, catalog.image_column)
        keys, ordered = references["key"].to_pylist(), references["row"].to_pylist()
        images = {
            row: decode(content, key, catalog.pixel_range)
            for row, key, content in zip(ordered, keys, data, strict=True)
        }
    except (ImageError, OSError) as error:
        raise Missing(f"the images do not exist any more ({error})") from None
    painted: dict[int, Image.Image] = {}
    why = ""
    try:
        painted = painter.paint(rows, images) if painter else {}
    except (ImageError, OSError) as error:
        why = f"Masks are not drawn: they cannot be read any more ({error})."
    return {
        row: Thumbnail(encoded(image), encoded(painted[row]) if row in painted else "") for row, image in images.items()
    }, why


def encoded(image: Image.Image) -> str:
    """An RGB image as a data URI: WebP, without loss if it is tiny."""
    out = io.BytesIO()
    if max(image.size) <= _TINY:
        image.save(out, "WEBP", lossless=True)
    else:
        small = image.copy()
        small.thumbnail((SIDE, SIDE))
        small.save(out, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass(frozen=True)
class MaskPainter:
    """Draws masks over images. colors: one per channel."""

    catalog: Catalog
    masks: Masks
    colors: tuple[str, ...]

    @classmethod
    def of(cls, run: RunHistory, catalog: Catalog) -> MaskPainter:
        """A painter of the masks that a run learned from. Raises Missing where it does not say where they are."""
        try:
            catalog = replace(catalog, masks=state.masks(run.files))
            masks = masks_of(validated(DataConfig, run.files.config().get("data", {})), catalog)
        except (ConfigError, CatalogError) as error:
            raise Missing(f"the masks cannot be found ({error})") from None
        if not (masks.in_source or masks.drawn):
            raise Missing("the masks cannot be found (no folder of them is known, and nobody has drawn any)")
        return cls(catalog, masks, tuple(class_inks(masks.num_classes)))

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """(class, colour)."""
        return tuple(zip(self.masks.names, self.colors, strict=True))

    def paint(self, rows: Rows, images: dict[int, Image.Image]) -> dict[int, Image.Image]:
        """The images with their masks. Pixels that count for no class are left as they are."""
        references = self.catalog.references(rows)
        keys = references["key"].to_pylist()
        found = zip(references["row"].to_pylist(), keys, self.masks.fetch(references), strict=True)
        return {row: self._over(images[row], self.masks.decode(data, key)) for row, key, data in found}

    def _over(self, image: Image.Image, mask: Array) -> Image.Image:
        small = image.copy()
        small.thumbnail((SIDE, SIDE))
        fitted = np.asarray(Image.fromarray(mask).resize(small.size, Image.Resampling.NEAREST))
        table = np.zeros((VOID + 1, 3))
        table[: len(self.colors)] = [[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in self.colors]
        pixels = np.asarray(small, np.float64)
        mixed = np.where((fitted == VOID)[..., None], pixels, (1 - _OPAQUE) * pixels + _OPAQUE * table[fitted])
        return Image.fromarray(mixed.round().astype(np.uint8))
