"""Masks of a segmentation data set: find them, check that they can be used, and decode their bytes to channels.

A mask is a PNG (grey or palette) with one class number per pixel. Masks are in a column of the Parquet files that hold
the images, or in a folder where each file has its image's name with another ending. A pixel of a decoded mask is the
number of an output channel of the network, or VOID. Each class has one channel, except the ignored class, which has
none.
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

VOID = 255  # in a decoded mask: a pixel that is left out of losses and metrics
_MODES = ("L", "P", "I", "I;16", "I;16B", "1")
_MOST = 255  # channels: together with VOID they use all 8-bit numbers
_READS = 16  # reads wait for a disk or a network, not for a CPU
_CHECKED = 256  # masks that one thread checks before it takes the next ones
_SHOWN = 5
_CHECK = "checked.json"  # alone in its directory, because runs that start together all write one

Rows = npt.NDArray[np.int64]
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes by channel, without the ignored class."""
        return tuple(name for number, name in enumerate(self.classes) if number != self.ignore)

    @property
    def num_classes(self) -> int:
        """The number of channels."""
        return len(self.names)

    def fetch(self, references: pa.Table) -> list[bytes]:
        """The encoded mask of each image reference (key, uri, offset, size), in their order. Raises ImageError."""
        return all_found(self.fetch_each(references))

    def fetch_each(self, references: pa.Table) -> list[bytes | ImageError]:
        """The encoded mask of each image reference, or the reason why there is none."""
        keys = references["key"].to_pylist()
        uris = [self.uri(key) for key in keys] if self.root else references["uri"]
        table = pa.table({
            "key": references["key"], "uri": uris, "offset": references["offset"],
            "size": pa.nulls(len(keys), pa.int64()),  # the size of the image says nothing about its mask
        })  # fmt: skip
        found = fetch_each(table, FOLDER if self.root else self.source, self.column)
        return [
            _no_mask(item, key) if isinstance(item, ImageError) else item for item, key in zip(found, keys, strict=True)
        ]

    def uri(self, key: str) -> str:
        """The path or URI of an image's mask in the folder of masks."""
        return join(self.root, self._stem(key) + self.suffix)

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


def _class_numbers(data: bytes, key: str) -> npt.NDArray[Any]:
    if not data:
        raise ImageError(f"{key}: no mask: it has no bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, mode = image.format, image.mode
            pixels = np.asarray(image)
    except Exception as error:  # decoders raise many types, from SyntaxError to struct.error
        raise ImageError(f"{key}: mask: cannot be decoded: {str(error) or type(error).__name__}") from error
    if kind != "PNG":  # other formats lose or change numbers
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
    """The masks of a catalog as configured. config.classes, if given, replace the catalog's classes.

    Raises CatalogError if the source cannot have masks or the number of classes does not fit into 8 bits.
    """
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
            f"{catalog.uri}: expected 1 to {_MOST} classes besides void in 8-bit masks, got {masks.num_classes} of "
            f"{len(masks.classes)} (number {masks.ignore} is void)"
        )
    return masks


def with_masks(config: DataConfig, catalog: Catalog, rows: Rows, fine: Store) -> Catalog:
    """Check that each of these rows has a mask that can be used. Returns the catalog with a fingerprint that includes
    the masks.

    Masks are read only once: the result of the check is kept in the store `fine`. Raises CatalogError.
    """
    masks = masks_of(config, catalog)
    sizes = mask_sizes(masks, catalog)
    check_masks(masks, catalog, rows, sizes)
    catalog = annotated(catalog, masks, sizes)
    mark = content_hash(rows.tobytes())
    note = f"{fingerprint([catalog.fingerprint, masks.classes, masks.ignore, mark])}/{_CHECK}"
    if config.check == "decode" and not fine.has(note):
        check_pixels(masks, catalog, rows)
        fine.write_json(note, {"catalog": catalog.uri, "masks": len(rows)}, last=True)
    return catalog


def mask_sizes(masks: Masks, catalog: Catalog) -> Rows:
    """(n,) int64: the size in bytes of each row's mask file, -1 where there is no file.

    For Parquet it is the size of the column in the mask's row group. No mask is read. Raises CatalogError if there is
    no folder or no column of masks.
    """
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
    """For each row group of a Parquet file: the row number at which it ends, and the column's size in bytes."""
    fs, path = filesystem(uri)
    with pq.ParquetFile(path, filesystem=fs) as file:
        names, metadata = file.schema_arrow.names, file.metadata
        if column not in names:
            raise CatalogError(f"{uri}: expected a column {column!r} for the masks, got {', '.join(names)}")
        leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] == column]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
        return np.cumsum([group.num_rows for group in groups]), np.array(sizes, np.int64)


def annotated(catalog: Catalog, masks: Masks, sizes: Rows) -> Catalog:
    """The catalog with the fingerprint "images+masks", so that other masks of the same images give another
    fingerprint."""
    column = "" if masks.root else masks.column
    mark = content_hash(repr(column).encode() + sizes.tobytes())
    return replace(catalog, fingerprint=f"{catalog.fingerprint}+{mark}")


def check_masks(masks: Masks, catalog: Catalog, rows: Rows, sizes: Rows) -> None:
    """Raise CatalogError, which counts the rows without a mask and names the first, if there are any. No mask is
    read."""
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
    """Open every mask once, on all CPUs. Raises CatalogError, which counts the masks that cannot be used and names the
    first.

    A mask cannot be used if it cannot be decoded, has a number that is not a class, has another size than its image or
    is void everywhere.
    """
    references = catalog.references(rows).sort_by([("uri", "ascending"), ("offset", "ascending")])
    chunks = [references.slice(start, _CHECKED) for start in range(0, len(references), _CHECKED)]
    with ThreadPoolExecutor(processors()) as workers:
        broken = sorted(chain.from_iterable(workers.map(partial(_broken, masks, catalog), chunks)))
    if broken:
        first = [f"  {error}" for _, error in broken[:_SHOWN]]
        raise CatalogError("\n".join([f"{len(broken)} of {len(rows)} masks cannot be used; the first:", *first]))


def _broken(masks: Masks, catalog: Catalog, chunk: pa.Table) -> list[tuple[int, str]]:
    """The row and the reason of each mask that cannot be used."""
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
        raise ImageError(f"{key}: mask: expected some class, got only void pixels ({masks.ignore})")
