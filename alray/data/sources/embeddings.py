"""Brought-in embeddings: one .npz with features, optionally labels, a test mask and pretext losses; no images."""

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

from alray.data.sources.parquet import class_texts
from alray.data.sources.scan import IMAGES, PROBLEMS, CatalogError, ScanOptions, Scan, list_files, table
from alray.data.sources.source import Found, Source
from alray.store import absolute, filesystem

_EMBEDDING_NAMES = ("features", "embedding", "embeddings", "x")
_LABELS = ("label", "labels", "y")
_TEST = ("is_test", "is_val", "test")
_PRETEXT = ("pretext_loss",)
_AND = "+"  # joins the hash of the embeddings with that of the pretext losses


class Embeddings(Source):
    """Rows are embeddings: the place of one is its position in the array, so that none may be left out."""

    name: ClassVar[str] = "embeddings"
    extensions: ClassVar[tuple[str, ...]] = (".npz",)
    decoded: ClassVar[bool] = False
    can_exclude: ClassVar[bool] = False

    def check(self, test_root: str) -> None:
        """What is test is said in the same file."""
        if test_root:
            raise CatalogError("test_root: embeddings say in the same .npz what is test (is_test, is_val or test)")

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """One row per embedding; key and offset are its position, so that row and array position are the same.

        Raises CatalogError where the arrays are missing, of other shapes or types, or not finite (but for pretext
        losses of test rows, which nobody reads).
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
                raise CatalogError(f"{source}: {_PRETEXT[0]}: expected floats (sorted as numbers), got {losses.dtype}")
            _check_finite(f"{_PRETEXT[0]} (but of test rows)", np.where(test, 0, losses), source)
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
        """The embeddings (n, d) as stored. Raises CatalogError where they changed since they were indexed."""
        with _opened(uri) as arrays:
            features = _features(arrays, uri)
        _check_same("embeddings", features, content.partition(_AND)[0], uri)
        return features

    def pretext_loss(self, uri: str, content: str) -> npt.NDArray[np.float64]:
        """The pretext losses (n,) that came with the embeddings; content: as the scan gave it.

        Raises CatalogError where there are none, or others now.
        """
        mark = content.partition(_AND)[2]
        if not mark:
            raise CatalogError(f"{uri}: no pretext losses were brought: expected an array called {_PRETEXT[0]}")
        with _opened(uri) as arrays:
            losses = arrays.get(_PRETEXT[0])
        if losses is None:
            raise CatalogError(f"{uri}: expected an array called {_PRETEXT[0]}, as when it was indexed, got none")
        _check_same("pretext losses", losses, mark, uri)
        return losses.astype(np.float64)

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """There are no images."""
        raise CatalogError("embeddings that were brought in have no images to read")

    def provided_columns(self, content: str) -> frozenset[str]:
        """Embeddings, and pretext losses where there were some when the source was indexed."""
        return frozenset({"embedding", *(_PRETEXT if _AND in content else ())})


def holds_pretext_loss(source: str) -> bool:
    """Whether the file has pretext losses now, whatever it had when it was indexed. Raises CatalogError."""
    with _opened(source) as arrays:
        return _PRETEXT[0] in arrays


@contextmanager
def _opened(source: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz by name, each read when it is asked for. Raises CatalogError where it is none."""
    try:
        fs, path = filesystem(absolute(source))
        with fs.open_input_file(path) as file, np.load(file, allow_pickle=False) as arrays:
            if not hasattr(arrays, "files"):
                raise ValueError("it holds one array without a name")
            yield arrays
    except CatalogError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CatalogError(f"{source}: cannot be read as .npz: {error}") from error


def _joined(features: np.ndarray, losses: np.ndarray | None) -> str:
    return _fingerprint(features) + ("" if losses is None else _AND + _fingerprint(losses))


def _fingerprint(array: np.ndarray) -> str:
    """16 hex digits of shape, type and values."""
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
        raise CatalogError(f"{source}: {name}: {bad} rows are not finite, the first is {finite.argmin()}")


def _features(arrays: Mapping[str, np.ndarray], source: str) -> npt.NDArray[np.floating]:
    """The embeddings (n, d), whatever they are called. Raises CatalogError where there are none."""
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
    """(n,) which rows are test. Raises CatalogError for anything but true and false, 0 and 1: what "False" or NaN would
    mean as a flag is not what they say."""
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
