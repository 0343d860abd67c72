"""From the bytes of an image file to the picture that a person sees: RGB with 8 bits per channel, turned upright.

Only formats of pixels are read. The orientation in the EXIF data is applied. Of several frames the first is used.
Transparency is dropped, and the colours beneath it are kept. Colour profiles are not applied. Pixels of more than 8
bits need a range, that is the values that become black and white: see `Depth`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from alray.data.depth import (
    COLOUR16,
    FLOATS,
    GREY12,
    GREY16,
    INTEGERS,
    Depth,
    Range,
    RangeError,
    Wide,
    grey_of,
    wide_of,
)
from alray.data.fetch import ImageError
from alray.data.jpeg import decoded
from alray.data.other_files import why_not_decoded

DECODING = 2  # part of the fingerprints of runs and features: raise it where the same bytes give other pixels
BROKEN, UNKNOWN_RANGE = "broken image", "unknown range"  # kinds of ImageError

# Pillow also reads documents and drawings (EPS, PDF, WMF), which call other programs or have no pixels of their own.
# A JPEG file with several pictures (MPO) is read as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
_ORIENTATION, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 262, 339  # tags of EXIF and TIFF
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
        rgb, _ = _rgb(image, data, pixel_range)
        turn = _TURNS.get(orientation(image, data) or 1)
        return rgb if turn is None else rgb.transpose(turn)


def inspect(data: bytes, key: str, pixel_range: Range | None = None) -> Seen:
    """Decode an image as `decode` does, and say what was found. Raises ImageError."""
    with opened(data, key) as image:
        frames = _frames(image)
        rgb, wide = _rgb(image, data, pixel_range)
        constant = all(low == high for low, high in _extrema(rgb))
        return Seen(orientation(image, data), frames, _transparent(image), constant, wide)


def shown_size(data: bytes, key: str) -> tuple[tuple[int, int], bool]:
    """The width and height of an image as `decode` returns it; and whether its orientation turns or mirrors it without
    changing them.

    Decodes pixels only where the header does not tell. Raises ImageError.
    """
    with opened(data, key) as image:
        place = orientation(image, data) or 1
        if image.format == "TIFF":
            image.load()  # Pillow turns TIFF files itself, and these only
        size = image.size[::-1] if place >= 5 and image.format != "TIFF" else image.size
        return size, place in _TURNS and (place < 5 or size[0] == size[1])


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
        raise ImageError(f"{key}: {kind}: {why_not_decoded(error, data, _formats())}") from error


@lru_cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow knows: AVIF is missing in versions before 11.3."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def orientation(image: Image.Image, data: bytes) -> int | None:
    """How an opened image must be turned, 1 to 8 as in EXIF; None where the EXIF data cannot be read. An image that
    Pillow turned while loading it (TIFF) has 1."""
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


def _rgb(image: Image.Image, data: bytes, pixel_range: Range | None) -> tuple[Image.Image, Wide | None]:
    """The image as RGB, not yet turned, and its values where they have more than 8 bits."""
    if (fast := decoded(image, data)) is not None:
        return fast, None
    depth = _depth(image)
    image.load()
    if depth is not None and not depth.cut:
        values = np.asarray(image)
        if depth is INTEGERS and _tag(image, _SAMPLE_FORMAT, 1) == 1:  # Pillow reads unsigned numbers as signed
            values = values.view(np.uint32)
        wide = wide_of(depth, values)
        grey = grey_of(values, wide, pixel_range)
        white_is_zero = _tag(image, _PHOTOMETRIC, 1) == 0  # Pillow minds it in TIFF files of 8 bits only
        return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB"), wide
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


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A tag of a TIFF file, its first value where it has several; the default where there is none."""
    tags: Any = getattr(image, "tag_v2", {})
    found = tags.get(tag, default)
    return int(found[0] if isinstance(found, tuple) else found)
