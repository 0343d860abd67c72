"""Files of `alray select`: it reads rows and heads, and writes picks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from alray.data.sources import columns
from alray.data.sources.damaged import why_no_array
from alray.selection.protocol import Picks, SelectionError
from alray.store import absolute, table_bytes, write_bytes

_ROWS = columns.Role("row numbers", ("row",), ("rows", "row_number"), "its name 'row'")


def read_rows(path: str) -> npt.NDArray[np.int64]:
    """Row numbers from .npy, from text with one number a line, or from picks that `write_picks` wrote. An empty path
    gives no rows. Raises SelectionError."""
    if not path:
        return np.empty(0, np.int64)
    try:
        if path.endswith((".csv", ".parquet")):
            table = pacsv.read_csv(path) if path.endswith(".csv") else pq.read_table(path)
            return np.asarray(table[_row_column(table.column_names, path)].to_numpy())
        if path.endswith(".npy"):
            return np.asarray(np.load(path))
        lines = Path(path).read_text().split()
        return np.array([int(line) for line in lines], np.int64)
    except SelectionError:
        raise
    except (OSError, EOFError, ValueError, KeyError) as error:
        reason = why_no_array(path, error)
        raise SelectionError(f"{path}: expected row numbers, one a line, got something else ({reason})") from None


def _row_column(names: list[str], path: str) -> str:
    try:
        found = columns.find(_ROWS, names)
    except columns.ColumnError as error:
        raise SelectionError(f"{path}: {error}") from None
    if found is None:
        raise SelectionError(f"{path}: {columns.missing(_ROWS, names)}")
    return found.name


def read_head(weight: str, bias: str) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None:
    """Weight (c, d) and bias (c,) from .npy files; a weight without a bias has zero bias."""
    if not weight:
        if bias:
            raise SelectionError("head: got a bias without a weight")
        return None
    matrix = _array("weight", weight)
    return matrix, _array("bias", bias) if bias else np.zeros(matrix.shape[:1], matrix.dtype)


def _array(name: str, path: str) -> npt.NDArray[np.floating]:
    try:
        return np.asarray(np.load(path))
    except (OSError, EOFError, ValueError) as error:
        raise SelectionError(
            f"{name}: {path}: expected a .npy array, got something else ({why_no_array(path, error)})"
        ) from None


def check_out(path: str) -> None:
    """Raises SelectionError for a name that `write_picks` would refuse."""
    if Path(path).suffix not in (".csv", ".parquet"):
        raise SelectionError(f"out: expected a name that ends in .csv or .parquet, got {path!r}")


def write_picks(picks: Picks, path: str) -> None:
    """Write row and score in order of choice, as .csv or .parquet. Raises SelectionError for another ending."""
    check_out(path)
    if path.endswith(".parquet"):
        write_bytes(absolute(path), table_bytes(picks.to_table()))
    else:
        text = io.BytesIO()
        pacsv.write_csv(picks.to_table(), text)
        write_bytes(absolute(path), text.getvalue())
