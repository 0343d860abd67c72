"""Features on disk: row, embedding and logits in columnar part files, which are memory-mapped for reading (contract
C3).

A table is a directory with part-00000.arrow, part-00001.arrow, ... (uncompressed Arrow IPC, which a local file maps
into NumPy without a copy), index.parquet (the part of every row) and manifest.json. The manifest is written last: a
directory without it is not a table. The checksums of all files are listed just before it. Rows ascend over the whole
table. Letters: n rows, d width of the embedding, c classes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from alray.checksums import sum_at, sum_of
from alray.config import Dtype
from alray.data.sources import own
from alray.features.arrays import (
    BFLOAT16,
    EMBEDDING,
    LOGITS,
    Array,
    Integers,
    Rows,
    Segment,
    Shard,
    concatenate,
    cut,
    floating,
)
from alray.features.row_runs import RowRuns
from alray.store import Store, filesystem, json_bytes, table_bytes, write_bytes

MANIFEST, INDEX = own.FEATURES
ROW = "row"
_KEPT_FREE = 0.05  # of the disk of temporary files


class FeatureError(ValueError):
    """Features cannot be stored, are missing, or are not the expected ones."""


def part_name(part: int) -> str:
    """The file name of a part."""
    return f"part-{part:05d}.arrow"


def stored(array: Array, dtype: Dtype, rows: Rows, name: str) -> Array:
    """Convert an array (m, width) to its storage type; bfloat16 is stored as its bits in uint16.

    rows (m,), name: for error messages. Raises FeatureError, which names the row, for values that are not finite or do
    not fit into the type.
    """
    wide = np.ascontiguousarray(array, np.float32)
    if dtype == "bfloat16":
        bits = wide.view(np.uint32)
        narrow = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(BFLOAT16)  # round to nearest, ties to even
    else:
        with np.errstate(over="ignore"):
            narrow = wide.astype(dtype)
    bad = ~np.isfinite(floating(narrow)).all(axis=1)
    if bad.any():
        at = int(np.argmax(bad))
        why = (
            "is not finite"
            if not np.isfinite(wide[at]).all()
            else f"does not fit into {dtype} (try bfloat16 or float32)"
        )
        raise FeatureError(f"{name} of row {int(rows[at])} {why}")
    return narrow


def write_part(store: Store, part: int, rows: Rows, columns: Mapping[str, Array]) -> str:
    """Write one part atomically. rows (m,) int64 ascending; columns by name, each (m, width) in storage type.

    Returns its checksum for `commit`, which lists it: several workers write parts at a time.
    """
    arrays = [pa.array(rows)]
    for column in columns.values():
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, column.shape[1]))
    batch = pa.record_batch(arrays, names=[ROW, *columns])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = memoryview(sink.getvalue())
    write_bytes(store.at(part_name(part)), data)
    return sum_of(data)


def read_part(store: Store, part: int) -> tuple[Rows, dict[str, Array]]:
    """The rows and columns of a part, memory-mapped. On local disk they are not copied, and the process reads a part
    once before, for its checksum. From an object store they are copied to a local temporary file. Raises Damaged."""
    fs, path = filesystem(store.at(part_name(part)))
    if isinstance(fs, pafs.LocalFileSystem):
        store.check(part_name(part))
        source = pa.memory_map(path)
    else:
        source = _copied(store.read_bytes(part_name(part)))
    batch = pa.ipc.open_file(source).get_batch(0)
    columns: dict[str, Array] = {}
    for name in batch.schema.names[1:]:
        column = batch.column(name)
        columns[name] = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)
    return batch.column(ROW).to_numpy(), columns


def _copied(data: bytes) -> pa.NativeFile:
    """A part in a temporary file that has lost its name, and is gone when nothing reads it any more. Unlike a copy in
    memory, its pages can be taken back by the system. A part stays in memory if the disk would become too full."""
    disk = shutil.disk_usage(tempfile.gettempdir())
    if disk.free - len(data) < disk.total * _KEPT_FREE:
        return pa.BufferReader(data)
    with tempfile.NamedTemporaryFile(prefix="alray-part-") as file:
        file.write(data)
        file.flush()
        return pa.memory_map(file.name)


@dataclass(frozen=True)
class TableSource:
    """A shard of a table: numbers of parts, and the rows to take from each."""

    uri: str
    parts: Sequence[tuple[int, RowRuns]]
    columns: tuple[str, ...]

    def open(self) -> Shard:
        """Map the parts. Raises FeatureError if a row is not in the part that the index names."""
        segments = []
        for part, runs in self.parts:
            wanted = runs.rows()
            rows, columns = read_part(Store(self.uri), part)
            positions = None if len(rows) == len(wanted) else np.searchsorted(rows, wanted)
            if not np.array_equal(rows if positions is None else rows[positions], wanted):
                raise FeatureError(
                    f"{self.uri}: expected the rows of the index in part {part}, got others; delete the directory"
                )
            there = None if positions is None else RowRuns.of(positions)
            segments.append(Segment(runs, there, {name: columns[name] for name in self.columns}))
        return Shard(segments)

    def row_parts(self) -> Iterable[RowRuns]:
        """The rows to take from each part."""
        return [runs for _, runs in self.parts]


@dataclass(frozen=True)
class FeatureTable:
    """A committed table of features."""

    uri: str
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, uri: str) -> FeatureTable:
        """Open a committed table. Raises FeatureError if there is none."""
        store = Store(uri)
        if not store.has(MANIFEST):
            raise FeatureError(f"{uri}: expected {MANIFEST}, got none; the features are missing or not complete")
        return cls(uri, store.read_json(MANIFEST))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the stored columns besides the row."""
        return tuple(self.manifest["columns"])

    @property
    def dim(self) -> int:
        """The width d of the embedding."""
        return int(self.manifest["columns"][EMBEDDING]["width"])

    @cached_property
    def _index(self) -> tuple[RowRuns, Integers, Integers]:
        """All rows; the numbers of the parts, and where each of them begins."""
        table = Store(self.uri).read_table(INDEX)
        parts = table["part"].to_numpy()
        starts = np.concatenate([np.zeros(min(1, len(parts)), np.int64), np.flatnonzero(np.diff(parts)) + 1])
        return RowRuns.of(table[ROW].to_numpy()), parts[starts], starts

    @property
    def rows(self) -> Rows:
        """All rows, (n,) int64 ascending."""
        return self._index[0].rows()

    def source(self, rows: Integers, columns: Sequence[str] | None = None) -> TableSource:
        """One shard with the given ascending rows. Raises FeatureError for rows that are not in the table."""
        all_rows, numbers, starts = self._index
        at, missing = all_rows.places(rows)
        if missing.any():
            first = int(rows[int(np.argmax(missing))])
            raise FeatureError(f"{self.uri}: {int(missing.sum())} rows have no features, first row {first}")
        edges = np.searchsorted(at, np.append(starts, len(all_rows)))
        parts = [
            (int(number), RowRuns.of(rows[a:b]))
            for number, (a, b) in zip(numbers, pairwise(edges), strict=True)
            if b > a
        ]
        return TableSource(self.uri, parts, tuple(columns or self.columns))

    def shards(self, rows: Integers, num_shards: int) -> list[TableSource]:
        """Cut the given ascending rows into contiguous shards of nearly equal length."""
        return [self.source(rows[part]) for part in cut(len(rows), num_shards)]

    def embedding(self, rows: Rows) -> Array:
        """The embeddings of the given ascending rows, (k, d) float32."""
        return np.asarray(self.read(rows, EMBEDDING), np.float32)

    def read(self, rows: Rows, column: str) -> Array:
        """Copy one column of the given ascending rows into memory: (k, width); bfloat16 is widened to float32."""
        blocks = list(self.source(rows, (column,)).open().blocks(1 << 16))
        if not blocks:
            return np.empty((0, int(self.manifest["columns"][column]["width"])), np.float32)
        return concatenate(blocks)[column]


