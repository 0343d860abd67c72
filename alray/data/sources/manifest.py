"""A CSV or JSONL list of images with a column uri or path, and optionally columns key, label and split."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs as pafs
import pyarrow.json

from alray.credentials import WHERE_THEY_BELONG, has_credentials, redacted
from alray.data.sources.parquet import class_texts, combined, keys, template_fields
from alray.data.sources.scan import (
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    concat,
    problem,
    read_classes,
    table,
)
from alray.data.sources.source import Source
from alray.store import absolute, filesystem, is_remote, join

_TEXT = ("uri", "path", "key", "label", "split")


class Manifest(Source):
    """A list of image files."""

    name: ClassVar[str] = "manifest"
    uses: ClassVar[frozenset[str]] = frozenset({"key"})
    extensions: ClassVar[tuple[str, ...]] = (".csv", ".jsonl", ".ndjson")

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the images of all lines.

        A relative path is relative to the manifest's directory. Without a column key the path as written is the key.
        Raises CatalogError if the manifest cannot be read or has no column uri or path.
        """
        uri = absolute(source)
        rows = _read(uri, options.label_column)
        place = _column_of(("uri", "path"), rows, source)
        missing = pc.is_null(rows[place])
        problems = [
            problem(f"line {line + 1}", uri, f"no {place}: the line does not name an image")
            for line in np.flatnonzero(missing)
        ]
        rows = rows.filter(pc.invert(missing))
        here = uri.rpartition("/")[0]
        uris = [_resolve(here, text) for text in rows[place].to_pylist()]
        _refuse_credentials(uris, uri)
        classes = read_classes(here)
        columns = {
            "uri": uris,
            "size": _sizes(uris),
            "label": _labels(rows, source, options.label_column, classes or options.classes),
            "split": combined(rows["split"]) if "split" in rows.column_names else pa.nulls(len(rows), pa.string()),
        }
        columns["key"] = _keys(rows, columns, place, source, options)
        return Scan(table(IMAGES, columns), concat(problems, PROBLEMS), classes)


def _read(uri: str, label_column: str) -> pa.Table:
    fs, path = filesystem(uri)
    texts = dict.fromkeys([*_TEXT, label_column], pa.string())
    try:
        with fs.open_input_stream(path) as file:
            if not uri.lower().endswith(".csv"):
                return pyarrow.json.read_json(file)
            convert = pyarrow.csv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""])
            return pyarrow.csv.read_csv(file, convert_options=convert)
    except FileNotFoundError as error:
        raise CatalogError(f"{uri}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{uri}: cannot be read as a manifest: {error}") from error


def _column_of(names: tuple[str, ...], rows: pa.Table, source: str) -> str:
    for name in names:
        if name in rows.column_names:
            return name
    raise CatalogError(f"{source}: expected a column {' or '.join(names)}, got {', '.join(rows.column_names)}")


def _labels(rows: pa.Table, source: str, column: str, classes: tuple[str, ...] | None) -> pa.Array:
    if column in rows.column_names:
        return class_texts(rows[column], classes)
    if column not in ("", "label"):
        _column_of((column,), rows, source)
    return pa.nulls(len(rows), pa.string())


def _keys(rows: pa.Table, columns: dict[str, object], place: str, source: str, options: ScanOptions) -> pa.Array:
    column = options.key or ("key" if "key" in rows.column_names else "")
    if not column:
        return combined(pc.binary_join_element_wise(options.prefix, rows[place], ""))
    for name in template_fields(column):
        if name not in ("split", "class", "file", "row"):
            _column_of((name,), rows, source)
    numbered = {**columns, "offset": np.arange(len(rows))}
    stem = source.rpartition("/")[2].rpartition(".")[0]
    return keys(rows, numbered, replace(options, key=column), stem)


def _resolve(here: str, text: str) -> str:
    return text if is_remote(text) else absolute(text if text.startswith(("/", "file://", "~")) else join(here, text))


def _refuse_credentials(uris: list[str], source: str) -> None:
    for uri in uris:
        if has_credentials(uri):
            raise CatalogError(f"{source}: expected URIs without credentials, got {redacted(uri)}; {WHERE_THEY_BELONG}")


def _sizes(uris: list[str]) -> list[int | None]:
    """File sizes in bytes, None where there is no file. Each filesystem gets one request."""
    sizes: list[int | None] = [None] * len(uris)
    places: dict[str, list[int]] = {}
    for i, uri in enumerate(uris):
        places.setdefault("/".join(uri.split("/", 3)[:3]) if is_remote(uri) else "", []).append(i)
    for members in places.values():
        fs, _ = filesystem(uris[members[0]])
        infos = fs.get_file_info([filesystem(uris[i])[1] for i in members])
        for i, info in zip(members, infos, strict=True):
            sizes[i] = info.size if info.type == pafs.FileType.File else None
    return sizes


MANIFEST = Manifest()
