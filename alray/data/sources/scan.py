"""What the scan of a source returns: a table of references to images, and a table of problems. Also the functions that
several kinds of sources share."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from alray.checksums import is_list
from alray.store import StoreError, absolute, filesystem, is_file, is_remote, join, read_bytes

# label: the class by name, or by number as text; null where unknown. split: null where the source gives none.
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
    """A source cannot be indexed, or a catalog does not exist. The message names the source or catalog and the
    reason."""


@dataclass(frozen=True)
class ScanOptions:
    """How to read a source.

    key: a key column or template, empty for the default; label_column, image_column: names of columns; prefix: put
    before keys that the source does not give itself; classes: their order as given by the user, or None.
    """

    key: str
    label_column: str
    image_column: str
    prefix: str
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Scan:
    """The content of one source. images: a table of the schema IMAGES; problems: images that cannot be used, with the
    reasons, a table of the schema PROBLEMS."""

    images: pa.Table
    problems: pa.Table
    classes: tuple[str, ...] | None = None  # in the order that the source gives; None if it gives none
    ignored: int = 0  # number of files that are not images
    content: str = ""  # a hash of the content, for sources whose images have no sizes
    notes: tuple[str, ...] = ()  # sentences for the user: what was guessed, changed or left out, with counts


def table(schema: pa.Schema, columns: Mapping[str, object]) -> pa.Table:
    """Make a table of the schema from columns (lists or arrays). A missing column is null everywhere."""
    given = {name: pa.array(column, schema.field(name).type) for name, column in columns.items()}
    n = len(next(iter(given.values())))
    return pa.table({name: given.get(name, pa.nulls(n, schema.field(name).type)) for name in schema.names})


def problem(key: str, uri: str, reason: str) -> pa.Table:
    """A table of problems with one row. The reason is 'kind: details'; problems are counted by kind."""
    return table(PROBLEMS, {"key": [key], "uri": [uri], "reason": [reason]})


def concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Join tables of the schema. Without tables the result is empty."""
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
    """List the files of a directory and its subdirectories, of a glob, or the single file; sorted by name.

    Returns a table of the schema FILES. A name is relative to the directory (for a glob, to the last directory before
    the first wildcard). Raises CatalogError if nothing exists there.
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
    found = [(name, size) for name, size in found if not is_list(file_name(name))]  # of images that alray wrote
    names = pa.array([name for name, _ in found], pa.string())
    uris = pc.binary_join_element_wise(pa.scalar(uri.rstrip("/")), names, "/")
    return table(FILES, {"name": names, "uri": uris, "size": [size for _, size in found]}).sort_by("name")


def _walk_local(directory: str, recursive: bool) -> Iterator[tuple[str, int | None]]:
    """Yield names and sizes. A broken link has the size None; pyarrow's listing would leave it out silently."""
    for folder, _, names in os.walk(directory, followlinks=True):
        inside = "" if folder == directory else f"{os.path.relpath(folder, directory)}/"
        for name in names:
            path = os.path.join(folder, name)
            yield inside + name, os.stat(path).st_size if os.path.exists(path) else None
        if not recursive:
            return


def with_extension(files: pa.Table, source: str, extensions: Sequence[str]) -> pa.Table:
    """The files with one of the extensions. Raises CatalogError if there are none."""
    keep = [name.lower().endswith(tuple(extensions)) and not _is_hidden(name) for name in files["name"].to_pylist()]
    if not any(keep):
        raise CatalogError(
            f"{source}: expected a {' or '.join(extensions)} file, got {len(files)} files of other kinds"
        )
    return files.filter(pa.array(keep))


def read_classes(directory: str) -> tuple[str, ...] | None:
    """The class names in the directory's alray-classes.txt (one per line), or None if there is no such file."""
    if not is_file(join(directory, CLASSES_FILE)):
        return None
    text = read_bytes(join(directory, CLASSES_FILE)).decode()
    return tuple(line for line in text.splitlines() if line)


def agree(found: Iterable[tuple[str, ...] | None], what: str) -> tuple[str, ...] | None:
    """The list of classes that all entries which are not None agree on; None if all are None.

    what: the name of the source, for error messages. Raises CatalogError if two lists differ.
    """
    orders = {classes for classes in found if classes is not None}
    if len(orders) > 1:
        few = " and ".join(", ".join(order[:5]) for order in sorted(orders)[:2])
        raise CatalogError(f"{what}: expected one order of classes, got several ({few}); set the classes")
    return next(iter(orders), None)


def splits_and_labels(names: Sequence[str]) -> tuple[list[str | None], list[str | None]]:
    """The split and the class of each image by its directories; None where there is no such directory.

    A name is class/.../image, or train/class/.../image if all top directories are names of splits.
    """
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
    """The split that a file's name shows, as in test-00000.tar or cifar10_train_00-of-03.parquet; None if it shows none
    or several."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None
