"""Files of `alray select`: it reads rows and heads, and writes picks."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs

from alray.data.sources import columns
from alray.data.sources.damaged import instead
from alray.data.sources.text_files import decoded
from alray.selection.names import KEY, ROW, TABLES, Names, read_table
from alray.selection.protocol import Picks, SelectionError
from alray.store import Store, absolute, filesystem, folder_of, table_bytes, write_bytes

_log = logging.getLogger(__name__)
_ROWS = columns.Role("row numbers", ("row",), ("rows", "row_number"), "its name 'row'")


def read_rows(path: str, names: Names | None = None) -> npt.NDArray[np.int64]:
    """Row numbers from .npy, from text with one number or key a line, or from CSV, TSV or Parquet, such as picks that
    `write_picks` wrote, by the column row or key. An empty path gives no rows.

    names: the keys of the rows, without which only row numbers are understood. Raises SelectionError.
    """
    if not path:
        return np.empty(0, np.int64)
    try:
        if path.endswith(TABLES):
            return _from_table(read_table(path), path, names)
        if path.endswith(".npy"):
            return np.asarray(np.load(path))
        return _from_lines(decoded(Path(path).read_bytes()), path, names)
    except SelectionError:
        raise
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise SelectionError(f"{path}: expected row numbers, one a line, got {instead(path, error)}") from None


def _from_table(table: pa.Table, path: str, names: Names | None) -> npt.NDArray[np.int64]:
    """The rows of a table by its keys if they are known, else by its row numbers. Where it has both, they must agree:
    the file may belong to other data."""
    if names is None or KEY not in table.column_names:
        return _numbers(table[_row_column(table.column_names, path)], path)
    keys = table[KEY].cast(pa.string()).to_pylist()
    rows = names.rows_of(keys, path)
    if ROW in table.column_names:
        differ = np.flatnonzero(table[ROW].to_numpy() != rows)
        if len(differ):
            at = int(differ[0])
            raise SelectionError(
                f"{path}: {len(differ):,} of {len(rows):,} keys have another row in {names.where}; the first is "
                f"{keys[at]!r}, row {table[ROW][at].as_py()} in the file and {rows[at]} there"
            )
    return rows


def _numbers(column: pa.ChunkedArray, path: str) -> npt.NDArray[np.int64]:
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.asarray(column.to_numpy())
    values = column.to_pylist()
    found = [_whole(value) for value in values]
    if None in found:
        at = found.index(None)
        raise SelectionError(f"{path}: expected row numbers, got {values[at]!r} in line {at + 1:,} of its rows")
    return np.array(found, np.int64)


def _whole(value: object) -> int | None:
    """The whole number of 64 bits that a cell or a line is; None if it is none."""
    try:
        whole = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    fits = not isinstance(value, bool) and -(2**63) <= whole < 2**63
    return whole if fits and (isinstance(value, str) or whole == value) else None


def _from_lines(text: str, path: str, names: Names | None) -> npt.NDArray[np.int64]:
    """Row numbers; or keys, where not all lines are integers."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = [_whole(line) for line in lines]
    if None in found:
        if names is None:
            other = lines[found.index(None)]
            raise SelectionError(
                f"{path}: expected row numbers, one a line, got {other!r}; --catalog or --keys makes keys understood"
            )
        return names.rows_of(lines, path)
    numbers = np.array(found, np.int64)
    if names is not None and names.has(lines) and not np.array_equal(names.rows_of(lines, path), numbers):
        raise SelectionError(
            f"{path}: the lines are row numbers and keys of {names.where}; give a CSV with the column row or key"
        )
    return numbers


def _row_column(names: list[str], path: str) -> str:
    try:
        found = columns.find(_ROWS, names)
    except columns.ColumnError as error:
        raise SelectionError(f"{path}: {error}") from None
    if found is None:
        keys = "; its keys are read where --catalog or --keys says which images they are" if "key" in names else ""
        raise SelectionError(f"{path}: {columns.missing(_ROWS, names)}{keys}")
    return found.name


def read_head(weight: str, bias: str) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None:
    """Weight (c, d) and bias (c,) from .npy files; a weight without a bias has zero bias, which is logged."""
    if not weight:
        if bias:
            raise SelectionError("head: got a bias without a weight")
        return None
    matrix = _array("weight", weight)
    if bias:
        return matrix, _array("bias", bias)
    _log.warning("head: no bias was given: it is taken for zero; --bias gives another")
    return matrix, np.zeros(matrix.shape[:1], matrix.dtype)


def _array(name: str, path: str) -> npt.NDArray[np.floating]:
    try:
        found = np.load(path)
    except (OSError, EOFError, ValueError) as error:
        raise SelectionError(f"{name}: {path}: expected a .npy array, got {instead(path, error)}") from None
    if isinstance(found, np.lib.npyio.NpzFile):
        raise SelectionError(f"{name}: {path}: expected a .npy array, got an archive of {', '.join(found.files)}")
    return np.asarray(found)


def check_out(path: str, overwrite: bool = True) -> None:
    """Check, before anything is read, that `write_picks` can write this file. overwrite: whether it may replace one.
    Raises SelectionError, or StoreError where nothing can be written."""
    _check_ending(path)
    fs, inside = filesystem(path)
    kind = fs.get_file_info(inside).type
    if kind == pafs.FileType.Directory:
        raise SelectionError(f"out: expected a file, got the directory {path}")
    if kind != pafs.FileType.NotFound and not overwrite:
        raise SelectionError(f"out: expected a new file, but {path} exists; --overwrite replaces it")
    Store(folder_of(absolute(path)) or absolute(path)).check_writable()


def check_no_input(path: str, inputs: Sequence[str]) -> None:
    """Raise SelectionError where the file to write is one of those that are read."""
    if absolute(path) in [absolute(one) for one in inputs if one]:
        raise SelectionError(f"out: expected another file than those that are read, got {path}")


def _check_ending(path: str) -> None:
    if Path(path).suffix not in (".csv", ".parquet"):
        raise SelectionError(f"out: expected a name that ends in .csv or .parquet, got {path!r}")


def write_picks(picks: Picks, path: str, names: Names | None = None) -> None:
    """Write row and score in order of choice, as .csv or .parquet, with the names of the rows if they are known. Raises
    SelectionError for another ending."""
    _check_ending(path)
    table = picks.to_table() if names is None else names.named(picks.to_table())
    if path.endswith(".parquet"):
        write_bytes(absolute(path), table_bytes(table))
    else:
        text = io.BytesIO()
        pacsv.write_csv(table, text)
        write_bytes(absolute(path), text.getvalue())
