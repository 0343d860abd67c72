"""Parquet files with a column of encoded images: bytes, or struct{bytes, path} as in Hugging Face data sets."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alray.data.access import random_access
from alray.data.sources.listing import listing
from alray.data.sources.scan import (
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    agree,
    amount,
    concat,
    file_name,
    problem,
    suffixes,
    table,
)
from alray.data.sources.source import Found, Source, attempt
from alray.data.sources.split_names import split_of_file, split_role
from alray.store import filesystem

_BATCH_ROWS = 1024
_OWN_FIELDS = ("split", "class", "file", "row")


class Parquet(Source):
    """Parquet files with one row per image; one of the columns has its bytes."""

    name: ClassVar[str] = "parquet"
    uses: ClassVar[frozenset[str]] = frozenset({"key", "image_column"})
    extensions: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    has_columns: ClassVar[bool] = True

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the images of all rows of all files.

        offset: number of the row in its file; size: length of the image's bytes. options.key: a column, or a template
        of the row's columns and of split, class, file (its stem) and row (in the file); by default '<file stem>/<row,
        9 digits>', with the file's folder before it where several files have one name. The split is that of the column
        'split', or else the one that the file's path shows. Raises CatalogError if there is no file or if a column is
        missing.
        """
        found = listing(source, options.links)
        files = found.with_extension(source, self.extensions)
        places, notes = _places(files, options)
        schemas, problems = _schemas(files)
        classes = agree((_class_names(schema, options.label_column) for schema in schemas.values()), source)
        parts: list[pa.Table] = []
        for uri, schema in schemas.items():
            columns = _columns(uri, schema, options)
            try:
                parts.extend(_read(uri, places[uri], columns, options, classes or options.classes))
            except (pa.ArrowException, OSError) as error:
                problems.append(problem(file_name(uri), uri, f"broken Parquet file: {error}"))
        images = concat(parts, IMAGES)
        paths = files["name"].to_pylist()
        ignored = suffixes(set(found.files["name"].to_pylist()) - set(paths))
        named = frozenset(name for name in options.split if any(name in path.split("/") for path in paths))
        notes = [*found.notes, *notes, *random_access(images, options.image_column)]
        return Scan(images, concat(problems, PROBLEMS), classes, ignored, notes=tuple(notes), named=named)

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """The bytes of each image. Only the row groups with these rows are read, each file by one thread."""
        uris, offsets = references["uri"].to_pylist(), references["offset"].to_pylist()
        places: dict[str, list[int]] = {}
        for i, uri in enumerate(uris):
            places.setdefault(uri, []).append(i)
        rows = [np.array([offsets[i] for i in at], np.int64) for at in places.values()]
        answers = pool.map(lambda uri, wanted: attempt(_rows_of, uri, wanted, column), places, rows)
        found: list[Found] = [None] * len(uris)
        for at, answer in zip(places.values(), answers, strict=True):
            for position, i in enumerate(at):
                found[i] = answer if isinstance(answer, Exception) else answer[position]
        return found


def _rows_of(uri: str, rows: Any, column: str) -> list[bytes | None]:
    """The image bytes of some rows of one file. Only the image column of the row groups with these rows is read."""
    fs, path = filesystem(uri)
    found: list[bytes | None] = [None] * len(rows)
    with pq.ParquetFile(path, filesystem=fs) as file:
        field = image_field(file.schema_arrow, column)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        for group in np.unique(groups).tolist():
            if group == len(ends):
                raise IndexError(f"expected a row below {sum(sizes)}, got {rows.max()}")
            images = image_bytes(file.read_row_group(group, columns=[field], use_threads=False)[column])
            at = np.flatnonzero(groups == group)
            inside = rows[at] - (ends[group] - sizes[group])
            for i, data in zip(at.tolist(), images.take(pa.array(inside)).to_pylist(), strict=True):
                found[i] = data
    return found


@dataclass(frozen=True)
class _Place:
    """What is taken from the place of a file."""

    split: str | None  # the name of the split that the path shows
    stem: str  # the beginning of the default keys


def _places(files: pa.Table, options: ScanOptions) -> tuple[dict[str, _Place], list[str]]:
    """The place of each file by its URI, and sentences for the user. Keys begin with the file's stem, or with its path
    below the source where several files have one name."""
    paths = files["name"].to_pylist()
    again = len(paths) - len({file_name(path) for path in paths})
    found = {
        uri: _Place(split_of_file(path, options.split), (path if again else file_name(path)).rpartition(".")[0])
        for uri, path in zip(files["uri"].to_pylist(), paths, strict=True)
    }
    if not again or options.key:
        return found, []
    first = next(iter(found.values())).stem
    return found, [
        f"{amount(again, 'file')} with the name of another file, so keys begin with the file's folder, as {first}/"
    ]


def _schemas(files: pa.Table) -> tuple[dict[str, pa.Schema], list[pa.Table]]:
    schemas: dict[str, pa.Schema] = {}
    problems: list[pa.Table] = []
    for uri in files["uri"].to_pylist():
        fs, path = filesystem(uri)
        try:
            schemas[uri] = pq.read_schema(path, filesystem=fs)
        except (pa.ArrowException, OSError) as error:
            problems.append(problem(file_name(uri), uri, f"broken Parquet file: {error}"))
    return schemas, problems


