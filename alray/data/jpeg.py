"""JPEG files by libjpeg-turbo: the pixels of Pillow in about half of its CPU seconds (`benchmarks/bench_decode.py`).

Pillow decodes what this does not: other colours than RGB, damaged files, and everything where simplejpeg is missing.
"""

from __future__ import annotations

from PIL import Image

try:
    from simplejpeg import decode_jpeg
except ImportError:  # there is no wheel for some systems
    decode_jpeg = None


def decoded(image: Image.Image, data: bytes) -> Image.Image | None:
    """The RGB pixels of an opened image, whose bytes are `data`; None where Pillow has to decode it. Pillow has read
    the header, so that files of too many pixels were refused already."""
    if decode_jpeg is None or image.format != "JPEG" or image.mode != "RGB":
        return None
    try:
        return Image.fromarray(decode_jpeg(data, "RGB", strict=True))
    except ValueError:  # a damaged file: Pillow says what is wrong, or reads it in spite of it
        return None
