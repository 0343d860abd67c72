"""The user's own embeddings without images: one .npz with features, and optionally labels, a test mask and pretext
losses."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.sources.listing import list_files
from alray.data.sources.parquet import class_texts
from alray.data.sources.scan import IMAGES, PROBLEMS, CatalogError, Scan, ScanOptions, table
from alray.data.sources.source import Found, Source
from alray.store import absolute, filesystem

_EMBEDDING_NAMES = ("features", "embedding", "embeddings", "x")
_LABELS = ("label", "labels", "y")
_TEST = ("is_test", "is_val", "test")
_PRETEXT = ("pretext_loss",)
_AND = "+"  # joins the hash of the embeddings with that of the pretext losses


class Embeddings(Source):
    """Each row is an embedding. Its row number is its position in the array, so no row can be left out."""

    name: ClassVar[str] = "embeddings"
    extensions: ClassVar[tuple[str, ...]] = (".npz",)
    decoded: ClassVar[bool] = False
    can_exclude: ClassVar[bool] = False

    def check(self, test_root: str) -> None:
        """Refuse a separate test set: the same file says which rows are test."""
        if test_root:
            raise CatalogError(
                "test_root: expected none, because an array is_test, is_val or test in the .npz marks the test rows, "
                f"got {test_root}"
            )

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """One row per embedding; key and offset are its position, so that row and array position are the same.

        Raises CatalogError if an array is missing, has another shape or type, or has values that are not finite.
        Pretext losses of test rows may be anything, because they are not read.
        """
        files = list_files(source)
        if len(files) != 1:
            raise CatalogError(f"{source}: expected one .npz file, got {len(files)} files")
        with _opened(source) as arrays:
            features = _features(arrays, source)
            n = len(features)
            names = _LABELS if options.label_column in ("", "label") else (options.label_column,)
            labels, losses = (_vector(arrays, kind, n, source) for kind in (names, _PRETEXT))
            test = _flags(arrays, n, source)
        _check_finite("features", features, source)
        if losses is not None:
            if losses.dtype.kind != "f":
                raise CatalogError(f"{source}: {_PRETEXT[0]}: expected floats, got {losses.dtype}")
            _check_finite(f"{_PRETEXT[0]} outside the test rows", np.where(test, 0, losses), source)
        width = max(9, len(str(n)))
        columns = {
            "key": [f"{row:0{width}d}" for row in range(n)],
            "uri": [absolute(source)] * n,
            "offset": np.arange(n),
            "label": pa.nulls(n, pa.string()) if labels is None else _texts(labels, source),
            "split": np.where(test, "test", "train"),
        }
        return Scan(table(IMAGES, columns), PROBLEMS.empty_table(), content=_joined(features, losses))

    def embedding(self, uri: str, content: str) -> npt.NDArray[np.floating]:
        """The embeddings (n, d) with their stored type. Raises CatalogError if they changed since they were indexed."""
        with _opened(uri) as arrays:
            features = _features(arrays, uri)
        _check_same("embeddings", features, content.partition(_AND)[0], uri)
        return features

    def pretext_loss(self, uri: str, content: str) -> npt.NDArray[np.float64]:
        """The user's own pretext losses (n,). content: `Scan.content`.

        Raises CatalogError if there are none or if they changed since they were indexed.
        """
        mark = content.partition(_AND)[2]
        if not mark:
            raise CatalogError(f"{uri}: expected pretext losses in an array called {_PRETEXT[0]}, got none")
        with _opened(uri) as arrays:
            losses = arrays.get(_PRETEXT[0])
        if losses is None:
            raise CatalogError(f"{uri}: expected an array called {_PRETEXT[0]}, as when it was indexed, got none")
        _check_same("pretext losses", losses, mark, uri)
        return losses.astype(np.float64)

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """Raise CatalogError, because there are no images."""
        raise CatalogError("expected a source of images, got embeddings")

    def provided_columns(self, content: str) -> frozenset[str]:
        """The embedding, and the pretext loss if the file had pretext losses when it was indexed."""
        return frozenset({"embedding", *(_PRETEXT if _AND in content else ())})


def holds_pretext_loss(source: str) -> bool:
    """Whether the file has pretext losses now; it may have had none when it was indexed. Raises CatalogError."""
    with _opened(source) as arrays:
        return _PRETEXT[0] in arrays


@contextmanager
def _opened(source: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Context manager: yields the arrays of an .npz by name. An array is read when it is accessed.

    Raises CatalogError if the file is not an .npz.
    """
    try:
        fs, path = filesystem(absolute(source))
        with fs.open_input_file(path) as file, np.load(file, allow_pickle=False) as arrays:
            if not hasattr(arrays, "files"):
                raise ValueError("it has one array without a name")
            yield arrays
    except CatalogError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CatalogError(f"{source}: cannot be read as .npz: {error}") from error


def _joined(features: np.ndarray, losses: np.ndarray | None) -> str:
    return _fingerprint(features) + ("" if losses is None else _AND + _fingerprint(losses))


def _fingerprint(array: np.ndarray) -> str:
    """16 hex digits that depend on shape, type and values."""
    digest = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_same(what: str, array: np.ndarray, mark: str, source: str) -> None:
    if _fingerprint(array) != mark:
        raise CatalogError(f"{source}: the {what} changed since they were indexed; index them again")


def _check_finite(name: str, array: np.ndarray, source: str) -> None:
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        bad = len(array) - int(finite.sum())
        raise CatalogError(
            f"{source}: {name}: expected finite values, got {bad} rows with others, first row {finite.argmin()}"
        )


def _features(arrays: Mapping[str, np.ndarray], source: str) -> npt.NDArray[np.floating]:
    """The embeddings (n, d), under the first of `_EMBEDDING_NAMES` that exists. Raises CatalogError if there are
    none."""
    for name in _EMBEDDING_NAMES:
        if name in arrays:
            array = arrays[name]
            if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
                raise CatalogError(f"{source}: {name}: expected (n, d) floats, got {array.shape} {array.dtype}")
            return array
    raise CatalogError(f"{source}: expected an array called {' or '.join(_EMBEDDING_NAMES)}, got {', '.join(arrays)}")


def _texts(labels: np.ndarray, source: str) -> pa.Array:
    try:
        return class_texts(pa.array(labels), None)
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{source}: label: expected whole numbers or names: {error}") from None


def _flags(arrays: Mapping[str, np.ndarray], n: int, source: str) -> npt.NDArray[np.bool_]:
    """(n,) bool: which rows are test. Raises CatalogError for other values than true, false, 0 and 1: Python would read
    the text "False" and NaN as true."""
    array = _vector(arrays, _TEST, n, source)
    if array is None:
        return np.zeros(n, bool)
    known = np.isin(array, (0, 1)) if array.dtype.kind in "biuf" else np.zeros(n, bool)
    if not known.all():
        name, row = next(name for name in _TEST if name in arrays), int(known.argmin())
        raise CatalogError(
            f"{source}: {name}: expected true and false, or 0 and 1, got {array[row].item()!r} ({array.dtype}) in row "
            f"{row}"
        )
    return np.asarray(array, bool)


def _vector(arrays: Mapping[str, np.ndarray], names: tuple[str, ...], n: int, source: str) -> Any:
    for name in names:
        if name in arrays:
            array = arrays[name]
            if array.shape != (n,):
                raise CatalogError(f"{source}: {name}: expected one value per row, ({n},), got {array.shape}")
            return array
    return None


EMBEDDINGS = Embeddings()
