"""Say in words why the bytes of a file are not an image that can be decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

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
    (b"\x93numpy", "a NumPy array (index arrays with alray.data.catalog.index_arrays)"),
    *(
        (first, f"a {name} file that is damaged or of a kind that Pillow does not read")
        for first, name in (
            (b"ii*\0", "TIFF"),
            (b"mm\0*", "TIFF"),
            (b"\xff\xd8\xff", "JPEG"),
            (b"\x89png", "PNG"),
            (b"gif8", "GIF"),
        )
    ),
    (b"\x1f\x8b", "a gzip file (unpack it)"),
    (b"pk\x03\x04", "a zip file (unpack it)"),
)


def why_not_decoded(error: Exception, data: bytes, formats: Sequence[str]) -> str:
    """The reason for an error of Pillow. data: the file; formats: the names of those that can be read."""
    if isinstance(error, UnidentifiedImageError):
        start = data[:512].lstrip().lower()
        found = next((words for first, words in _OTHERS if start.startswith(first)), "")
        if data[4:8] == b"ftyp":
            found = "a HEIF picture or a video (convert it to JPEG or PNG)"
        return f"expected an image ({', '.join(formats)}), got {found or _beginning(data)} ({len(data)} bytes)"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: {str(error).partition(', could be')[0]}; make the image smaller"
    text = _ADDRESS.sub("", str(error)).strip()
    text = text if text not in ("", "None") else type(error).__name__
    return f"{text} ({len(data)} bytes)"


def _beginning(data: bytes) -> str:
    if not any(data):
        return "only zero bytes"
    first = data[:24]
    text = first.decode("ascii", "replace")
    return f"a text that begins with {text!r}" if text.isprintable() else f"bytes that begin with {first[:8].hex(' ')}"
