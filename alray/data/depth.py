"""Pixels of more than 8 bits per channel: which of their values become black and white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Range = tuple[float, float]  # the values that become black and white

_SLAB = 1 << 20  # pixels that are scaled at a time


class RangeError(ValueError):
    """Pixels of more than 8 bits whose black and white are not known."""


@dataclass(frozen=True)
class Depth:
    """A kind of pixels with more than 8 bits. name: for messages; range: the values that become black and white as the
    format says, None where it says nothing; whole: whether the values are integers; cut: whether Pillow has reduced
    them to 8 bits already."""

    name: str
    range: Range | None
    whole: bool = True
    cut: bool = False


GREY16 = Depth("16-bit grey", (0, 65535))
GREY12 = Depth("12-bit grey", (0, 4095))
COLOUR16 = Depth("16-bit colour", (0, 65535), cut=True)
INTEGERS = Depth("32-bit or signed integers", None)
FLOATS = Depth("floating-point numbers", (0, 1), whole=False)


@dataclass(frozen=True)
class Wide:
    """The values of an image with more than 8 bits per channel. low, high: the smallest and largest (of COLOUR16 in
    steps of 256)."""

    depth: Depth
    low: float
    high: float


def wide_of(depth: Depth, values: npt.NDArray[Any]) -> Wide:
    """The range of some values (h, w). Raises ValueError if one of them is not finite."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{bad:,} of {values.size:,} pixels are not finite")
    return Wide(depth, low, high)


def grey_of(values: npt.NDArray[Any], wide: Wide, pixel_range: Range | None) -> npt.NDArray[np.uint8]:
    """Values (h, w) as 8 bits. pixel_range: the declared range; without it the range of the format counts, and values
    must fit into it and not all become black. Raises RangeError."""
    known, name = pixel_range or wide.depth.range, f"pixels of {wide.depth.name} from {spoken((wide.low, wide.high))}"
    if known is None:
        raise RangeError(f"{name} have no range of their own; {declare(wide)}")
    if pixel_range is None and (wide.low < known[0] or wide.high > known[1]):
        raise RangeError(f"{name} do not fit into the range {spoken(known)}; {declare(wide)}")
    grey = scaled(values, known, wide.depth.whole)
    if pixel_range is None and wide.low < wide.high and not grey.any():
        raise RangeError(f"{name} would become black everywhere; {declare(wide, known)}")
    return grey


def scaled(values: npt.NDArray[Any], known: Range, whole: bool) -> npt.NDArray[np.uint8]:
    """Values (h, w) in a range as 0 to 255: each of the 256 levels stands for an equal part of it, and what is outside
    becomes 0 or 255. Of 16 bits with their whole range this is the upper byte."""
    low, width = known[0], known[1] - known[0] + whole
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _SLAB // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        grey[start : start + rows] = np.clip(np.floor((part - low) * 256 / width), 0, 255)
    return grey


def declare(wide: Wide, dark: Range | None = None) -> str:
    """Advice to declare a range that these values fit into: that of 8 bits or more if they are integers. dark: the
    range to declare if the images are meant to be dark."""
    white = max(255, (1 << int(wide.high).bit_length()) - 1) if wide.depth.whole and wide.low >= 0 else wide.high
    text = _option((min(0.0, wide.low), white))
    otherwise = f"; {_option(dark)} if they are meant to be dark" if dark else ""
    return f"declare the range of the data set, as in {text} (in a run {text.replace('--', '--data.')}){otherwise}"


def _option(values: Range) -> str:
    """A range as it is declared on the command line."""
    return f"--pixel-range {_number(values[0])} {_number(values[1])}"


def spoken(values: Range) -> str:
    """A range in words."""
    return f"{_number(values[0])} to {_number(values[1])}"


def _number(value: float) -> str:
    """A number in as few digits as it needs."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
