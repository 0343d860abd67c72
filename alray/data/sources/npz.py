"""Find the arrays of an .npz that a run on embeddings needs, by their names and shapes, and read labels and splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.sources import columns
from alray.data.sources.label_text import as_text
from alray.data.sources.scan import CatalogError, ScanOptions
from alray.data.sources.split_names import ROLES, split_role

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """Shape and type of an array that was not read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"

    @property
    def is_features(self) -> bool:
        """Whether it can be embeddings: (n, d) floats."""
        return len(self.shape) == 2 and self.dtype.kind == "f"


@dataclass(frozen=True)
class Arrays:
    """Names of the arrays; an empty name where there is none. notes: sentences on guesses."""

    features: str
    labels: str
    tests: str
    splits: str
    notes: tuple[str, ...]


def read_headers(file: Any) -> dict[str, Header]:
    """The headers of all arrays of an open .npz; structured arrays and other members are left out.

    Raises ValueError if there is no array with a name.
    """
    if not hasattr(file, "files"):
        raise ValueError("it has one array without a name")
    found: dict[str, Header] = {}
    for name in file.files:
        with file.zip.open(name if name in file.zip.namelist() else f"{name}.npy") as member:
            if member.read(6) != b"\x93NUMPY":
                continue
            read = _READERS.get(tuple(member.read(2)))
            if read is not None:
                shape, _, dtype = read(member)
                found[name] = Header(shape, dtype)
    return found


def find_arrays(headers: Mapping[str, Header], options: ScanOptions, source: str) -> Arrays:
    """The arrays by what they hold. Raises CatalogError if there are no embeddings, or for an ambiguous choice."""
    names = list(headers)
    notes: list[str] = []

    def name_of(role: columns.Role, wanted: str) -> str:
        try:
            found = columns.find(role, names, wanted)
        except columns.ColumnError as error:
            raise CatalogError(f"{source}: {error}") from None
        if found and found.note:
            notes.append(found.note)
        return found.name if found else ""

    features = find_features(headers, options.image_column, source)
    notes.extend([features.note] if features.note else [])
    labels = name_of(columns.LABEL_ARRAYS, options.label_column) if options.label_column else ""
    tests, splits = name_of(columns.TESTS, ""), name_of(columns.SPLITS, "")
    if tests and splits:
        raise CatalogError(f"{source}: expected one array that tells the test rows, got {tests} and {splits}")
    if options.label_column and not labels:
        notes.append(
            f"No array of labels was recognised, so all rows are unlabeled. There are: {columns.listed(names)}. Name "
            f"the array with {columns.LABEL_ARRAYS.option}."
        )
    unread = [name for name in names if name not in (features.name, labels, tests, splits, "pretext_loss")]
    if unread:
        notes.append(f"Arrays that are not read: {columns.listed(unread)}.")
    return Arrays(features.name, labels, tests, splits, tuple(notes))


def find_features(headers: Mapping[str, Header], wanted: str, source: str) -> columns.Found:
    """The array of embeddings: by its name, or the only one of (n, d) floats. Raises CatalogError if there is none."""
    names = list(headers)
    wanted = "" if wanted == columns.IMAGES.first[0] else wanted
    try:
        found = columns.find(columns.EMBEDDING_ARRAYS, names, wanted)
    except columns.ColumnError as error:
        raise CatalogError(f"{source}: {error}") from None
    fitting = [name for name, header in headers.items() if header.is_features]
    if found is None and len(fitting) == 1:
        return columns.Found(fitting[0], columns.guessed(columns.EMBEDDING_ARRAYS, names, fitting[0]))
    if found is None:
        there = [f"{name} {header}" for name, header in headers.items()]
        raise CatalogError(f"{source}: {columns.missing(columns.EMBEDDING_ARRAYS, there, wanted)}")
    return found


def label_texts(name: str, labels: np.ndarray, source: str) -> pa.Array:
    """Labels (n,) as text, null where unknown. Raises CatalogError for values that are no names or whole numbers."""
    if labels.dtype.kind not in "biufUS":
        raise CatalogError(f"{source}: {name}: expected whole numbers or names, got {labels.dtype}")
    values = labels.astype(np.float64) if labels.dtype == np.float16 else labels
    return as_text(pa.array(values), None, lambda row: f"{source}: {name}: row {row}")


def split_names(
    found: Arrays, tests: np.ndarray | None, splits: np.ndarray | None, n: int, options: ScanOptions, source: str
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.bool_]]:
    """(n,) the name of each row's split, and (n,) bool: which rows are test.

    Raises CatalogError for flags that are not true and false, for names that are no split, and for splits to ignore:
    no row can be left out.
    """
    if splits is not None:
        names = np.char.strip(splits.astype(str))
    elif tests is not None:
        names = np.where(_flags(found.tests, tests, source), "test", "train")
    else:
        names = np.full(n, "train")
    distinct, at = np.unique(names, return_inverse=True)
    roles = [split_role(name, options.split) for name in distinct.tolist()]
    for name, role in zip(distinct.tolist(), roles, strict=True):
        if role not in ROLES:
            what = found.splits or found.tests or "split"
            why = " to ignore: no embedding can be left out" if role == "ignore" else ""
            raise CatalogError(
                f"{source}: {what}: expected names of splits that are used for training or testing, such as train, val "
                f"and test, got {name!r}{why}"
            )
    return names, (np.array(roles, np.str_) == "test")[at]


def _flags(name: str, array: np.ndarray, source: str) -> npt.NDArray[np.bool_]:
    """(n,) bool: which rows are test. Raises CatalogError for other values than true, false, 0 and 1: Python would read
    the text "False" and NaN as true."""
    known = np.isin(array, (0, 1)) if array.dtype.kind in "biuf" else np.zeros(len(array), bool)
    if not known.all():
        row = int(known.argmin())
        raise CatalogError(
            f"{source}: {name}: expected true and false, or 0 and 1, got {array[row].item()!r} ({array.dtype}) in row "
            f"{row}"
        )
    return np.asarray(array, bool)
