"""Files of tables with a column of encoded images: bytes, or struct{bytes, path} as in Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources import columns
from alray.data.sources.damaged import why_unreadable
from alray.data.sources.keys import OWN_FIELDS, combined, keys, template_fields
from alray.data.sources.label_text import as_text, class_of_key, split_texts
from alray.data.sources.listing import listing
from alray.data.sources.row_columns import class_names, find_images, find_labels
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
from alray.data.sources.source import IMAGE_OPTIONS, Found, Source, attempt
from alray.data.sources.split_names import split_of_file


class Rows(Source):
    """Files with one row per image; one of the columns has its bytes."""

    labels: ClassVar[str] = (
        "The column --label-column, else the only ClassLabel of Hugging Face, else the one with a usual name, by name "
        "or number. The names of numbers are those of the ClassLabel, or of the metadata 'classes'."
    )
    keys: ClassVar[str] = "The file's name and the number of the row. Or --key: a column, or a template of columns."
    uses: ClassVar[frozenset[str]] = IMAGE_OPTIONS | {"key", "label_column", "image_column", "links"}
    has_columns: ClassVar[bool] = True
    what: ClassVar[str]  # one of its files, for messages

    def schema(self, uri: str) -> pa.Schema:
        """The schema of a file, with what is known of its features in the metadata. Raises OSError, ArrowException."""
        raise NotImplementedError(f"{type(self).__name__}.schema")

    def batches(self, uri: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a file in order, with at least these columns; image.bytes is a field of the column image. Raises
        as `schema` does."""
        raise NotImplementedError(f"{type(self).__name__}.batches")

    def rows_of(self, uri: str, rows: npt.NDArray[np.int64], column: str) -> list[bytes | None]:
        """The image bytes of some rows of one file. Raises IndexError if it has fewer rows, and as `schema` does."""
        raise NotImplementedError(f"{type(self).__name__}.rows_of")

    def cost(self, images: pa.Table, column: str) -> tuple[str, ...]:
        """A sentence on the cost of reading one random image, where that is dear. images: as in `Scan`."""
        return ()

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the images of all rows of all files.

        offset: number of the row in its file; size: length of the image's bytes. options.key: a column, or a template
        of the row's columns and of split, class, file (its stem) and row (in the file); by default '<file stem>/<row,
        9 digits>', with the file's folder before it where several files have one name. The split is that of the column
        'split', or else the one that the file's path shows. Raises CatalogError if there is no file or if a column is
        missing or ambiguous.
        """
        found = listing(source, options.links)
        reads = self.reads(found.files["name"])
        if not pc.any(reads).as_py():
            raise found.without(f"{source}: expected a {' or '.join(self.extensions)} file")
        files = found.files.filter(reads)
        places, renamed = _places(files, options)
        schemas, problems = _schemas(files, self)
        options, guesses = _chosen(schemas, source, options)
        classes = agree((class_names(uri, schema, options.label_column) for uri, schema in schemas.items()), source)
        parts: list[_Part] = []
        for uri, schema in schemas.items():
            try:
                wanted = _columns(uri, schema, options)
                parts.extend(_read(self, uri, places[uri], wanted, options, classes))
            except (pa.ArrowException, OSError) as error:
                problems.append(_broken(uri, error, self))
        images = concat(_with_keys(parts, options, classes), IMAGES)
        if len(images) and images["size"].null_count == len(images):
            raise CatalogError(
                f"{source}: {options.image_column}: expected the bytes of images, got none in "
                f"{amount(len(images), 'row')}, perhaps only their paths. save_to_disk and push_to_hub of "
                "`datasets` put the bytes of images in; or write a CSV with the paths"
            )
        paths = files["name"].to_pylist()
        return Scan(
            images,
            concat(problems, PROBLEMS),
            classes,
            suffixes(set(found.files["name"].to_pylist()) - set(paths)),
            notes=(*found.notes, *renamed, *guesses, *self.cost(images, options.image_column)),
            named=frozenset(name for name in options.split if any(name in path.split("/") for path in paths)),
            image_column=options.image_column,
            files=self.files(source, files),
        )

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """The bytes of each image, each file by one thread."""
        uris, offsets = references["uri"].to_pylist(), references["offset"].to_pylist()
        places: dict[str, list[int]] = {}
        for i, uri in enumerate(uris):
            places.setdefault(uri, []).append(i)
        rows = [np.array([offsets[i] for i in at], np.int64) for at in places.values()]
        answers = pool.map(lambda uri, wanted: attempt(self.rows_of, uri, wanted, column), places, rows)
        found: list[Found] = [None] * len(uris)
        for at, answer in zip(places.values(), answers, strict=True):
            for position, i in enumerate(at):
                found[i] = answer if isinstance(answer, Exception) else answer[position]
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


def _schemas(files: pa.Table, kind: Rows) -> tuple[dict[str, pa.Schema], list[pa.Table]]:
    schemas: dict[str, pa.Schema] = {}
    problems: list[pa.Table] = []
    for uri in files["uri"].to_pylist():
        try:
            schemas[uri] = kind.schema(uri)
        except (pa.ArrowException, OSError) as error:
            problems.append(_broken(uri, error, kind))
    return schemas, problems


def _broken(uri: str, error: Exception, kind: Rows) -> pa.Table:
    return problem(file_name(uri), uri, f"broken {kind.what}: {why_unreadable(uri, error)}")


def _chosen(schemas: Mapping[str, pa.Schema], source: str, options: ScanOptions) -> tuple[ScanOptions, list[str]]:
    """The options with the names of the columns that hold the images and the labels, and notes on guesses.

    Raises CatalogError if a column is missing or ambiguous, or has different names in different files.
    """
    if not schemas:
        return options, []
    found = {
        uri: (find_images(uri, schema, options), find_labels(uri, schema, options)) for uri, schema in schemas.items()
    }
    first, (image, label) = next(iter(found.items()))
    for uri, (other_image, other_label) in found.items():
        if (other_image.name, other_label.name) != (image.name, label.name):
            raise CatalogError(
                f"{source}: expected the same columns in all files, got {image.name!r} and {label.name!r} for images "
                f"and labels in {file_name(first)}, {other_image.name!r} and {other_label.name!r} in {file_name(uri)}"
            )
    chosen = replace(options, image_column=image.name, label_column=label.name)
    return chosen, [note for note in (image.note, label.note) if note]


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
    kind: Rows,
    uri: str,
    place: _Place,
    names: list[str],
    options: ScanOptions,
    classes: Sequence[str] | None,
) -> Iterator[_Part]:
    row = 0
    for batch in kind.batches(uri, names):
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
