"""What every kind of source gives the indexer: references to images, in columns, and the problems met on the way."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from alray.store import Store, StoreError, absolute, filesystem, is_remote, join, read_bytes

# label: the class by name, or by number as text; null where unknown. split: null where the source does not say.
IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
PROBLEMS = pa.schema([("key", pa.string()), ("uri", pa.string()), ("reason", pa.string())])
FILES = pa.schema([("name", pa.string()), ("uri", pa.string()), ("size", pa.int64())])

SPLITS = {"train": "train", "val": "test", "valid": "test", "validation": "test", "test": "test"}
CLASSES_FILE = "alray-classes.txt"
_IMAGE_EXTENSIONS = frozenset(["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "jp2"])


class CatalogError(ValueError):
    """A source that cannot be indexed, or a catalog that is not there; the message names what and why."""


@dataclass(frozen=True)
class ScanOptions:
    """How to read a source. prefix: put before keys the source does not name itself; classes: their given order."""

    key: str
    label_column: str
    image_column: str
    prefix: str
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Scan:
    """What one source holds. images: the IMAGES columns; problems: what cannot be used, with the reason."""

    images: pa.Table
    problems: pa.Table
    classes: tuple[str, ...] | None = None  # in the order the source gives them, where it does
    ignored: int = 0  # files that are no images
    content: str = ""  # a hash of the content, where the sizes of the images do not stand for it


def table(schema: pa.Schema, columns: Mapping[str, object]) -> pa.Table:
    """Columns (lists or arrays; one that is missing is all null) as a table of the schema."""
    given = {name: pa.array(column, schema.field(name).type) for name, column in columns.items()}
    n = len(next(iter(given.values())))
    return pa.table({name: given.get(name, pa.nulls(n, schema.field(name).type)) for name in schema.names})


def problem(key: str, uri: str, reason: str) -> pa.Table:
    """One row of problems. The reason is 'kind: details'; problems are counted by kind."""
    return table(PROBLEMS, {"key": [key], "uri": [uri], "reason": [reason]})


def concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Several tables of the schema as one; none give an empty one."""
    return pa.concat_tables([schema.empty_table(), *tables])


def file_name(uri: str) -> str:
    """The last part of a path or URI."""
    return uri.rpartition("/")[2]


def is_image_name(name: str) -> bool:
    """Whether the name has an image extension and no part of the path is hidden."""
    extension = name.rsplit(".", 1)[-1].lower()
    return extension in _IMAGE_EXTENSIONS and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def list_files(source: str) -> pa.Table:
    """Every file of a directory (nested too), of a glob, or the one file, as FILES sorted by name.

    The name is relative to the directory (to the last directory before the first wildcard of a glob).
    Raises CatalogError where there is nothing.
    """
    uri = absolute(source)
    try:
        fs, path = filesystem(uri)
        kind = fs.get_file_info(path).type
        if kind == pafs.FileType.File:
            size = fs.get_file_info(path).size
            return table(FILES, {"name": [file_name(uri)], "uri": [uri], "size": [size]})
        if kind == pafs.FileType.Directory:
            return _walk(uri, recursive=True)
        if re.search(r"[*?\[]", uri):
            return _glob(uri)
    except (OSError, StoreError) as error:
        raise CatalogError(f"{source}: cannot be read: {error}") from error
    raise CatalogError(f"{source}: no such file or directory")


def _glob(uri: str) -> pa.Table:
    place = uri[: re.search(r"[*?\[]", uri).start()].rpartition("/")[0]  # type: ignore[union-attr]
    pattern = uri[len(place) + 1 :].split("/")
    files = _walk(place, recursive=len(pattern) > 1)
    keep = [
        len(parts := name.split("/")) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern))
        for name in files["name"].to_pylist()
    ]
    if not any(keep):
        raise CatalogError(f"{uri}: no file matches")
    return files.filter(pa.array(keep))


def _walk(uri: str, recursive: bool) -> pa.Table:
    if is_remote(uri):
        fs, path = filesystem(uri)
        infos = fs.get_file_info(pafs.FileSelector(path, recursive=recursive))
        start = len(path.strip("/")) + 1
        found = [(info.path.lstrip("/")[start:], info.size) for info in infos if info.type == pafs.FileType.File]
    else:
        found = list(_walk_local(uri, recursive))
    names = pa.array([name for name, _ in found], pa.string())
    uris = pc.binary_join_element_wise(pa.scalar(uri.rstrip("/")), names, "/")
    return table(FILES, {"name": names, "uri": uris, "size": [size for _, size in found]}).sort_by("name")


def _walk_local(directory: str, recursive: bool) -> Iterator[tuple[str, int | None]]:
    """Names and sizes. A link that leads nowhere has a null size: pyarrow's own listing leaves it out in silence."""
    for folder, _, names in os.walk(directory, followlinks=True):
        inside = "" if folder == directory else f"{os.path.relpath(folder, directory)}/"
        for name in names:
            path = os.path.join(folder, name)
            yield inside + name, os.stat(path).st_size if os.path.exists(path) else None
        if not recursive:
            return


def with_extension(files: pa.Table, source: str, extensions: Sequence[str]) -> pa.Table:
    """The files that end in one of the extensions. Raises CatalogError where there are none."""
    keep = [name.lower().endswith(tuple(extensions)) and not _is_hidden(name) for name in files["name"].to_pylist()]
    if not any(keep):
        raise CatalogError(f"{source}: no {' or '.join(extensions)} file in it ({len(files)} files of other kinds)")
    return files.filter(pa.array(keep))


def read_classes(directory: str) -> tuple[str, ...] | None:
    """The class names of an alray-classes.txt (one a line) in the directory, where there is one."""
    if not Store(directory).has(CLASSES_FILE):
        return None
    text = read_bytes(join(directory, CLASSES_FILE)).decode()
    return tuple(line for line in text.splitlines() if line)


def agree(found: Iterable[tuple[str, ...] | None], what: str) -> tuple[str, ...] | None:
    """The one list of classes that all name which name any. Raises CatalogError where two differ."""
    orders = {classes for classes in found if classes is not None}
    if len(orders) > 1:
        few = " and ".join(", ".join(order[:5]) for order in sorted(orders)[:2])
        raise CatalogError(f"{what}: the classes are given in different orders ({few}); give the classes yourself")
    return next(iter(orders), None)


def splits_and_labels(names: Sequence[str]) -> tuple[list[str | None], list[str | None]]:
    """Split and class by directory: class/.../image, or train/class/.../image where all top directories name splits."""
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    has_splits = bool(tops) and tops <= SPLITS.keys()
    splits: list[str | None] = []
    labels: list[str | None] = []
    for name in names:
        parts = name.split("/")
        splits.append(SPLITS.get(parts[0]) if has_splits and len(parts) > 1 else None)
        inside = parts[1:] if splits[-1] else parts
        labels.append(inside[0] if len(inside) > 1 else None)
    return splits, labels


def split_of_file(name: str) -> str | None:
    """The split a tar or Parquet file says in its name, as in test-00000.tar or cifar10_train_00-of-03.parquet."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None
