"""Features that users give to `alray.select`: arrays, .npy, .npz, Parquet, a Ray Dataset (contract C9).

Letters: n rows, w width of a column.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alray.features.arrays import Array, Rows, Segment, Shard, cut
from alray.selection.protocol import HIDDEN_LABELS, SelectionError
from alray.store import filesystem, is_remote, read_bytes

ROW = "row"
_BLOCK = 1 << 22  # numbers looked at together when checking that values are finite
_LARGEST = 2.0**480  # float64 values: sums of their squares, and products of two, stay finite
RowsAndColumn = tuple[Rows | None, Array]  # row numbers, where the source has them, and one column


@dataclass(frozen=True)
class GivenFeatures:
    """The features that were given: rows (n,) int64 ascending, columns by name, each (n, ...) in the same order."""

    rows: Rows
    columns: Mapping[str, Array]

    def shards(self, keep: Rows, number: int) -> list[GivenSource]:
        """The rows at these ascending positions, cut into contiguous near-equal shards that share no memory."""
        sources = []
        for part in cut(len(keep), number):
            at = keep[part]
            first, last = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
            inside = None if last - first == len(at) else at - first
            columns = {name: column[first:last] for name, column in self.columns.items() if name != HIDDEN_LABELS}
            sources.append(GivenSource(self.rows[at], inside, columns))
        return sources


@dataclass(frozen=True)
class GivenSource:
    """A shard of arrays in memory (or mapped), of which only some positions take part."""

    rows: Rows
    positions: Rows | None
    columns: Mapping[str, Array]

    def open(self) -> Shard:
        """The arrays as one segment."""
        return Shard([Segment(self.rows, self.positions, self.columns)])


def gather(values: Mapping[str, Any]) -> GivenFeatures:
    """Read every array or path. Raises SelectionError where one cannot be read, or where they have different rows."""
    found = {name: read(name, value) for name, value in values.items()}
    numbered = {name: rows for name, (rows, _) in found.items() if rows is not None}
    sizes = {name: len(array) for name, (_, array) in found.items()}
    if len(set(sizes.values())) > 1:
        raise SelectionError(
            f"expected as many rows everywhere, got {', '.join(f'{k} {v:,}' for k, v in sizes.items())}"
        )
    if not numbered:
        n = next(iter(sizes.values()))
        return GivenFeatures(np.arange(n), {name: array for name, (_, array) in found.items()})
    orders = {name: np.argsort(rows, kind="stable") for name, rows in numbered.items()}
    first = next(iter(numbered))
    rows = numbered[first][orders[first]]
    if len(rows) and (rows[0] < 0 or (np.diff(rows) == 0).any()):
        raise SelectionError(f"{first}: expected row numbers from 0 without repetition in the column {ROW!r}")
    for name in found:
        if name not in numbered:
            raise SelectionError(f"{name} has no column {ROW!r}, but {first} has: expected it in both or neither")
        if not np.array_equal(numbered[name][orders[name]], rows):
            raise SelectionError(f"{name} and {first} have different numbers in the column {ROW!r}")
    return GivenFeatures(rows, {name: _arranged(array, orders[name]) for name, (_, array) in found.items()})


def read(name: str, value: Any) -> RowsAndColumn:
    """Row numbers, where the source has them, and the array of one column; .npy files are mapped, not copied."""
    if isinstance(value, (str, bytes)) or hasattr(value, "__fspath__"):
        return _from_path(name, str(value))
    data = sys.modules.get("ray.data")
    if data is not None and isinstance(value, data.Dataset):
        return _from_dataset(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SelectionError(f"{name}: expected an array, got something else ({error})") from None
    return None, checked(name, array, name)


def checked(name: str, array: Array, where: str) -> Array:
    """The array as floating point (n,) or (n, w), integers for labels. Raises SelectionError."""
    dims = 1 if name in ("pretext_loss", "discriminator", HIDDEN_LABELS) else 2
    if array.ndim != dims:
        raise SelectionError(f"{where}: expected an array of {dims} dimension(s), got shape {array.shape}")
    if dims == 2 and array.shape[1] == 0:
        raise SelectionError(f"{where}: expected at least one column, got shape {array.shape}")
    if array.dtype.kind in "iu":
        return array.astype(np.int64 if name == HIDDEN_LABELS else np.float64)
    if name == HIDDEN_LABELS or array.dtype not in (np.float16, np.float32, np.float64):
        expected = "integers" if name == HIDDEN_LABELS else "float16, float32, float64 or integers"
        raise SelectionError(f"{where}: expected {expected}, got {array.dtype}")
    return array


def check_values(name: str, rows: Rows, array: Array, used: Array) -> None:
    """Raises SelectionError that names the first row, among the used ones (n,) bool, with NaN, infinity, or numbers too
    large to be squared."""
    if array.dtype.kind != "f":
        return
    largest = _LARGEST if array.dtype == np.float64 else np.inf
    step = max(1, _BLOCK // max(1, array[:1].size))
    for start in range(0, len(array), step):
        part = array[start : start + step].reshape(len(array[start : start + step]), -1)
        good = np.isfinite(part).all(axis=1)
        if largest < np.inf:
            good &= (np.abs(part) < largest).all(axis=1)
        good |= ~used[start : start + step]
        if not good.all():
            row = start + int(np.argmin(good))
            if np.isfinite(part[row - start]).all():
                raise SelectionError(
                    f"{name}: expected values below {largest:.1e}, row {int(rows[row])} has larger ones"
                )
            raise SelectionError(f"{name}: expected finite values, row {int(rows[row])} has NaN or infinity")


def _from_path(name: str, path: str) -> RowsAndColumn:
    try:
        if path.endswith((".npy", ".npz")):
            return None, checked(name, _numpy(name, path), path)
        return _from_parquet(name, path)
    except FileNotFoundError:
        raise SelectionError(f"{name}: no such file: {path}") from None
    except (pa.ArrowInvalid, ValueError) as error:
        if isinstance(error, SelectionError):
            raise
        raise SelectionError(f"{name}: {path} is not .npy, .npz or Parquet, or is damaged: {error}") from None


def _numpy(name: str, path: str) -> Array:
    if path.endswith(".npy"):
        if is_remote(path):
            return np.asarray(np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    with np.load(io.BytesIO(read_bytes(path)) if is_remote(path) else path, allow_pickle=False) as arrays:
        there = list(arrays)
        if name not in there and len(there) != 1:
            raise SelectionError(f"{path}: expected an array {name!r}, got {', '.join(there)}")
        return np.asarray(arrays[name if name in there else there[0]])


def _from_parquet(name: str, path: str) -> RowsAndColumn:
    fs, inside = filesystem(path)
    if fs.get_file_info(inside).type == pafs.FileType.NotFound:
        raise FileNotFoundError(path)
    dataset = pq.ParquetDataset(inside, filesystem=fs)
    if name not in dataset.schema.names:
        raise SelectionError(f"{path}: expected a column {name!r}, got {', '.join(dataset.schema.names)}")
    table = dataset.read(columns=[ROW, name] if ROW in dataset.schema.names else [name])
    rows = table[ROW].to_numpy().astype(np.int64) if ROW in table.column_names else None
    return rows, checked(name, _column(table[name], path), path)


def _column(column: pa.ChunkedArray, path: str) -> Array:
    """An Arrow column as (n,) or, for lists of one length, (n, w)."""
    if column.null_count:
        raise SelectionError(f"{path}: expected no nulls, got {column.null_count:,}")
    parts = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    kind = column.type.storage_type if isinstance(column.type, pa.ExtensionType) else column.type
    whole = pa.chunked_array(parts, type=kind).combine_chunks()
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return np.asarray(whole.to_numpy(zero_copy_only=False))
    flat = np.asarray(whole.flatten().to_numpy(zero_copy_only=False))
    widths = np.array([kind.list_size]) if pa.types.is_fixed_size_list(kind) else np.diff(whole.offsets.to_numpy())
    if len(set(widths.tolist())) > 1:
        raise SelectionError(f"{path}: expected lists of one length, got {widths.min()} to {widths.max()}")
    return flat.reshape(len(whole), -1) if len(whole) else flat.reshape(0, 1)


def _from_dataset(name: str, dataset: Any) -> RowsAndColumn:
    """One column of a Ray Dataset, read into memory. Blocks arrive in any order: the Dataset must have row numbers."""
    names = dataset.schema().names
    if name not in names or ROW not in names:
        raise SelectionError(
            f"{name}: expected a Ray Dataset with the columns {ROW!r} and {name!r}, got {', '.join(names)}"
        )
    batches = list(dataset.select_columns([ROW, name]).iter_batches(batch_format="numpy"))
    if not batches:
        raise SelectionError(f"{name}: the Ray Dataset is empty")
    rows = np.concatenate([batch[ROW] for batch in batches]).astype(np.int64)
    array = np.concatenate([np.stack(list(batch[name])) for batch in batches])
    return rows, checked(name, array, f"{name} of the Ray Dataset")


def _arranged(array: Array, order: Rows) -> Array:
    return array if np.array_equal(order, np.arange(len(order))) else array[order]