def _class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """The names of numbered classes, or None. They are in the metadata 'classes' (separated by commas, or a JSON list)
    or in the ClassLabel of Hugging Face."""
    metadata = schema.metadata or {}
    if b"classes" in metadata:
        text = metadata[b"classes"].decode()
        names = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
        return tuple(str(name).strip() for name in names)
    if b"huggingface" in metadata:
        features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
        names = features.get(label_column, {}).get("names")
        return None if names is None else tuple(names)
    return None


def image_field(schema: pa.Schema, column: str) -> str:
    """The name under which pyarrow reads only the bytes of the image column."""
    is_struct = pa.types.is_struct(schema.field(column).type)
    return f"{column}.bytes" if is_struct else column


def image_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes of an image column."""
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _columns(uri: str, schema: pa.Schema, options: ScanOptions) -> list[str]:
    """The columns to read. Raises CatalogError, which names the column, if one is missing."""
    wanted = {options.image_column: "the images"}
    if options.label_column:
        wanted[options.label_column] = "the labels (label_column='' for images without labels)"
    for name in template_fields(options.key):
        wanted[name] = f"the key {options.key!r}"
    for name, why in wanted.items():
        if name not in schema.names and not (name in _OWN_FIELDS and "{" in options.key):
            raise CatalogError(f"{uri}: expected a column {name!r} for {why}, got {', '.join(schema.names)}")
    others = (set(wanted) | {"split"}) & set(schema.names) - {options.image_column}
    return [image_field(schema, options.image_column), *sorted(others)]


def template_fields(key: str) -> list[str]:
    """The columns that options.key names. Raises CatalogError if it is not a column or a valid template."""
    if "{" not in key:
        return [key] if key else []
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(key) if name is not None]
    except ValueError as error:
        raise CatalogError(f"key: expected a template, got {key!r}: {error}") from error
    if not all(name.isidentifier() for name in fields):
        raise CatalogError(f"key: expected column names in braces, as in '{{class}}/{{id}}.png', got {key!r}")
    return fields


def _read(
    uri: str, place: _Place, columns: list[str], options: ScanOptions, classes: tuple[str, ...] | None
) -> Iterator[pa.Table]:
    fs, path = filesystem(uri)
    row = 0
    with pq.ParquetFile(path, filesystem=fs) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            rows = pa.Table.from_batches([batch])
            yield _references(rows, place, uri, row, options, classes)
            row += len(rows)


def _references(
    rows: pa.Table, place: _Place, uri: str, start: int, options: ScanOptions, classes: tuple[str, ...] | None
) -> pa.Table:
    n = len(rows)
    images = image_bytes(rows[options.image_column])
    names = rows.column_names
    label = class_texts(rows[options.label_column], classes) if options.label_column else pa.nulls(n, pa.string())
    split = pc.cast(rows["split"], pa.string()) if "split" in names else pa.array([place.split] * n, pa.string())
    others = rows.select([name for name in names if name != options.image_column])
    columns = {
        "uri": [uri] * n,
        "offset": np.arange(start, start + n),
        "size": pc.cast(pc.binary_length(images), pa.int64()).combine_chunks(),
        "label": combined(label),
        "split": combined(split),
    }
    columns["key"] = keys(others, columns, options, place.stem)
    return table(IMAGES, columns)


def combined(column: Any) -> pa.Array:
    """A chunked array as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def keys(others: pa.Table, columns: dict[str, Any], options: ScanOptions, stem: str) -> pa.Array:
    """The keys of some rows: a column, a template with its values, or the file's stem and the row number in the
    file."""
    if not options.key:
        return pa.array([f"{options.prefix}{stem}/{row:09d}" for row in columns["offset"]])
    if "{" not in options.key:
        return combined(pc.cast(others[options.key], pa.string()))
    fields = {
        "split": [_split_text(split, options) for split in columns["split"].to_pylist()],
        "class": [label or "unlabeled" for label in columns["label"].to_pylist()],
        "file": [stem] * len(others),
        "row": columns["offset"].tolist(),
        **{name: others[name].to_pylist() for name in others.column_names},
    }
    needed = template_fields(options.key)
    filled = zip(*(fields[name] for name in needed), strict=True)
    return pa.array([options.key.format(**dict(zip(needed, values, strict=True))) for values in filled])


def _split_text(split: str | None, options: ScanOptions) -> str:
    if options.prefix == "test/":
        return "test"
    return split_role(split, options.split) or split if split else "train"


def class_texts(column: pa.ChunkedArray, names: tuple[str, ...] | None) -> pa.Array:
    """A label column as text: class names, or numbers if they have no names. Labels that are -1 or null become null."""
    column = combined(column)
    if not len(column):
        return pa.array([], pa.string())
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.cast(pc.if_else(pc.is_nan(column), None, column), pa.int64())
    if not pa.types.is_integer(column.type):
        return _named(pc.cast(column, pa.string()), names or ())
    texts = pc.cast(column, pa.string())
    if names is not None:
        known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
        named = pc.take(pa.array(names, pa.string()), pc.if_else(known, pc.cast(column, pa.int64()), None))
        texts = pc.if_else(known, named, pc.binary_join_element_wise("number ", texts, ""))
    return pc.if_else(pc.equal(column, -1), pa.scalar(None, pa.string()), texts)


def _named(texts: pa.Array, names: tuple[str, ...]) -> pa.Array:
    """Replace numbers that are written as text by the class names. A text that is a class name stays as it is."""
    by_number = {str(i): name for i, name in enumerate(names)}
    encoded = texts.dictionary_encode()
    known = [text if text in names else by_number.get(text, text) for text in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.string()).take(encoded.indices)


PARQUET = Parquet()
