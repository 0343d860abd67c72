"""Masks from the brushes and polygons of an annotation of Label Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from alray.data.masks import VOID, Mask
from alray.labeling.deliveries import LabelError

_KINDS = ("brushlabels", "polygonlabels")


def mask_of(annotation: Mapping[str, Any], height: int, width: int, classes: Sequence[str]) -> Mask:
    """The mask that an annotation draws, (height, width) uint8: the number of a pixel's class, VOID where nothing was
    drawn. Later regions lie on top of earlier ones.

    annotation: as in an export, with regions of the kinds BrushLabels and PolygonLabels; classes: names by number.
    Raises LabelError for other sizes, unknown classes and damaged regions.
    """
    mask = np.full((height, width), VOID, np.uint8)
    where = f"annotation {annotation.get('id', '?')}"
    for region in annotation.get("result", []):
        if region.get("type") not in _KINDS:
            continue
        value = region.get("value", {})
        names = value.get(region["type"], [])
        if len(names) != 1 or names[0] not in classes:
            raise LabelError(f"{where}: expected a region of one of {', '.join(classes)}, got {', '.join(names)}")
        size = region.get("original_height", height), region.get("original_width", width)
        if size != (height, width):
            raise LabelError(f"{where}: expected regions of an image of {height} x {width} pixels, got {size}")
        drawn = _brush if "rle" in value else _polygon
        mask[drawn(value, height, width, where)] = classes.index(names[0])
    return mask


def _brush(value: Mapping[str, Any], height: int, width: int, where: str) -> npt.NDArray[np.bool_]:
    """The pixels of a brush. Label Studio packs an RGBA image into runs of numbers; its alpha says what is drawn."""
    from label_studio_sdk.converter.brush import decode_rle

    try:
        pixels = np.asarray(decode_rle(value["rle"]), np.uint8).reshape(height, width, 4)
    except (ValueError, IndexError, TypeError) as error:
        raise LabelError(
            f"{where}: expected a brush of {height} x {width} pixels, got something else: {error}"
        ) from None
    return pixels[:, :, 3] > 0


def _polygon(value: Mapping[str, Any], height: int, width: int, where: str) -> npt.NDArray[np.bool_]:
    """The pixels of a polygon. Its corners are in per cent of the width and height."""
    points = [(x / 100 * width - 0.5, y / 100 * height - 0.5) for x, y in value.get("points", [])]
    if len(points) < 3:
        raise LabelError(f"{where}: expected a polygon with 3 corners or more, got {len(points)}")
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image)
