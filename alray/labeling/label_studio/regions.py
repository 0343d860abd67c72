"""Masks from the brushes and polygons of an annotation of Label Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from alray.labeling.deliveries import LabelError

_KINDS = ("brushlabels", "polygonlabels")


def mask_of(annotation: Mapping[str, Any], classes: Sequence[str], rest: int) -> npt.NDArray[np.uint8]:
    """The mask that an annotation draws, (height, width) uint8: the number of a pixel's class, `rest` where nothing was
    drawn. Later regions lie on top of earlier ones.

    annotation: as in an export, with regions of the kinds BrushLabels and PolygonLabels, which say how large their
    image is; classes: names by number. Raises LabelError for regions of several sizes or none, for other kinds of
    regions, for unknown classes and for damaged regions.
    """
    where = f"annotation {annotation.get('id', '?')}"
    regions = [one for one in annotation.get("result", []) if str(one.get("type")).endswith("labels")]
    sizes = {(region.get("original_height"), region.get("original_width")) for region in regions}
    if not regions:
        raise LabelError(f"{where}: expected a brush or a polygon, got none")
    if len(sizes) > 1 or not all(isinstance(side, int) and side > 0 for side in next(iter(sizes))):
        raise LabelError(
            f"{where}: expected regions with the size of one image, original_height and _width, got {sizes}"
        )
    height, width = sizes.pop()
    mask = np.full((height, width), rest, np.uint8)
    for region in regions:
        value, kind = region.get("value", {}), region["type"]
        names = value.get(kind, [])
        if kind not in _KINDS or region.get("image_rotation"):
            raise LabelError(f"{where}: expected {' or '.join(_KINDS)} of an image that is not rotated, got {kind}")
        if len(names) != 1 or names[0] not in classes:
            raise LabelError(f"{where}: expected a region of one of {', '.join(classes)}, got {', '.join(names)}")
        drawn = _brush if "rle" in value else _polygon
        mask[drawn(value, height, width, where)] = classes.index(names[0])
    return mask


def _brush(value: Mapping[str, Any], height: int, width: int, where: str) -> npt.NDArray[np.bool_]:
    """The pixels of a brush. Label Studio packs an RGBA image into runs of numbers; its alpha says what is drawn."""
    try:
        from label_studio_sdk.converter.brush import decode_rle

        pixels = np.asarray(decode_rle(value["rle"]), np.uint8).reshape(height, width, 4)
    except ImportError as error:
        raise LabelError(
            f"{where}: a brush needs label-studio-sdk ({error}): pip install 'alray[label-studio]'"
        ) from None
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
