"""From the bytes of an image file to the picture that a person sees: RGB with 8 bits per channel, turned upright.

Only formats of pixels are read. The orientation in the EXIF data is applied. Of several frames the first is used.
Transparency is dropped, and the colours beneath it are kept. Colour profiles are not applied. Pixels of more than 8
bits need a range, that is the values that become black and white: see `Depth`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from alray.data.fetch import ImageError

DECODING = 2  # part of the fingerprints of runs and features: raise it where the same bytes give other pixels
BROKEN, UNKNOWN_RANGE = "broken image", "unknown range"  # kinds of ImageError

Range = tuple[float, float]  # the values that become black and white

# Pillow also reads documents and drawings (EPS, PDF, WMF), which call other programs or have no pixels of their own.
# A JPEG file with several pictures (MPO) is read as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # chunks of a PNG that can hold an orientation
_SLAB = 1 << 20  # pixels that are scaled at a time
_ADDRESS = re.compile(r" ?<[^<>]* at 0x[0-9a-fA-F]+>")  # how Python shows an object that has no text of its own

# What else is found where an image should be, by its first bytes.
_OTHERS = (
    (b"version https://git-lfs.github.com/spec", "a Git LFS pointer, not the image itself (run `git lfs pull`)"),
    (b"/annex/objects/", "a git-annex pointer, not the image itself (run `git annex get`)"),
    (b"<!doctype html", "an HTML page, as a failed download leaves it"),
    (b"<html", "an HTML page, as a failed download leaves it"),
    (b"<svg", "an SVG drawing (convert it to PNG)"),
    (b"<?xml", "an XML document, such as an SVG drawing or the error of an object store"),
    (b"%pdf", "a PDF document (convert its pages to PNG)"),
    (b"%!ps", "a PostScript document (convert it to PNG)"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document (convert it to PNG)"),
    (b"\xd7\xcd\xc6\x9a", "a WMF drawing (convert it to PNG)"),
    (b"8bps", "a Photoshop document (convert it to PNG)"),
    (b"\x93numpy", "a NumPy array (index arrays with alray.index_arrays)"),
    (b"\x1f\x8b", "a gzip file (unpack it)"),
    (b"pk\x03\x04", "a zip file (unpack it)"),
)


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
INTEGERS = Depth("integers of 32 bits or with a sign", None)
FLOATS = Depth("floating-point numbers", (0, 1), whole=False)


@dataclass(frozen=True)
class Wide:
    """The values of an image with more than 8 bits per channel. low, high: the smallest and largest (of COLOUR16 in
    steps of 256)."""

    depth: Depth
    low: float
    high: float


@dataclass(frozen=True)
class Seen:
    """What decoding an image showed. orientation: 1 to 8 as in EXIF, None where its EXIF data cannot be read; frames:
    how many there are; transparent, constant: whether pixels are transparent, or all of one colour; wide: None for 8
    bits per channel."""

    orientation: int | None
    frames: int
    transparent: bool
    constant: bool
    wide: Wide | None


def decode(data: bytes, key: str, pixel_range: Range | None = None) -> Image.Image:
    """Decode bytes to an RGB image with 8 bits per channel.

    pixel_range: declared range of pixels with more than 8 bits; values outside of it become black or white. Raises
    ImageError, which names the key and the reason, for all bytes that cannot be decoded, and for pixels of unknown
    range.
    """
    with opened(data, key) as image:
        turn = _TURNS.get(orientation(image, data) or 1)
        rgb, _ = _rgb(image, pixel_range)
        return rgb if turn is None else rgb.transpose(turn)


def inspect(data: bytes, key: str, pixel_range: Range | None = None) -> Seen:
    """Decode an image as `decode` does, and say what was found. Raises ImageError."""
    with opened(data, key) as image:
        place, frames = orientation(image, data), _frames(image)
        rgb, wide = _rgb(image, pixel_range)
        constant = all(low == high for low, high in _extrema(rgb))
        return Seen(place, frames, _transparent(image), constant, wide)


def shown_size(data: bytes, key: str) -> tuple[tuple[int, int], bool]:
    """The width and height of an image as `decode` returns it; and whether its orientation turns or mirrors it without
    changing them.

    Decodes pixels only where the header does not tell. Raises ImageError.
    """
    with opened(data, key) as image:
        stored, place = image.size, orientation(image, data) or 1
        size = stored[::-1] if place >= 5 else stored
        return size, place in _TURNS and (place < 5 or stored[0] == stored[1])


@contextmanager
def opened(data: bytes, key: str, kind: str = BROKEN) -> Iterator[Image.Image]:
    """Open an image of a known format. Whatever goes wrong inside becomes an ImageError 'key: kind: reason'."""
    if not data:
        raise ImageError(f"{key}: {kind}: it has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            yield image
    except ImageError:
        raise
    except RangeError as error:
        raise ImageError(f"{key}: {UNKNOWN_RANGE}: {error}") from None
    except Exception as error:  # decoders raise many types, from SyntaxError to struct.error
        raise ImageError(f"{key}: {kind}: {_why(error, data)}") from error


@lru_cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow knows: AVIF is missing in versions before 11.3."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _why(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        start = data[:512].lstrip().lower()
        found = next((words for first, words in _OTHERS if start.startswith(first)), "")
        if data[4:8] == b"ftyp":
            found = "a HEIF picture or a video (convert it to JPEG or PNG)"
        return f"expected an image ({', '.join(_formats())}), got {found or _beginning(data)} ({len(data)} bytes)"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: {str(error).partition(', could be')[0]}; make the image smaller"
    text = _ADDRESS.sub("", str(error)).strip() or type(error).__name__
    return f"{text} ({len(data)} bytes)"


def _beginning(data: bytes) -> str:
    if not any(data):
        return "only zero bytes"
    first = data[:24]
    text = first.decode("ascii", "replace")
    return f"a text that begins with {text!r}" if text.isprintable() else f"bytes that begin with {first[:8].hex(' ')}"


def orientation(image: Image.Image, data: bytes) -> int | None:
    """How an opened image must be turned, 1 to 8 as in EXIF; None where the EXIF data cannot be read."""
    if image.format == "TIFF":
        image.load()  # Pillow turns TIFF files itself, and these only
        return 1
    if image.format == "PNG" and not any(chunk in data for chunk in _PNG_EXIF):
        return 1  # asking Pillow would decode all pixels
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as many types as decoders raise
        return None
    return found if found in _TURNS else 1


def _frames(image: Image.Image) -> int:
    """The number of frames. The further pictures of a JPEG file are previews and the like, and do not count."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return 1
    return int(getattr(image, "n_frames", 1))


