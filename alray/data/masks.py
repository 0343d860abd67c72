"""Masks of a segmentation data set: find them, and decode their bytes to channels.

A mask is a PNG (grey or palette) with one class number per pixel. Masks are in a column of the Parquet files that hold
the images, or in a folder where each file has its image's name with another ending. A pixel of a decoded mask is the
number of an output channel of the network, or VOID. Each class has one channel, except the ignored class, which has
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.config import DataConfig
from alray.data.catalog import Catalog, CatalogError
from alray.data.decode import opened, orientation
from alray.data.fetch import ImageError, all_found, fetch_each
from alray.data.sources.folder import FOLDER
from alray.data.sources.scan import is_image_name
from alray.data.sources.source import Source
from alray.spelling import spellings
from alray.store import StoreError, join, read_bytes

VOID = 255  # in a decoded mask: a pixel that is left out of losses and metrics
_MODES = ("L", "P", "I", "I;16", "I;16B", "1")
_MOST = 255  # channels: together with VOID they use all 8-bit numbers
_WHITE = 255
_SHOWN = 5  # numbers and colours in a message

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Masks:
    """Finds and decodes the masks of a catalog's rows. The object is small and picklable."""

    source: Source  # the kind of source that the images are in
    column: str  # the column of the masks in Parquet files
    root: str  # the folder of masks; empty for Parquet
    image_suffix: str  # the end of an image's name that `suffix` replaces; empty: its extension
    suffix: str  # the end of a mask's name
    ignore: int  # the class number of pixels that become VOID
    classes: tuple[str, ...]  # names by class number; the ignored number may be one of them
    drawn: Mapping[str, str] = field(default_factory=dict, hash=False)  # by key: the URIs of masks that people drew

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes by channel, without the ignored class."""
        return tuple(name for number, name in enumerate(self.classes) if number != self.ignore)

    @property
    def num_classes(self) -> int:
        """The number of channels."""
        return len(self.names)

    @property
    def in_source(self) -> bool:
        """Whether the source can have masks: in a folder, or beside the images in files with columns."""
        return bool(self.root) or self.source.has_columns

    def fetch(self, references: pa.Table) -> list[bytes]:
        """The encoded mask of each image reference (key, uri, offset, size), in their order. Raises ImageError."""
        return all_found(self.fetch_each(references))

    def fetch_each(self, references: pa.Table) -> list[bytes | ImageError]:
        """The encoded mask of each image reference, or the reason why there is none."""
        keys = references["key"].to_pylist()
        in_files = np.array([bool(self.root) or key in self.drawn for key in keys], bool)
        found: list[bytes | ImageError] = [ImageError(f"{key}: no mask: nobody has drawn one") for key in keys]
        for at, source in ((np.flatnonzero(in_files), FOLDER), (np.flatnonzero(~in_files), self.source)):
            if not len(at) or not (source.has_columns or in_files[at[0]]):
                continue
            part = references.take(pa.array(at))
            uris = pa.array([self.uri(keys[one]) for one in at.tolist()]) if in_files[at[0]] else part["uri"]
            table = pa.table({
                "key": part["key"], "uri": uris, "offset": part["offset"],
                "size": pa.nulls(len(at), pa.int64()),  # the size of the image says nothing about its mask
            })  # fmt: skip
            for one, item in zip(at.tolist(), fetch_each(table, source, self.column), strict=True):
                found[one] = self._in_other_form(item, keys[one]) if isinstance(item, ImageError) else item
        return found

    def _in_other_form(self, error: ImageError, key: str) -> bytes | ImageError:
        """The mask in the folder of masks whose name has its accents in another Unicode form; else the error."""
        if self.root and not key.isascii() and key not in self.drawn:
            for name in spellings(self.name(key))[1:]:
                with suppress(OSError, StoreError):
                    return read_bytes(join(self.root, name))
        return _no_mask(error, key)

    def uri(self, key: str) -> str:
        """The path or URI of an image's mask: the one that people drew, else the one in the folder of masks."""
        return self.drawn.get(key) or join(self.root, self.name(key))

    def name(self, key: str) -> str:
        """The name of an image's mask."""
        return self._stem(key) + self.suffix

    def _stem(self, key: str) -> str:
        if self.image_suffix:
            return key.removesuffix(self.image_suffix)
        name = key.rpartition("/")[2]
        stem, dot, extension = name.rpartition(".")
        return key[: len(key) - len(dot + extension)] if stem and is_image_name(f"image.{extension}") else key

    def decode(self, data: bytes, key: str) -> Mask:
        """Decode a mask to (h, w) uint8: channels and VOID.

        Raises ImageError if the data are not a PNG of class numbers or if a number is not a class.
        """
        numbers, advice = _class_numbers(data, key)
        channels = self._channels[np.clip(numbers, -1, 256)]
        bad = channels < 0
        if bad.any():
            found, pixels = np.unique(numbers[bad], return_counts=True)
            text = ", ".join(
                f"{number} in {count:,} pixels" for number, count in zip(found[:_SHOWN], pixels[:_SHOWN], strict=True)
            )
            more = f" and {len(found) - _SHOWN:,} other numbers" if len(found) > _SHOWN else ""
            if found.tolist() == [_WHITE] and not numbers[~bad].any():
                advice = f"; a mask of black and white has to hold 1, not {_WHITE}, for the second class"
            raise ImageError(
                f"{key}: mask: expected 0 to {len(self.classes) - 1} or {self.ignore} (void), got {text}{more}{advice}"
            )
        return channels.astype(np.uint8)

    @property
    def _channels(self) -> npt.NDArray[np.int16]:
        """(258,) the channel of the numbers 0 to 256, and of -1 at the last index; -1 for a number that is not a
        class."""
        channels = np.full(258, -1, np.int16)
        counted = [number for number in range(len(self.classes)) if number != self.ignore]
        channels[counted] = np.arange(len(counted))
        channels[self.ignore] = VOID
        return channels


