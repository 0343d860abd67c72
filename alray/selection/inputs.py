"""Features that users give to `alray.select`: arrays, Arrow tables, data frames, .npy, .npz, Parquet, a Ray Dataset
(contract C9).

Letters: n rows, w width of a column.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alray.features.arrays import Array, Column, Integers, Rows, Scaled, Segment, Shard, cut
from alray.features.row_runs import RowRuns, narrow_rows
from alray.reasons import why
from alray.selection.given_files import FilePart
from alray.selection.kernels.logits import all_finite
from alray.selection.protocol import HIDDEN_LABELS, SelectionError
from alray.selection.scales import is_scaled, scaled
from alray.selection.tables import ROW, dimensions, from_arrow, from_dataset, from_file, refuse_masked

ACCEPTED = "an Arrow table or column, a data frame, a Ray Dataset, or the path of .npy, .npz or Parquet"
_BLOCK = 1 << 22  # numbers looked at together when checking that values are finite
_LARGEST = 2.0**480  # float64 values: sums of their squares, and products of two, stay finite
RowsAndColumn = tuple[Rows | None, Column]  # row numbers, where the source has them, and one column


@dataclass(frozen=True)
class GivenFeatures:
    """The features that were given: rows (n,) ascending, in few bytes each, columns by name, each (n, ...) in the same
    order. numbered: whether a column has given the row numbers; else they are positions."""

    rows: Integers
    columns: Mapping[str, Column]
    numbered: bool = False

    def vector(self, name: str) -> Array:
        """A column with one number per row, (n,), which never has a scale."""
        column = self.columns[name]
        assert not isinstance(column, Scaled)
        return column

    def places(self, rows: Rows) -> Rows:
        """The positions of rows that are known to be there, in their order."""
        return np.searchsorted(self.rows, rows.astype(self.rows.dtype)) if self.numbered else rows

    def positions(self, rows: Any) -> Rows:
        """The ascending positions of rows that are known to be there; None: of no rows."""
        return self.places(np.unique(np.asarray(() if rows is None else rows, np.int64)))

    def shards(self, keep: Integers, number: int) -> list[GivenSource]:
        """The rows at these ascending positions, cut into contiguous near-equal shards that share no memory."""
        sources = []
        for part in cut(len(keep), number):
            at = keep[part]
            first, last = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
            inside = None if last - first == len(at) else RowRuns.of(at - first)
            columns = {
                name: FilePart.of(column[first:last]) or column[first:last]
                for name, column in self.columns.items()
                if name != HIDDEN_LABELS
            }
            sources.append(GivenSource(RowRuns.of(self.rows[at]), inside, columns))
        return sources


@dataclass(frozen=True)
class GivenSource:
    """A shard of arrays in memory or in files, of which only some positions take part. A file is named, not read: its
    numbers are in no message."""

    rows: RowRuns
    positions: RowRuns | None
    columns: Mapping[str, Column | FilePart]

    def open(self) -> Shard:
        """The arrays as one segment; files are mapped. Raises SelectionError if one is not there."""
        columns = {name: one.open() if isinstance(one, FilePart) else one for name, one in self.columns.items()}
        return Shard([Segment(self.rows, self.positions, columns)])

    def row_parts(self) -> Iterable[RowRuns]:
        """All rows."""
        return [self.rows]


def gather(values: Mapping[str, Any], scales: Mapping[str, Array] | None = None) -> GivenFeatures:
    """Read every array or path. scales: of the arrays that are stored as int8 or uint8, see `alray.selection.scales`.
    Raises SelectionError where one cannot be read, or where they have different rows."""
    found = {name: read(name, value, (scales or {}).get(name)) for name, value in values.items()}
    numbered = {name: rows for name, (rows, _) in found.items() if rows is not None}
    sizes = {name: len(array) for name, (_, array) in found.items()}
    if len(set(sizes.values())) > 1:
        raise SelectionError(
            f"expected as many rows everywhere, got {', '.join(f'{k} {v:,}' for k, v in sizes.items())}"
        )
    if not numbered:
        n = next(iter(sizes.values()))
        return GivenFeatures(
            np.arange(n, dtype=np.int32) if n < 2**31 else np.arange(n),
            {name: array for name, (_, array) in found.items()},
        )
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
    columns = {name: _arranged(array, orders[name]) for name, (_, array) in found.items()}
    return GivenFeatures(narrow_rows(rows), columns, True)


def read(name: str, value: Any, scale: Array | None = None) -> RowsAndColumn:
    """Row numbers, where the source has them, and one column. Raises SelectionError."""
    where, rows = name, None
    data = sys.modules.get("ray.data")
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        where = os.fsdecode(value)
        rows, array = from_file(name, where)
    elif data is not None and isinstance(value, data.Dataset):
        where = f"{name} of the Ray Dataset"
        rows, array = from_dataset(name, value)
    else:
        rows, array = from_arrow(name, value) or (None, _array(name, value))
    return rows, checked(name, array, where, scale)


def _array(name: str, value: Any) -> Array:
    """Whatever NumPy can read, as an array; rows that are arrays themselves are stacked."""
    refuse_masked(name, value)
    kind = str(getattr(value, "dtype", ""))
    if kind.startswith(("torch.bfloat16", "torch.float8")):
        raise SelectionError(f"{name}: expected an array that NumPy can read, got a tensor of {kind}; give .float()")
    try:
        array = np.asarray(value)
        if array.dtype == object and array.ndim == 1 and len(array):
            array = np.stack([np.asarray(row) for row in array])
    except (ValueError, TypeError, RuntimeError) as error:  # PyTorch raises the last two
        raise SelectionError(f"{name}: expected an array, got something else ({why(error)})") from None
    if array.dtype == object:
        raise SelectionError(f"{name}: expected an array of numbers, {ACCEPTED}; got {_other(value, array)}")
    return array


def _other(value: Any, array: Array) -> str:
    """What was given instead of numbers."""
    name = type(value).__name__
    if not array.ndim:
        return name
    inside = f", whose first value is of the type {type(array.flat[0]).__name__}" if array.size else ""
    number = array.size and isinstance(array.flat[0], int | float | np.number)
    remedy = "; .astype(np.float32) makes numbers of it" if number else ""
    return f"{name} of dtype object and shape {array.shape}{inside}{remedy}"


def checked(name: str, array: Array, where: str, scale: Array | None = None) -> Column:
    """The array as floating point (n,) or (n, w), integers for labels; int8 and uint8 (n, w) stay as they are stored.
    scale: of the stored numbers, see `alray.selection.scales`. Raises SelectionError."""
    dims = dimensions(name)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim != dims:
        raise SelectionError(f"{where}: expected an array of {dims} dimension(s), got shape {array.shape}")
    if dims == 2 and array.shape[1] == 0:
        raise SelectionError(f"{where}: expected at least one column, got shape {array.shape}")
    if dims == 2 and (scale is not None or is_scaled(array)):
        return scaled(name, array, where, scale)
    if array.dtype.kind in "iu":
        return array.astype(np.int64 if name == HIDDEN_LABELS else np.float64)
    if name == HIDDEN_LABELS or array.dtype not in (np.float16, np.float32, np.float64):
        expected = "integers" if name == HIDDEN_LABELS else "float16, float32, float64 or integers"
        numbers = "; np.unique(labels, return_inverse=True)[1] numbers them"
        named = name == HIDDEN_LABELS and array.dtype.kind in "UST"
        raise SelectionError(f"{where}: expected {expected}, got {array.dtype}{numbers if named else ''}")
    return array


def check_values(name: str, rows: Integers, array: Column, used: Array) -> None:
    """Raises SelectionError that names the first row, among the used ones (n,) bool, with NaN, infinity, or numbers too
    large to be squared. Whole numbers, with a scale or without, are none of these."""
    if isinstance(array, Scaled) or array.dtype.kind != "f":
        return
    largest = _LARGEST if array.dtype == np.float64 else np.inf
    step = max(1, _BLOCK // max(1, array[:1].size))
    for start in range(0, len(array), step):
        part = array[start : start + step].reshape(len(array[start : start + step]), -1)
        if part.dtype == np.float16 and all_finite(part):
            continue
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


def _arranged(array: Column, order: Rows) -> Column:
    return array if np.array_equal(order, np.arange(len(order))) else array[order]
