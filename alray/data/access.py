"""What it costs to read single images from Parquet files, which are read by whole row groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alray.reasons import in_bytes
from alray.store import filesystem

_READS = 16  # reads wait for a disk or a network, not for a CPU
_FOOTER = 64 * 1024  # pyarrow reads at least so much of the end of a file to find its footer
_DEAR_TIMES, _DEAR_BYTES = 16, 1 << 20  # below either of these a read of one image is cheap enough


def random_access(images: pa.Table, column: str) -> tuple[str, ...]:
    """A sentence on the cost of reading one random image, where that is dear; nothing where it is cheap.

    images: columns uri (of the Parquet file) and size (in bytes, null where the image is missing); column: the image
    column. Only the footers of the files are read. To read one image, its file's footer and the image column of its row
    group are read.
    """
    with ThreadPoolExecutor(_READS) as pool:
        found = list(pool.map(partial(_cost, column), images["uri"].unique().to_pylist()))
    rows = max(1, sum(count for count, _ in found))
    wanted = (pc.sum(images["size"]).as_py() or 0) / rows  # bytes, both as the mean over all images
    read = sum(cost for _, cost in found) / rows
    if not wanted or read < _DEAR_BYTES or read < _DEAR_TIMES * wanted:
        return ()
    return (
        f"Reading one random image reads {in_bytes(read)} for {in_bytes(wanted)} ({read / wanted:,.0f} times), because "
        "Parquet files are read by whole row groups. `alray repack CATALOG --out DIRECTORY` writes tars in which one "
        "image is one read.",
    )


def _cost(column: str, uri: str) -> tuple[int, float]:
    """The number of rows of a file, and the sum over its rows of the bytes that are read to get this row alone."""
    fs, path = filesystem(uri)
    with pq.ParquetFile(path, filesystem=fs) as file:
        metadata = file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        paths = (column, f"{column}.bytes")
        leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in paths]
        total = sum(
            group.num_rows * sum(group.column(leaf).total_compressed_size for leaf in leaves) for group in groups
        )
        return metadata.num_rows, total + metadata.num_rows * max(metadata.serialized_size, _FOOTER)
