"""Masks of a segmentation data set: where they are, whether they can be used, and bytes to channels.

A mask is a PNG with one class number per pixel (grey or palette). It lies in a column of the Parquet files that hold
the images, or in a folder that has the images' names with another ending. Decoded, a pixel is the number of a channel
of the network, one for each class that counts, or VOID: a class whose number is ignored has no channel.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alray.config import DataConfig, fingerprint
from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import ImageError, all_found, fetch_each, processors
from alray.data.sources.folder import FOLDER
from alray.data.sources.scan import is_image_name, list_files
from alray.data.sources.source import Source
from alray.store import Store, content_hash, filesystem, join

VOID = 255  # in a decoded mask: pixels that do not count
_MODES = ("L", "P", "I", "I;16", "I;16B", "1")
_MOST = 255  # channels: with VOID the numbers of 8 bits
_READS = 16  # reads wait for a disk or a network, not for the processor
_CHECKED = 256  # masks checked by one thread before it takes the next
_SHOWN = 5

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Masks:
    """How to get the masks of a catalog's rows: small and picklable."""

    source: Source  # the kind of source that the images are in
    column: str  # of Parquet files
    root: str  # folder of masks; empty for Parquet
    image_suffix: str  # what is cut off an image's name; empty: its extension
    suffix: str  # what a mask's name has there
    ignore: int  # the number, in a mask, of pixels that do not count
    classes: tuple[str, ...]  # by their numbers in a mask; the ignored number may be one of them

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that count, by channel."""
        return tuple(name for number, name in enumerate(self.classes) if number != self.ignore)

    @property
    def num_classes(self) -> int:
        """How many count."""
        return len(self.names)

    def fetch(self, references: pa.Table) -> list[bytes]:
        """The encoded masks of image references (key, uri, offset, size), in their order. Raises ImageError."""
        return all_found(self.fetch_each(references))

    def fetch_each(self, references: pa.Table) -> list[bytes | ImageError]:
        """The encoded mask of each reference, or why there is none."""
        keys = references["key"].to_pylist()
        uris = [self.uri(key) for key in keys] if self.root else references["uri"]
        table = pa.table({
            "key": references["key"], "uri": uris, "offset": references["offset"],
            "size": pa.nulls(len(keys), pa.int64()),  # that of an image is known, not that of its mask
        })  # fmt: skip
        found = fetch_each(table, FOLDER if self.root else self.source, self.column)
        return [
            _no_mask(item, key) if isinstance(item, ImageError) else item for item, key in zip(found, keys, strict=True)
        ]

    def uri(self, key: str) -> str:
        """Where the mask of an image is, in a folder of masks."""
        return join(self.root, self._stem(key) + self.suffix)

    def _stem(self, key: str) -> str:
        if self.image_suffix:
            return key.removesuffix(self.image_suffix)
        name = key.rpartition("/")[2]
        stem, dot, extension = name.rpartition(".")
        return key[: len(key) - len(dot + extension)] if stem and is_image_name(f"image.{extension}") else key

    def decode(self, data: bytes, key: str) -> Mask:
        """(h, w) uint8 channels and VOID. Raises ImageError for something else than a PNG of class numbers, and for
        numbers that are no class."""
        numbers = _class_numbers(data, key).astype(np.int32)
        channels = self._channels[np.clip(numbers, -1, 256)]
        bad = channels < 0
        if bad.any():
            raise ImageError(
                f"{key}: mask: expected 0 to {len(self.classes) - 1} or {self.ignore} (void), got {numbers[bad][0]}"
            )
        return channels.astype(np.uint8)

    @property
    def _channels(self) -> npt.NDArray[np.int16]:
        """The channel of every number from 0 to 256, and of -1 at the end: -1 where the number is no class."""
        channels = np.full(258, -1, np.int16)
        counted = [number for number in range(len(self.classes)) if number != self.ignore]
        channels[counted] = np.arange(len(counted))
        channels[self.ignore] = VOID
        return channels


def _no_mask(error: ImageError, key: str) -> ImageError:
    """In the words of masks. A size that nobody knows cannot have changed: then the bytes are null."""
    kind, _, details = str(error).removeprefix(f"{key}: ").partition(": ")
    return ImageError(f"{key}: no mask: {'its bytes are null' if kind == 'changed image' else details}")


def _class_numbers(data: bytes, key: str) -> npt.NDArray[Any]:
    if not data:
        raise ImageError(f"{key}: no mask: it has no bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, mode = image.format, image.mode
            pixels = np.asarray(image)
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise ImageError(f"{key}: mask: cannot be decoded: {str(error) or type(error).__name__}") from error
    if kind != "PNG":  # others lose or change numbers
        raise ImageError(f"{key}: mask: expected a PNG of class numbers, got {kind}")
    if mode not in _MODES:
        raise ImageError(f"{key}: mask: expected one number per pixel, got an image of mode {mode}")
    return pixels


def check_size(mask: Mask, size: tuple[int, int], key: str) -> None:
    """Raise ImageError unless a mask (h, w) has the width and height of its image in pixels."""
    height, width = mask.shape
    if (width, height) != size:
        raise ImageError(f"{key}: mask: expected the image's {size[0]} x {size[1]} pixels, got {width} x {height}")


def masks_of(config: DataConfig, catalog: Catalog) -> Masks:
    """The masks of a catalog as configured; config.classes go before the catalog's. Raises CatalogError where there can
    be none."""
    if not config.mask_root and not catalog.source.has_columns:
        raise CatalogError(
            f"data.mask_root: expected a folder of masks for a source of format {catalog.format}, got none (only "
            "Parquet files can hold masks beside the images)"
        )
    masks = Masks(
        catalog.source, config.mask_column, config.mask_root, config.image_suffix, config.mask_suffix,
        config.ignore_label, config.classes or catalog.classes,
    )  # fmt: skip
    if not 1 <= masks.num_classes <= _MOST:
        raise CatalogError(
            f"{catalog.uri}: expected 1 to {_MOST} classes that count in 8-bit masks, got {masks.num_classes} of "
            f"{len(masks.classes)} (number {masks.ignore} is void)"
        )
    return masks


def with_masks(config: DataConfig, catalog: Catalog, rows: Rows, fine: Store) -> Catalog:
    """The catalog with its masks in its fingerprint; each of these rows has one that can be used.

    Masks are read once: in `fine` it is noted which were found to be. Raises CatalogError.
    """
    masks = masks_of(config, catalog)
    sizes = mask_sizes(masks, catalog)
    check_masks(masks, catalog, rows, sizes)
    catalog = annotated(catalog, masks, sizes)
    mark = content_hash(rows.tobytes())
    note = f"{fingerprint([catalog.fingerprint, masks.classes, masks.ignore, mark])}.json"
    if config.check == "decode" and not fine.has(note):
        check_pixels(masks, catalog, rows)
        fine.write_json(note, {"catalog": catalog.uri, "masks": len(rows)})
    return catalog


def mask_sizes(masks: Masks, catalog: Catalog) -> Rows:
    """(n,) the bytes of each row's mask file, or of the piece of a Parquet column that its mask lies in; -1 where there
    is no file. No mask is read. Raises CatalogError where no row has a mask."""
    references = catalog.references(np.arange(len(catalog), dtype=np.int64))
    if not masks.root:
        return _piece_sizes(masks.column, references)
    files = list_files(masks.root)
    sizes = dict(zip(files["uri"].to_pylist(), files["size"].to_pylist(), strict=True))
    found = [sizes.get(masks.uri(key)) for key in references["key"].to_pylist()]
    return np.array([-1 if size is None else size for size in found], np.int64)


def _piece_sizes(column: str, references: pa.Table) -> Rows:
    places = references["uri"].combine_chunks().dictionary_encode()
    file_of, offsets = places.indices.to_numpy(), references["offset"].to_numpy()
    sizes = np.full(len(references), -1, np.int64)
    with ThreadPoolExecutor(_READS) as pool:
        for number, (ends, pieces) in enumerate(pool.map(partial(_pieces, column), places.dictionary.to_pylist())):
            here = np.flatnonzero(file_of == number)
            sizes[here] = np.append(pieces, -1)[np.searchsorted(ends, offsets[here], side="right")]
    return sizes


def _pieces(column: str, uri: str) -> tuple[Rows, Rows]:
    """Where the row groups of a Parquet file end, and the bytes that each has of the column."""
    fs, path = filesystem(uri)
    with pq.ParquetFile(path, filesystem=fs) as file:
        names, metadata = file.schema_arrow.names, file.metadata
        if column not in names:
            raise CatalogError(f"{uri}: no column {column!r} for the masks; its columns are {', '.join(names)}")
        leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] == column]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
        return np.cumsum([group.num_rows for group in groups]), np.array(sizes, np.int64)


def annotated(catalog: Catalog, masks: Masks, sizes: Rows) -> Catalog:
    """The catalog as data of a run: another annotation of the same images has another fingerprint (images+masks)."""
    column = "" if masks.root else masks.column
    mark = content_hash(repr(column).encode() + sizes.tobytes())
    return replace(catalog, fingerprint=f"{catalog.fingerprint}+{mark}")


def check_masks(masks: Masks, catalog: Catalog, rows: Rows, sizes: Rows) -> None:
    """Raises CatalogError that counts rows without a mask and names the first; no mask is read."""
    keys = catalog.keys(rows).to_pylist() if masks.root else []
    strange = [key for key in keys if not key.endswith(masks.image_suffix)]
    if strange:
        raise CatalogError(
            f"data.image_suffix: expected the images' names to end with {masks.image_suffix}, got {len(strange)} of "
            f"{len(rows)} that do not, first {strange[0]}"
        )
    missing = rows[sizes[rows] < 0]
    if len(missing):
        key = catalog.keys(missing[:1])[0].as_py()
        where, expected = (masks.root, masks.uri(key)) if masks.root else (catalog.uri, "a row of its Parquet file")
        raise CatalogError(
            f"{where}: {len(missing)} of {len(rows)} images have no mask, first {key}: expected {expected}"
        )


def check_pixels(masks: Masks, catalog: Catalog, rows: Rows) -> None:
    """Open every mask once, on all processors. Raises CatalogError that counts those that cannot be decoded, have
    numbers that are no class, another size than their image or nothing but void, and names the first."""
    references = catalog.references(rows).sort_by([("uri", "ascending"), ("offset", "ascending")])
    chunks = [references.slice(start, _CHECKED) for start in range(0, len(references), _CHECKED)]
    with ThreadPoolExecutor(processors()) as workers:
        broken = sorted(chain.from_iterable(workers.map(partial(_broken, masks, catalog), chunks)))
    if broken:
        first = [f"  {error}" for _, error in broken[:_SHOWN]]
        raise CatalogError("\n".join([f"{len(broken)} of {len(rows)} masks cannot be used; the first:", *first]))


def _broken(masks: Masks, catalog: Catalog, chunk: pa.Table) -> list[tuple[int, str]]:
    """Row and reason of the masks that cannot be used."""
    images = fetch_each(chunk, catalog.source, catalog.image_column)
    found = []
    for row, key, image, data in zip(
        chunk["row"].to_pylist(), chunk["key"].to_pylist(), images, masks.fetch_each(chunk), strict=True
    ):
        try:
            _check_one(masks, key, image, data)
        except ImageError as error:
            found.append((row, str(error)))
    return found


def _check_one(masks: Masks, key: str, image: bytes | ImageError, data: bytes | ImageError) -> None:
    encoded, encoded_mask = all_found((image, data))
    mask = masks.decode(encoded_mask, key)
    try:
        with Image.open(io.BytesIO(encoded)) as header:
            size = header.size
    except Exception as error:  # as in `fetch.decode`
        raise ImageError(f"{key}: broken image: {str(error) or type(error).__name__}") from error
    check_size(mask, size, key)
    if (mask == VOID).all():
        raise ImageError(f"{key}: mask: all its pixels are void ({masks.ignore})")
