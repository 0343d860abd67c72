"""Parquet files with a column of encoded images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from alray.data.access import random_access
from alray.data.sources.rows import Rows, image_bytes, image_field
from alray.store import filesystem

_BATCH_ROWS = 1024


class Parquet(Rows):
    """Parquet files with one row per image. To read an image, its row group is read."""

    name: ClassVar[str] = "parquet"
    what: ClassVar[str] = "Parquet file"
    about: ClassVar[str] = (
        "Parquet files with the encoded bytes of one image per row, as bytes or as struct{bytes, path} (Hugging Face): "
        "a file, a glob, or a folder that holds .parquet files. The image column is --image-column."
    )
    extensions: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    def schema(self, uri: str) -> pa.Schema:
        """As `Rows.schema`."""
        fs, path = filesystem(uri)
        return pq.read_schema(path, filesystem=fs)

    def batches(self, uri: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """As `Rows.batches`."""
        fs, path = filesystem(uri)
        with pq.ParquetFile(path, filesystem=fs) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=list(names))

    def cost(self, images: pa.Table, column: str) -> tuple[str, ...]:
        """As `Rows.cost`."""
        return random_access(images, column)

    def rows_of(self, uri: str, rows: npt.NDArray[np.int64], column: str) -> list[bytes | None]:
        """The image bytes of some rows of one file. Only the image column of the row groups with these rows is read."""
        fs, path = filesystem(uri)
        found: list[bytes | None] = [None] * len(rows)
        with pq.ParquetFile(path, filesystem=fs) as file:
            field = image_field(file.schema_arrow, column)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.searchsorted(ends, rows, side="right")
            for group in np.unique(groups).tolist():
                if group == len(ends):
                    raise IndexError(f"expected a row below {sum(sizes)}, got {rows.max()}")
                images = image_bytes(file.read_row_group(group, columns=[field], use_threads=False)[column])
                at = np.flatnonzero(groups == group)
                inside = rows[at] - (ends[group] - sizes[group])
                for i, data in zip(at.tolist(), images.take(pa.array(inside)).to_pylist(), strict=True):
                    found[i] = data
        return found


PARQUET = Parquet()
