"""Masks of a segmentation data set: where they are, and bytes to class numbers.

A mask is a PNG with one class number per pixel (grey or palette). It lies in a column of the Parquet files that hold
the images, or in a folder that has the images' names with another ending.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from alray.config import DataConfig
from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import ImageError, fetch
from alray.data.sources.scan import list_files
from alray.store import absolute, filesystem, join

_MODES = ("L", "P", "I", "I;16", "1")


@dataclass(frozen=True)
class Masks:
    """How to get the masks of a catalog's rows: small and picklable."""

    kind: str  # "parquet", or the format of the image catalog
    column: str  # of Parquet files
    root: str  # folder of masks; empty for Parquet
    suffix: str  # that the masks' names end with, instead of the images' extension
    ignore: int  # the number of pixels that do not count
    num_classes: int

    def fetch(self, references: pa.Table) -> list[bytes]:
        """The encoded masks of image references (key, uri, offset, size), in their order. Raises ImageError."""
        if not self.root:
            unknown = pa.nulls(len(references), pa.int64())
            at = references.schema.get_field_index("size")
            return fetch(references.set_column(at, "size", unknown), self.kind, self.column)
        uris = [self.uri(key) for key in references["key"].to_pylist()]
        table = pa.table(
            {"key": references["key"], "uri": uris, "offset": [None] * len(uris), "size": [None] * len(uris)}
        )
        return fetch(table, "folder")

    def uri(self, key: str) -> str:
        """Where the mask of an image is, in a folder of masks."""
        return join(self.root, key.rpartition(".")[0] + self.suffix)

    def decode(self, data: bytes, key: str) -> npt.NDArray[np.uint8]:
        """(h, w) uint8. Raises ImageError for something else than a PNG of class numbers, and for numbers that are no
        class."""
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.mode not in _MODES:
                    raise ImageError(f"{key}: mask: expected one number per pixel, got an image of mode {image.mode}")
                mask = np.asarray(image)
        except OSError as error:
            raise ImageError(f"{key}: mask: cannot be decoded: {error}") from None
        bad = (mask >= self.num_classes) & (mask != self.ignore)
        if bad.any():
            raise ImageError(
                f"{key}: mask: expected 0 to {self.num_classes - 1} or {self.ignore} (void), got {int(mask[bad][0])}"
            )
        return mask.astype(np.uint8)


def masks_of(config: DataConfig, catalog: Catalog) -> Masks:
    """The masks of a catalog as configured. Raises CatalogError where there can be none."""
    if len(catalog.classes) > 255:
        raise CatalogError(f"{catalog.uri}: expected at most 255 classes in 8-bit masks, got {len(catalog.classes)}")
    if not config.mask_root and catalog.format != "parquet":
        raise CatalogError(
            f"data.mask_root: expected a folder of masks for a source of format {catalog.format}, got none (only "
            "Parquet files can hold masks beside the images)"
        )
    root = absolute(config.mask_root) if config.mask_root else ""
    return Masks(
        catalog.format, config.mask_column, root, config.mask_suffix, config.ignore_label, len(catalog.classes)
    )


def check_masks(masks: Masks, catalog: Catalog, rows: npt.NDArray[np.int64]) -> None:
    """Raises CatalogError that counts rows without a mask and names the first; looks at names and schemas only."""
    references = catalog.references(rows)
    if not masks.root:
        for uri in pc.unique(references["uri"]).to_pylist():
            fs, path = filesystem(uri)
            names = pq.read_schema(path, filesystem=fs).names
            if masks.column not in names:
                raise CatalogError(
                    f"{uri}: no column {masks.column!r} for the masks; its columns are {', '.join(names)}"
                )
        return
    there = set(list_files(masks.root)["uri"].to_pylist())
    missing = [key for key in references["key"].to_pylist() if masks.uri(key) not in there]
    if missing:
        raise CatalogError(
            f"{masks.root}: {len(missing)} of {len(rows)} images have no mask, first {missing[0]}: expected "
            f"{masks.uri(missing[0])}"
        )