def _transparent(image: Image.Image) -> bool:
    if image.mode in ("RGBA", "LA", "PA"):
        return _extrema(image)[-1][0] < 255
    return "transparency" in image.info


def _rgb(image: Image.Image, pixel_range: Range | None) -> tuple[Image.Image, Wide | None]:
    """The image as RGB, not yet turned, and its values where they have more than 8 bits."""
    depth = _depth(image)
    image.load()
    if depth is not None and not depth.cut:
        values = np.asarray(image)
        if depth is INTEGERS and _unsigned(image):
            values = values.view(np.uint32)
        wide = _wide(depth, values)
        return Image.fromarray(_grey(values, wide, pixel_range)).convert("RGB"), wide
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if depth is None:
        return rgb, None
    if pixel_range not in (None, depth.range):
        raise RangeError(f"{depth.name} is read with the range 0 to 65535 only; convert it to 8 bits per channel")
    low, high = zip(*_extrema(rgb), strict=True)
    return rgb, Wide(depth, 256.0 * min(low), 256.0 * max(high))


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """The smallest and the largest value of each channel of an image with several."""
    found: Any = image.getextrema()
    return list(found)


def _depth(image: Image.Image) -> Depth | None:
    """What kind of pixels the file has; None for 8 bits per channel or fewer. The image is not loaded yet, because
    `tile` names the layout of the file's pixels until then."""
    tiles: Any = getattr(image, "tile", ())
    layout = str([tile[3] for tile in tiles])
    if image.mode == "F":
        return FLOATS
    if image.mode == "I":  # other formats than TIFF are scaled to 16 bits by Pillow
        return INTEGERS if image.format == "TIFF" else GREY16
    if image.mode.startswith("I;16"):
        return GREY12 if "I;12" in layout else GREY16
    return COLOUR16 if ";16" in layout else None


def _unsigned(image: Image.Image) -> bool:
    tags: Any = getattr(image, "tag_v2", {})
    return tuple(tags.get(339, (1,))) == (1,)  # SampleFormat


def _wide(depth: Depth, values: npt.NDArray[Any]) -> Wide:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{bad:,} of {values.size:,} pixels are not finite")
    return Wide(depth, low, high)


def _grey(values: npt.NDArray[Any], wide: Wide, pixel_range: Range | None) -> npt.NDArray[np.uint8]:
    """Values (h, w) as 8 bits. Each of the 256 levels stands for an equal part of the range."""
    known, name = pixel_range or wide.depth.range, f"{wide.depth.name} from {spoken((wide.low, wide.high))}"
    if known is None:
        raise RangeError(f"{name} have no range of their own; {declare(wide)}")
    if pixel_range is None and (wide.low < known[0] or wide.high > known[1]):
        raise RangeError(f"{name} do not fit into the range {spoken(known)}; {declare(wide)}")
    grey = scaled(values, known, wide.depth.whole)
    if pixel_range is None and wide.low < wide.high and not grey.any():
        raise RangeError(f"{name} would become black everywhere; {declare(wide)}")
    return grey


def scaled(values: npt.NDArray[Any], known: Range, whole: bool) -> npt.NDArray[np.uint8]:
    """Values (h, w) in a range as 0 to 255; what is outside of the range becomes 0 or 255. Of 16 bits with their whole
    range it is the upper byte."""
    low, width = known[0], known[1] - known[0] + whole
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _SLAB // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        grey[start : start + rows] = np.clip(np.floor((part - low) * 256 / width), 0, 255)
    return grey


def declare(wide: Wide) -> str:
    """Advice to declare a range that these values fit into: that of 8 bits or more if they are integers."""
    white = max(255, (1 << int(wide.high).bit_length()) - 1) if wide.depth.whole and wide.low >= 0 else wide.high
    text = option((min(0.0, wide.low), white))
    return f"declare the range of the data set, as in {text} (in a run {text.replace('--', '--data.')})"


def option(values: Range) -> str:
    """A range as it is declared on the command line."""
    return f"--pixel-range {_number(values[0])} {_number(values[1])}"


def spoken(values: Range) -> str:
    """A range in words."""
    return f"{_number(values[0])} to {_number(values[1])}"


def _number(value: float) -> str:
    """A number in as few digits as it needs."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