def _no_mask(error: ImageError, key: str) -> ImageError:
    """The error of reading a mask, worded for masks. "changed image" means null bytes here: the expected size of a mask
    is unknown, so it cannot have changed."""
    kind, _, details = str(error).removeprefix(f"{key}: ").partition(": ")
    return ImageError(f"{key}: no mask: {'its bytes are null' if kind == 'changed image' else details}")


def _class_numbers(data: bytes, key: str) -> tuple[npt.NDArray[np.int32], str]:
    """The numbers (h, w) of a mask, and what a user should know where they are no classes."""
    if not data:
        raise ImageError(f"{key}: no mask: it has no bytes")
    with opened(data, key, "mask: cannot be decoded") as image:
        kind, mode, turn = image.format, image.mode, orientation(image, data)
        pixels = np.asarray(image)
    if kind != "PNG":  # other formats lose or change numbers
        raise ImageError(f"{key}: mask: expected a PNG of class numbers, got {kind}")
    if mode not in _MODES:
        raise ImageError(f"{key}: mask: expected one class number per pixel, got {_colours(pixels, mode)}")
    if turn not in (None, 1):
        raise ImageError(
            f"{key}: mask: expected no EXIF orientation, got {turn}; save the mask upright, without EXIF data"
        )
    advice = "; the numbers of a mask with a palette are places in its palette" if mode == "P" else ""
    return pixels.astype(np.int32), advice


def _colours(pixels: npt.NDArray[np.uint8], mode: str) -> str:
    """A mask of colours in words, with advice."""
    if mode in ("RGB", "RGBA") and (pixels[..., :1] == pixels[..., :3]).all():
        return f"an image of mode {mode} with three equal channels; save it as grey (mode L)"
    found = np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)
    few = ", ".join(str(tuple(colour)) for colour in found[:_SHOWN].tolist())
    return (
        f"an image of mode {mode} with {len(found):,} colours ({few}{', ...' if len(found) > _SHOWN else ''}); replace "
        "each colour by the number of its class"
    )


def check_size(mask: Mask, size: tuple[int, int], key: str) -> None:
    """Raise ImageError unless a mask (h, w) has the width and height of its image in pixels, as it is shown."""
    height, width = mask.shape
    if (width, height) != size:
        turned = (height, width) == size
        advice = " (masks belong to the image as its EXIF orientation shows it, not as it is stored)" if turned else ""
        raise ImageError(
            f"{key}: mask: expected the image's {size[0]} x {size[1]} pixels, got {width} x {height}{advice}"
        )


def masks_of(config: DataConfig, catalog: Catalog) -> Masks:
    """The masks of a catalog as configured. config.classes, if given, replace the catalog's classes.

    Raises CatalogError if the number of classes does not fit into 8 bits.
    """
    masks = Masks(
        catalog.source, config.mask_column, config.mask_root, config.image_suffix, config.mask_suffix,
        config.ignore_label, config.classes or catalog.classes, catalog.masks,
    )  # fmt: skip
    if not 1 <= masks.num_classes <= _MOST:
        raise CatalogError(
            f"{catalog.uri}: expected 1 to {_MOST} classes besides void in 8-bit masks, got {masks.num_classes} of "
            f"{len(masks.classes)} (number {masks.ignore} is void)"
        )
    return masks
