"""Files of `alray select`: rows and heads that users bring, picks they take away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.csv as pacsv

from alray.selection.protocol import Picks, SelectionError
from alray.store import absolute, table_bytes, write_bytes


def read_rows(path: str) -> npt.NDArray[np.int64]:
    """Row numbers from .npy, or from text with one number a line; no path, no rows. Raises SelectionError."""
    if not path:
        return np.empty(0, np.int64)
    try:
        values = np.load(path) if path.endswith(".npy") else np.loadtxt(path, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise SelectionError(f"{path}: expected row numbers, one a line, got something else ({error})") from None
    return np.asarray(values)


def read_head(weight: str, bias: str) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None:
    """Weight (c, d) and bias (c,) from .npy files; a weight without a bias has zero bias."""
    if not weight:
        return None
    matrix = np.load(weight)
    return matrix, np.load(bias) if bias else np.zeros(len(matrix), matrix.dtype)


def write_picks(picks: Picks, path: str) -> None:
    """Write row and score in order of choice, as .csv or .parquet. Raises SelectionError for another ending."""
    suffix = Path(path).suffix
    if suffix == ".parquet":
        write_bytes(absolute(path), table_bytes(picks.to_table()))
    elif suffix == ".csv":
        from io import BytesIO

        text = BytesIO()
        pacsv.write_csv(picks.to_table(), text)
        write_bytes(absolute(path), text.getvalue())
    else:
        raise SelectionError(f"out: expected a name that ends in .csv or .parquet, got {path!r}")
