"""Find and read one column of features: in Arrow tables and data frames, Parquet, .npy, .npz, a Ray Dataset.

The column has the name of the argument, or one of its usual names, or is the only one that fits
(`alray.data.sources.columns`). What was taken under another name is logged. Letters: n rows, w width of a column.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alray.credentials import redacted
from alray.data.sources import columns
from alray.data.sources.damaged import why_no_array
from alray.data.sources.npz import Header, read_headers
from alray.features.arrays import DISCRIMINATOR, EMBEDDING, LOGITS, PRETEXT_LOSS, Array, Rows
from alray.selection.protocol import HIDDEN_LABELS, SelectionError
from alray.store import absolute, filesystem, is_remote, read_bytes

ROW = "row"
_VECTORS = (PRETEXT_LOSS, DISCRIMINATOR, HIDDEN_LABELS)  # the arguments with one number per row
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".json", ".jsonl")
_BY_NAME = "the name of the argument"
_ROLES = {
    EMBEDDING: columns.EMBEDDINGS,
    LOGITS: columns.Role(LOGITS, (LOGITS,), ("logit", "scores", "outputs", "predictions"), _BY_NAME),
    PRETEXT_LOSS: columns.Role("pretext losses", (PRETEXT_LOSS,), ("pretext_losses", "loss", "losses"), _BY_NAME),
    DISCRIMINATOR: columns.Role("the discriminator's logits", (DISCRIMINATOR,), (), _BY_NAME),
    HIDDEN_LABELS: columns.Role("labels", (HIDDEN_LABELS,), (*columns.LABELS.first, *columns.LABELS.usual), _BY_NAME),
}
_log = logging.getLogger(__name__)


def dimensions(name: str) -> int:
    """The number of dimensions that the array of an argument has."""
    return 1 if name in _VECTORS else 2


def from_file(name: str, path: str) -> tuple[Rows | None, Array]:
    """Row numbers, where the file has them, and the array. Raises SelectionError; .npy files are mapped, not copied."""
    absolute(path)  # refuses credentials
    try:
        if path.endswith((".npy", ".npz")):
            return None, _numpy(name, path)
        return _from_parquet(name, path)
    except FileNotFoundError:
        raise SelectionError(f"{name}: no such file: {redacted(path)}") from None
    except SelectionError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        if path.lower().endswith(_TEXT):
            raise SelectionError(
                f"{name}: {redacted(path)}: arrays are not read from text such as CSV; give .npy, .npz or Parquet"
            ) from None
        raise SelectionError(
            f"{name}: {redacted(path)} is not .npy, .npz or Parquet, or is damaged: {why_no_array(path, error)}"
        ) from None


def refuse_masked(name: str, value: Any) -> None:
    """Raise SelectionError for an array with masked numbers: NumPy would read what is under the mask."""
    masked = int(np.ma.getmaskarray(value).sum()) if isinstance(value, np.ma.MaskedArray) else 0
    if masked:
        raise SelectionError(f"{name}: expected numbers everywhere, got {masked:,} masked ones; leave them out")


def from_arrow(name: str, value: Any) -> tuple[Rows | None, Array] | None:
    """Row numbers and the array of an Arrow table, column or data frame; None for a value of another kind.

    A data frame of numbers without a column that is recognised is None, too: the whole of it may be the array.
    """
    where = f"{name}: the {type(value).__name__}"
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return None, as_array(value, where)
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    is_frame = not isinstance(value, pa.Table)
    if is_frame and not hasattr(value, "__arrow_c_stream__"):
        return None
    try:
        table = pa.table(value)
    except (TypeError, ValueError, pa.ArrowException):
        return _series(value, where)
    found = _found(name, table.schema, where, may_lack=is_frame)
    return None if found is None else _of_table(table, found, where)


def _series(value: Any, where: str) -> tuple[None, Array] | None:
    try:
        return None, as_array(pa.chunked_array(value), where)
    except (TypeError, ValueError, pa.ArrowException):
        return None


def from_dataset(name: str, dataset: Any) -> tuple[Rows, Array]:
    """One column of a Ray Dataset, read into memory. Blocks arrive in any order: the Dataset must have row numbers."""
    names = dataset.schema().names
    found = _by_name(name, names, names, f"{name}: the Ray Dataset")
    if found is None or ROW not in names:
        raise SelectionError(
            f"{name}: expected a Ray Dataset with the columns {ROW!r} and {name!r}, got {', '.join(names)}"
        )
    batches = list(dataset.select_columns([ROW, found]).iter_batches(batch_format="numpy"))
    if not batches:
        raise SelectionError(f"{name}: the Ray Dataset is empty")
    rows = np.concatenate([batch[ROW] for batch in batches]).astype(np.int64)
    return rows, np.concatenate([np.stack(list(batch[found])) for batch in batches])


def as_array(column: pa.ChunkedArray | pa.Array, where: str) -> Array:
    """An Arrow column as (n,) or, for lists of one length, (n, w). Raises SelectionError."""
    column = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    if column.null_count:
        raise SelectionError(f"{where}: expected no nulls, got {column.null_count:,}")
    parts = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    kind = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
    whole = pa.chunked_array(parts, type=kind).combine_chunks()
    if pa.types.is_dictionary(kind):
        whole = whole.dictionary_decode()
    if not _is_list(kind):
        return np.asarray(whole.to_numpy(zero_copy_only=False))
    flat = np.asarray(whole.flatten().to_numpy(zero_copy_only=False))
    widths = np.array([kind.list_size]) if pa.types.is_fixed_size_list(kind) else np.diff(whole.offsets.to_numpy())
    if len(set(widths.tolist())) > 1:
        raise SelectionError(f"{where}: expected lists of one length, got {widths.min()} to {widths.max()}")
    return flat.reshape(len(whole), -1) if len(whole) else flat.reshape(0, 1)


def read_npy(path: str) -> Array:
    """The array of a .npy file, mapped where the file is local. Raises what NumPy raises."""
    if is_remote(path):
        return np.asarray(np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _numpy(name: str, path: str) -> Array:
    if path.endswith(".npy"):
        return read_npy(path)
    with np.load(io.BytesIO(read_bytes(path)) if is_remote(path) else path, allow_pickle=False) as arrays:
        headers = read_headers(arrays)
        if name not in headers and len(headers) == 1:
            return np.asarray(arrays[next(iter(headers))])
        return np.asarray(arrays[_array_of(name, headers, path)])


def _array_of(name: str, headers: Mapping[str, Header], path: str) -> str:
    kinds = "iu" if name == HIDDEN_LABELS else "fiu"
    fitting = [
        one
        for one, header in headers.items()
        if len(header.shape) == dimensions(name) and header.dtype.kind in kinds and one != ROW
    ]
    found = _by_name(name, list(headers), fitting, path)
    if found is None:
        raise SelectionError(f"{path}: expected an array {name!r}, got {columns.listed(headers)}")
    return found


def _from_parquet(name: str, path: str) -> tuple[Rows | None, Array]:
    fs, inside = filesystem(path)
    if fs.get_file_info(inside).type == pafs.FileType.NotFound:
        raise FileNotFoundError(path)
    dataset = pq.ParquetDataset(inside, filesystem=fs)
    found = _found(name, dataset.schema, path)
    assert found is not None
    return _of_table(dataset.read(columns=[ROW, found] if ROW in dataset.schema.names else [found]), found, path)


def _of_table(table: pa.Table, name: str, where: str) -> tuple[Rows | None, Array]:
    rows = table[ROW].to_numpy().astype(np.int64) if ROW in table.column_names else None
    return rows, as_array(table[name], where)


def _found(name: str, schema: pa.Schema, where: str, may_lack: bool = False) -> str | None:
    """The column of an argument. may_lack: return None where there is none, instead of raising SelectionError."""
    fits = _fits_vector if dimensions(name) == 1 else _fits_matrix
    found = _by_name(name, schema.names, [field.name for field in schema if field.name != ROW and fits(field)], where)
    if found is None and not may_lack:
        raise SelectionError(f"{where}: expected a column {name!r}, got {columns.listed(schema.names)}")
    return found


def _fits_vector(field: pa.Field) -> bool:
    return bool(pa.types.is_floating(field.type) or pa.types.is_integer(field.type))


def _fits_matrix(field: pa.Field) -> bool:
    kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    return _is_list(kind) and bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _by_name(name: str, names: Sequence[str], fitting: Sequence[str], where: str) -> str | None:
    """The argument's own name if it is there, else the only fitting column, by a usual name if several fit."""
    if name in names:
        return name
    role = _ROLES[name]
    try:
        found = columns.find(role, fitting, every=names)
    except columns.ColumnError as error:
        raise SelectionError(f"{where}: {error}") from None
    if found is None and dimensions(name) == 2 and len(fitting) == 1:
        other = next((one for one, its in _ROLES.items() if one != name and its.known(fitting[0])), None)
        if other is not None:
            raise SelectionError(
                f"{where}: expected {role.what}, got {fitting[0]!r}, which is a name of {_ROLES[other].what}; if it is "
                f"right, name it {name!r}"
            )
        found = columns.Found(fitting[0])
    if found is None:
        return None
    _log.warning("%s: no %r is there: took %r of %s", where, name, found.name, columns.listed(names))
    return found.name