def commit(
    store: Store,
    parts: Sequence[Rows],
    fingerprint: str,
    widths: Mapping[str, tuple[int, Dtype]],
    sums: Mapping[int, str] | None = None,
) -> FeatureTable:
    """Write the checksums, the index and, last, the manifest of a table whose parts are all on disk.

    sums: checksums of parts by number. The parts without one, which an earlier start wrote, are read.
    """
    index = pa.table(
        {
            ROW: np.concatenate(parts),
            "part": np.repeat(np.arange(len(parts), dtype=np.int32), [len(rows) for rows in parts]),
        }
    )
    columns = {name: {"width": width, "dtype": dtype} for name, (width, dtype) in widths.items()}
    manifest = {"fingerprint": fingerprint, "rows": len(index), "parts": len(parts), "columns": columns}
    given = sums or {}
    known = {
        part_name(number): given[number] if number in given else sum_at(store.at(part_name(number)))
        for number in range(len(parts))
    }
    store.write_together({INDEX: table_bytes(index), MANIFEST: json_bytes(manifest)}, known, last=True)
    return FeatureTable.open(store.uri)


def write_arrays(
    store: Store,
    rows: Rows,
    embedding: Array,
    dtype: Dtype,
    fingerprint: str,
    logits: Array | None = None,
    part_rows: int = 1 << 16,
) -> FeatureTable:
    """Store the user's own arrays as a table. A table with the same fingerprint is kept as it is.

    rows (n,) int64 ascending; embedding (n, d); logits (n, c) or None; part_rows: number of rows per part.
    """
    if store.has(MANIFEST) and store.read_json(MANIFEST)["fingerprint"] == fingerprint:
        return FeatureTable.open(store.uri)
    given = {EMBEDDING: embedding} if logits is None else {EMBEDDING: embedding, LOGITS: logits}
    parts = [rows[start : start + part_rows] for start in range(0, len(rows), part_rows)]
    sums = {}
    for number, part in enumerate(parts):
        at = slice(number * part_rows, number * part_rows + len(part))
        columns = {name: stored(array[at], dtype, part, name) for name, array in given.items()}
        sums[number] = write_part(store, number, part, columns)
    return commit(store, parts, fingerprint, {name: (array.shape[1], dtype) for name, array in given.items()}, sums)
