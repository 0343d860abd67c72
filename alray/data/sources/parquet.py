"""Parquet files with a column of encoded images: bytes, or struct{bytes, path} as in Hugging Face data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alray.data.access import random_access
from alray.data.sources import columns
from alray.data.sources.damaged import why_unreadable
from alray.data.sources.keys import OWN_FIELDS, combined, keys, template_fields
from alray.data.sources.label_text import as_text, class_of_key, split_texts
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
from alray.data.sources.split_names import split_of_file
from alray.reasons import why
from alray.store import filesystem

_BATCH_ROWS = 1024


class Parquet(Source):
    """Parquet files with one row per image; one of the columns has its bytes."""

    name: ClassVar[str] = "parquet"
    reads: ClassVar[str] = (
        "Parquet files with the encoded bytes of one image per row, as bytes or as struct{bytes, path} (Hugging Face): "
        "a file, a glob, or a folder that holds .parquet files. The image column is --image-column."
    )
    labels: ClassVar[str] = (
        "The column --label-column, by name or number. The names of numbers are those of the Hugging Face ClassLabel "
        "in the file's metadata, or of the metadata 'classes'."
    )
    keys: ClassVar[str] = "The file's name and the number of the row. Or --key: a column, or a template of columns."
    uses: ClassVar[frozenset[str]] = frozenset({"key", "image_column"})
    extensions: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    has_columns: ClassVar[bool] = True

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the images of all rows of all files.

        offset: number of the row in its file; size: length of the image's bytes. options.key: a column, or a template
        of the row's columns and of split, class, file (its stem) and row (in the file); by default '<file stem>/<row,
        9 digits>', with the file's folder before it where several files have one name. The split is that of the column
        'split', or else the one that the file's path shows. Raises CatalogError if there is no file or if a column is
        missing or ambiguous.
        """
        found = listing(source, options.links)
        files = found.with_extension(source, self.extensions)
        places, renamed = _places(files, options)
        schemas, problems = _schemas(files)
        options, guesses = _chosen(schemas, source, options)
        classes = agree((_class_names(uri, schema, options.label_column) for uri, schema in schemas.items()), source)
        parts: list[_Part] = []
        for uri, schema in schemas.items():
            try:
                parts.extend(_read(uri, places[uri], _columns(uri, schema, options), options, classes))
            except (pa.ArrowException, OSError) as error:
                problems.append(_broken(uri, error))
        images = concat(_with_keys(parts, options, classes), IMAGES)
        paths = files["name"].to_pylist()
        return Scan(
            images,
            concat(problems, PROBLEMS),
            classes,
            suffixes(set(found.files["name"].to_pylist()) - set(paths)),
            notes=(*found.notes, *renamed, *guesses, *random_access(images, options.image_column)),
            named=frozenset(name for name in options.split if any(name in path.split("/") for path in paths)),
            image_column=options.image_column,
            files=self.files(source, files),
        )

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
            problems.append(_broken(uri, error))
    return schemas, problems


def _broken(uri: str, error: Exception) -> pa.Table:
    return problem(file_name(uri), uri, f"broken Parquet file: {why_unreadable(uri, error)}")


def _chosen(schemas: Mapping[str, pa.Schema], source: str, options: ScanOptions) -> tuple[ScanOptions, list[str]]:
    """The options with the names of the columns that hold the images and the labels, and notes on guesses.

    Raises CatalogError if a column is missing or ambiguous, or has different names in different files.
    """
    if not schemas:
        return options, []
    found = {uri: (_image(uri, schema, options), _label(uri, schema, options)) for uri, schema in schemas.items()}
    first, (image, label) = next(iter(found.items()))
    for uri, (other_image, other_label) in found.items():
        if (other_image.name, other_label.name) != (image.name, label.name):
            raise CatalogError(
                f"{source}: expected the same columns in all files, got {image.name!r} and {label.name!r} for images "
                f"and labels in {file_name(first)}, {other_image.name!r} and {other_label.name!r} in {file_name(uri)}"
            )
    chosen = replace(options, image_column=image.name, label_column=label.name)
    return chosen, [note for note in (image.note, label.note) if note]


