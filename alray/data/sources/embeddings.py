"""The user's own embeddings without images: one .npz with features, and optionally labels, a test mask and pretext
losses."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.sources import columns
from alray.data.sources.damaged import first_bytes
from alray.data.sources.listing import list_files
from alray.data.sources.npz import find_arrays, find_features, label_texts, read_headers, split_names
from alray.data.sources.scan import IMAGES, PROBLEMS, CatalogError, Scan, ScanOptions, table
from alray.data.sources.source import Found, Source
from alray.reasons import LFS_POINTER, is_lfs_pointer, why
from alray.store import absolute, filesystem

_PRETEXT = "pretext_loss"
# What reading a damaged .npz raises.
_DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
_AND = "+"  # joins the hash of the embeddings with that of the pretext losses


class Embeddings(Source):
    """Each row is an embedding. Its row number is its position in the array, so no row can be left out."""

    name: ClassVar[str] = "embeddings"
    about: ClassVar[str] = (
        "Embeddings of your own without images: one .npz with an array (n, d) of floats, called "
        f"{' or '.join(columns.EMBEDDING_ARRAYS.first)}; for pt4al also {_PRETEXT[0]} (n,)."
    )
    labels: ClassVar[str] = (
        f"An array (n,) called {' or '.join(columns.LABEL_ARRAYS.first)}, or by another usual name; "
        f"test rows are those that an array {' or '.join(columns.TESTS.first)} marks."
    )
    keys: ClassVar[str] = "The position in the array, with nine digits."
    extensions: ClassVar[tuple[str, ...]] = (".npz",)
    decoded: ClassVar[bool] = False
    can_exclude: ClassVar[bool] = False
    uses: ClassVar[frozenset[str]] = frozenset({"label_column", "image_column"})

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
            found = find_arrays(arrays.headers, options, source)
            features = _features(arrays, found.features, source)
            n = len(features)
            labels, losses, tests, splits = (
                _vector(arrays, name, n, source) for name in (found.labels, _PRETEXT, found.tests, found.splits)
            )
        _check_finite(found.features, features, source)
        split, test = split_names(found, tests, splits, n, options, source)
        if losses is not None:
            if losses.dtype.kind != "f":
                raise CatalogError(f"{source}: {_PRETEXT}: expected floats, got {losses.dtype}")
            _check_finite(f"{_PRETEXT} outside the test rows", np.where(test, 0, losses), source)
        width = max(9, len(str(n)))
        columns = {
            "key": [f"{row:0{width}d}" for row in range(n)],
            "uri": [absolute(source)] * n,
            "offset": np.arange(n),
            "label": pa.nulls(n, pa.string()) if labels is None else label_texts(found.labels, labels, source),
            "split": split,
        }
        return Scan(
            table(IMAGES, columns), PROBLEMS.empty_table(), content=_joined(features, losses), notes=found.notes,
            image_column=found.features, files=files,
        )  # fmt: skip

    def reads(self, names: pa.ChunkedArray) -> pa.ChunkedArray:
        """The source is one file of any name."""
        return pa.chunked_array([[True] * len(names)], pa.bool_())

    def embedding(self, uri: str, content: str, column: str) -> npt.NDArray[np.floating]:
        """The embeddings (n, d) with their stored type. Raises CatalogError if they changed since they were indexed."""
        with _opened(uri) as arrays:
            features = _features(arrays, find_features(arrays.headers, column, uri).name, uri)
        _check_same("embeddings", features, content.partition(_AND)[0], uri)
        return features

    def pretext_loss(self, uri: str, content: str) -> npt.NDArray[np.float64]:
        """The user's own pretext losses (n,). content: `Scan.content`.

        Raises CatalogError if there are none or if they changed since they were indexed.
        """
        mark = content.partition(_AND)[2]
        if not mark:
            raise CatalogError(f"{uri}: expected pretext losses in an array called {_PRETEXT}, got none")
        with _opened(uri) as arrays:
            losses = arrays[_PRETEXT] if _PRETEXT in arrays.headers else None
        if losses is None:
            raise CatalogError(f"{uri}: expected an array called {_PRETEXT}, as when it was indexed, got none")
        _check_same("pretext losses", losses, mark, uri)
        return losses.astype(np.float64)

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """Raise CatalogError, because there are no images."""
        raise CatalogError("expected a source of images, got embeddings")

    def provided_columns(self, content: str) -> frozenset[str]:
        """The embedding, and the pretext loss if the file had pretext losses when it was indexed."""
        return frozenset({"embedding", *((_PRETEXT,) if _AND in content else ())})


class _Arrays:
    """The arrays of an open .npz by name. An array is read when it is accessed."""

    def __init__(self, file: Any, source: str) -> None:
        self._file, self._source = file, source
        with _damage_told(source):
            self._arrays = np.load(file, allow_pickle=False)
            self.headers = read_headers(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        if self.headers[name].dtype.hasobject:
            raise CatalogError(
                f"{self._source}: {name}: expected numbers or text, got Python objects, which only pickle can read; "
                "save numbers as an array of numbers, and names as an array of text (np.array(names, str))"
            )
        with _damage_told(self._source):
            array: np.ndarray = self._arrays[name]
            return array


@contextmanager
def _damage_told(source: str) -> Iterator[None]:
    """Context manager: raise CatalogError for what reading a damaged .npz raises."""
    try:
        yield
    except _DAMAGE as error:
        raise CatalogError(f"{source}: cannot be read as .npz: {why(error)}; write the file again") from error


@contextmanager
def _opened(source: str) -> Iterator[_Arrays]:
    """Context manager: yields the arrays of an .npz. Raises CatalogError if the file is not an .npz, or damaged."""
    uri = absolute(source)
    head = first_bytes(uri)
    if head and not head.startswith(b"PK"):
        got = LFS_POINTER if is_lfs_pointer(head) else f"expected an .npz, got a file that begins with {head[:12]!r}"
        raise CatalogError(f"{source}: cannot be read as .npz: {got}")
    fs, path = filesystem(uri)
    try:
        file = fs.open_input_file(path)
    except OSError as error:
        raise CatalogError(f"{source}: cannot be read: {why(error)}") from error
    with file:
        yield _Arrays(file, source)


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


def _features(arrays: _Arrays, name: str, source: str) -> npt.NDArray[np.floating]:
    """The embeddings (n, d). Raises CatalogError for another shape or type."""
    header = arrays.headers[name]
    if not header.is_features or not np.prod(header.shape):
        raise CatalogError(f"{source}: {name}: expected (n, d) floats, got {header}")
    return arrays[name]


def _vector(arrays: _Arrays, name: str, n: int, source: str) -> np.ndarray | None:
    """An array (n,); None if there is none of this name. Raises CatalogError for another shape."""
    if name not in arrays.headers:
        return None
    array = arrays[name]
    if array.shape != (n,):
        raise CatalogError(f"{source}: {name}: expected one value per row, ({n},), got {array.shape}")
    return array


EMBEDDINGS = Embeddings()
