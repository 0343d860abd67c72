"""Brought-in embeddings: one .npz with features, optionally labels and a test mask; no images."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.sources.parquet import class_texts
from alray.data.sources.scan import IMAGES, PROBLEMS, CatalogError, Options, Scan, list_files, table
from alray.store import absolute, read_bytes

EXTENSIONS = (".npz",)
FEATURES = ("features", "embedding", "embeddings", "x")
_LABELS = ("label", "labels", "y")
_TEST = ("is_test", "is_val", "test")


def scan(source: str, options: Options) -> Scan:
    """One row per embedding; key and offset are its position, so that row and array position are the same.

    Raises CatalogError where the arrays are missing, of other shapes, or not finite.
    """
    files = list_files(source)
    if len(files) != 1:
        raise CatalogError(f"{source}: expected one .npz file, got {len(files)} files")
    arrays = read_arrays(source)
    name = features_name(arrays, source)
    features = arrays[name]
    n = len(features)
    finite = np.isfinite(features).reshape(n, -1).all(1)
    if not finite.all():
        raise CatalogError(f"{source}: {name}: {n - finite.sum()} rows are not finite, the first is {finite.argmin()}")
    names = _LABELS if options.label_column in ("", "label") else (options.label_column,)
    labels = _vector(arrays, names, n, source)
    test = _vector(arrays, _TEST, n, source)
    width = max(9, len(str(n)))
    columns = {
        "key": [f"{row:0{width}d}" for row in range(n)],
        "uri": [absolute(source)] * n,
        "offset": np.arange(n),
        "label": pa.nulls(n, pa.string()) if labels is None else _texts(labels, source),
        "split": ["train"] * n if test is None else np.where(test.astype(bool), "test", "train"),
    }
    return Scan(table(IMAGES, columns), PROBLEMS.empty_table(), content=fingerprint(features))


def read_arrays(source: str) -> Mapping[str, np.ndarray]:
    """The arrays of an .npz, by name. Raises CatalogError where it is none."""
    try:
        with np.load(io.BytesIO(read_bytes(source)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise CatalogError(f"{source}: cannot be read as .npz: {error}") from error


def fingerprint(features: npt.NDArray[np.floating]) -> str:
    """16 hex digits of the shape, type and values of embeddings (n, d)."""
    digest = hashlib.blake2b(f"{features.dtype}{features.shape}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(features).tobytes())
    return digest.hexdigest()


def features_name(arrays: Mapping[str, np.ndarray], source: str) -> str:
    """Which array holds the embeddings (n, d). Raises CatalogError where none does."""
    for name in FEATURES:
        if name in arrays:
            array = arrays[name]
            if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
                raise CatalogError(f"{source}: {name}: expected (n, d) floats, got {array.shape} {array.dtype}")
            return name
    raise CatalogError(f"{source}: expected an array called {' or '.join(FEATURES)}, got {', '.join(arrays)}")


def _texts(labels: np.ndarray, source: str) -> pa.Array:
    try:
        return class_texts(pa.array(labels), None)
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{source}: label: expected whole numbers or names: {error}") from None


def _vector(arrays: Mapping[str, np.ndarray], names: tuple[str, ...], n: int, source: str) -> Any:
    for name in names:
        if name in arrays:
            if arrays[name].shape != (n,):
                raise CatalogError(f"{source}: {name}: expected one value per row, ({n},), got {arrays[name].shape}")
            return arrays[name]
    return None