def _image(uri: str, schema: pa.Schema, options: ScanOptions) -> columns.Found:
    """The column of images: by its name, or the only one that holds bytes. Raises CatalogError if there is none."""
    holders = [field.name for field in schema if _holds_bytes(field.type)]
    wanted = options.image_column
    role = columns.IMAGES
    if wanted in schema.names and wanted not in holders:
        raise CatalogError(
            f"{uri}: {wanted}: expected the encoded bytes of images, got {schema.field(wanted).type} (a list of paths "
            "is a CSV or JSONL manifest)"
        )
    try:
        found = columns.find(role, holders, wanted, schema.names)
    except columns.ColumnError as error:
        if wanted != role.first[0] and wanted not in schema.names:
            raise CatalogError(f"{uri}: {columns.missing(role, schema.names, wanted)}") from None
        raise CatalogError(f"{uri}: {error}") from None
    if found is None and len(holders) == 1:
        found = columns.Found(holders[0], columns.guessed(role, schema.names, holders[0]))
    if found is None:
        raise CatalogError(f"{uri}: {columns.missing(role, schema.names, wanted)}")
    return found


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label(uri: str, schema: pa.Schema, options: ScanOptions) -> columns.Found:
    """The column of labels; an empty name if the images have none. Raises CatalogError if there is none."""
    if not options.label_column:
        return columns.Found("")
    try:
        found = columns.find(columns.LABELS, schema.names, options.label_column)
    except columns.ColumnError as error:
        raise CatalogError(f"{uri}: {error}") from None
    if found is None:
        what = columns.missing(columns.LABELS, schema.names, options.label_column)
        raise CatalogError(f"{uri}: {what}, or use --label-column '' if the images have no labels")
    return found


def _class_names(uri: str, schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """The names of numbered classes, or None. They are in the metadata 'classes' (separated by commas, or a JSON list)
    or in the ClassLabel of Hugging Face. Raises CatalogError for metadata that cannot be read."""
    metadata = schema.metadata or {}
    try:
        if b"classes" in metadata:
            text = metadata[b"classes"].decode()
            names = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
            return tuple(str(name).strip() for name in names)
        if b"huggingface" in metadata:
            features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
            names = features.get(label_column, {}).get("names")
            return None if names is None else tuple(names)
    except (ValueError, AttributeError, TypeError) as error:
        raise CatalogError(f"{uri}: the names of classes in the file's metadata cannot be read: {why(error)}") from None
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
    wanted = {options.image_column, *filter(None, [options.label_column])}
    for name in template_fields(options.key):
        if name not in schema.names and not (name in OWN_FIELDS and "{" in options.key):
            raise CatalogError(
                f"{uri}: expected a column {name!r} for the key {options.key!r}, got {columns.listed(schema.names)}"
            )
        wanted.add(name)
    others = (wanted | {"split"}) & set(schema.names) - {options.image_column}
    return [image_field(schema, options.image_column), *sorted(others)]


@dataclass(frozen=True)
class _Part:
    """Some rows of one file. images: columns of the schema IMAGES without keys; others: the columns that keys are made
    of."""

    images: dict[str, Any]
    others: dict[str, pa.ChunkedArray]
    stem: str


def _read(
    uri: str, place: _Place, names: list[str], options: ScanOptions, classes: Sequence[str] | None
) -> Iterator[_Part]:
    fs, path = filesystem(uri)
    row = 0
    with pq.ParquetFile(path, filesystem=fs) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            rows = pa.Table.from_batches([batch])
            yield _references(rows, place, uri, row, options, classes)
            row += len(rows)


def _references(
    rows: pa.Table, place: _Place, uri: str, start: int, options: ScanOptions, classes: Sequence[str] | None
) -> _Part:
    n = len(rows)
    images = image_bytes(rows[options.image_column])

    def where(row: int) -> str:
        return f"{uri}: {options.label_column} of row {start + row}"

    nothing = pa.nulls(n, pa.string())
    label = as_text(rows[options.label_column], classes, where) if options.label_column else nothing
    own_split = "split" in rows.column_names
    split = split_texts(rows["split"], where) if own_split else pa.array([place.split] * n, pa.string())
    found = {
        "uri": [uri] * n,
        "offset": np.arange(start, start + n),
        "size": pc.cast(pc.binary_length(images), pa.int64()).combine_chunks(),
        "label": label,
        "split": split,
    }
    others = {name: rows[name] for name in template_fields(options.key) if name in rows.column_names}
    return _Part(found, others, place.stem)


def _with_keys(parts: Sequence[_Part], options: ScanOptions, classes: Sequence[str] | None) -> Iterator[pa.Table]:
    """The rows with their keys. They are made when all labels are known, because a key may contain the class."""
    labels = pa.chunked_array([combined(part.images["label"]) for part in parts], pa.string())
    if "class" in template_fields(options.key):
        labels = class_of_key(labels, options.classes or classes)
    start = 0
    for part in parts:
        n = len(part.images["offset"])
        found = {**part.images, "label": labels.slice(start, n)}
        yield table(IMAGES, {**part.images, "key": keys(part.others, found, options, part.stem)})
        start += n


PARQUET = Parquet()
