"""A CSV or JSONL list of images with a column of paths or URIs, and optionally columns key, label and split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alray.credentials import WHERE_THEY_BELONG, has_credentials, redacted
from alray.data.sources import columns
from alray.data.sources.files import infos, with_class_files
from alray.data.sources.keys import OWN_FIELDS, as_keys, combined, keys, template_fields
from alray.data.sources.label_text import as_text, class_of_key
from alray.data.sources.lines import Listing, read_list
from alray.data.sources.listing import FILES
from alray.data.sources.scan import (
    CLASSES_FILE,
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    concat,
    file_name,
    problem,
    read_classes,
    table,
)
from alray.data.sources.source import IMAGE_OPTIONS, Source
from alray.data.sources.split_names import split_role
from alray.remote import web_address
from alray.store import absolute, is_file, is_remote, join

# Paths that need no change but for the directory in front of them if they are relative.
_PLAIN_PATH = r"^(/|[^/~.:])[^/:]*(/[^/.:][^/:]*)*$"


class Manifest(Source):
    """A list of image files."""

    name: ClassVar[str] = "manifest"
    about: ClassVar[str] = (
        "A list of image files, recognised by its ending. The column --image-column, else uri, path or the one with a "
        "usual name, holds their paths (relative to the list) or URIs of an object store."
    )
    labels: ClassVar[str] = (
        "The column --label-column, else the one with a usual name (class, category, target, ...), by name or number; "
        "the splits are in a column split."
    )
    keys: ClassVar[str] = "The column key, else the path as it is written. Or --key: a column, or a template."
    uses: ClassVar[frozenset[str]] = IMAGE_OPTIONS | {"key", "label_column", "image_column"}
    extensions: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz")

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the images of all lines.

        A relative path is relative to the manifest's directory. Without a column key the path as written is the key.
        Raises CatalogError if the manifest cannot be read, or if the column of paths or a column that was asked for is
        missing or ambiguous.
        """
        uri = absolute(source)
        listed = infos([uri])  # before it is read, so that a later change is noticed
        chosen = _Columns(source, options)
        listing = read_list(uri, chosen.recognised, chosen.choose)
        rows, problems, notes = _usable(listing, chosen, uri)
        here = uri.rpartition("/")[0]
        places = rows[chosen.place]
        _refuse_credentials(places, uri)
        _refuse_web(places, uri)
        files, found_otherwise = _existing(_resolved(here, places))
        classes = read_classes(here)
        found = {"label": chosen.texts(rows, chosen.label, listing), "split": chosen.splits(rows, listing)}
        made = _keys(rows, found, chosen, classes)
        images = table(IMAGES, {"uri": combined(files["uri"]), "size": combined(files["size"]), "key": made, **found})
        notes = [*listing.notes, *chosen.notes, *notes, *found_otherwise]
        once = files.take(pc.index_in(pc.unique(files["uri"]), combined(files["uri"])))
        read = with_class_files(concat([listed, once], FILES), [here])
        return Scan(images, concat(problems, PROBLEMS), classes, notes=tuple(notes), files=read)

    def listed(self, source: str, known: Sequence[str], links: str) -> pa.Table:
        """The list, and the files that it named when it was scanned. Other names in it change its size or time."""
        uri = absolute(source)
        if not is_file(uri):
            raise CatalogError(f"{source}: no such file")
        here = uri.rpartition("/")[0]
        return with_class_files(infos(sorted({*known, uri} - {join(here, CLASSES_FILE)})), [here])


@dataclass
class _Columns:
    """The columns that hold what an image needs; an empty name where there is none.

    They are known when `choose` was called with the names of all columns.
    """

    source: str
    options: ScanOptions
    place: str = ""
    label: str = ""
    split: str = ""
    key: str = ""  # a column or a template; empty: the place is the key
    notes: list[str] = field(default_factory=list)

    def recognised(self, names: Sequence[str]) -> bool:
        """Whether a header has the column of places, or several that may be it."""
        if self._wanted_place:
            return self._wanted_place in names
        return any(columns.PLACES.known(name) for name in names)

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns to read. Raises CatalogError if one is missing or ambiguous."""
        if not names:
            raise CatalogError(f"{self.source}: {columns.missing(columns.PLACES, names)}")
        try:
            place = columns.find(columns.PLACES, names, self._wanted_place)
            wanted = self.options.label_column
            label = columns.find(columns.LABELS, names, wanted) if wanted else None
        except columns.ColumnError as error:
            raise CatalogError(f"{self.source}: {error}") from None
        if place is None:
            raise CatalogError(
                f"{self.source}: {columns.missing(columns.PLACES, names, self._wanted_place)}. The first line of a CSV "
                "holds the names of its columns"
            )
        self.place, self.label = place.name, label.name if label else ""
        self.notes = [found.note for found in (place, label) if found and found.note]
        if label is None and self.options.label_column:
            self.notes.append(
                f"No column of labels was recognised, so all images of {file_name(self.source)} are unlabeled. There "
                f"are: {columns.listed(names)}. Name the column with {columns.LABELS.option}."
            )
        split = columns.find(columns.SPLITS, names)
        self.split = split.name if split else ""
        self.key = self.options.key or ("key" if "key" in names else "")
        return list(dict.fromkeys(filter(None, [self.place, self.label, self.split, *self._of_key(names)])))

    @property
    def _wanted_place(self) -> str:
        """The column that the user names; "image" is the default, which is a column of bytes in other sources."""
        return "" if self.options.image_column == columns.IMAGES.first[0] else self.options.image_column

    def _of_key(self, names: Sequence[str]) -> list[str]:
        there = []
        for name in template_fields(self.key):
            if name in names:
                there.append(name)
            elif name not in OWN_FIELDS or "{" not in self.key:
                raise CatalogError(
                    f"{self.source}: expected a column {name!r} for the key {self.key!r}, got {columns.listed(names)}"
                )
        return there

    def texts(self, rows: pa.Table, name: str, listing: Listing) -> pa.Array:
        """A column of the rows as text, null everywhere if there is none."""
        if not name:
            return pa.nulls(len(rows), pa.string())
        lines = rows[_ROW]

        def where(row: int) -> str:
            return f"{self.source}: line {listing.numbers([lines[row].as_py()])[0]}: {name}"

        return as_text(rows[name], None, where)

    def splits(self, rows: pa.Table, listing: Listing) -> pa.Array:
        """The split of each row as text. A column that is not called split counts if all its values are splits."""
        texts = pc.utf8_trim_whitespace(self.texts(rows, self.split, listing))
        if self.split in ("", *columns.SPLITS.first):
            return texts
        distinct = [text for text in pc.unique(texts).to_pylist() if text]
        if not distinct or not all(split_role(text, self.options.split) for text in distinct):
            return pa.nulls(len(rows), pa.string())
        self.notes.append(f"The splits were taken from the column {self.split!r} ({columns.listed(sorted(distinct))}).")
        return texts


_ROW = "\0row"  # the number of the row in the listing; no column of a list can have this name


def _usable(listing: Listing, chosen: _Columns, uri: str) -> tuple[pa.Table, list[pa.Table], list[str]]:
    """The rows that name an image, with places and keys without spaces around them; the problems, and notes."""
    rows = listing.rows
    if not pa.types.is_string(rows[chosen.place].type) and not pa.types.is_null(rows[chosen.place].type):
        kind = rows[chosen.place].type
        raise CatalogError(f"{chosen.source}: {chosen.place}: expected paths or URIs of images, got numbers ({kind})")
    notes = []
    for name in dict.fromkeys([chosen.place, *([chosen.key] if chosen.key in rows.column_names else [])]):
        rows, changed = _trimmed(rows, name)
        if changed:
            notes.append(f"Spaces around the {name} were removed in {changed:,} lines of {file_name(uri)}.")
    rows = rows.append_column(_ROW, pa.array(np.arange(len(rows))))
    missing = pc.or_kleene(pc.is_null(rows[chosen.place]), pc.equal(rows[chosen.place], ""))
    problems = [problem(f"line {line}", uri, f"broken line: {reason}") for line, reason in listing.broken]
    without = np.flatnonzero(missing.to_numpy()).tolist()
    if without:
        reason = f"no {chosen.place}: the line does not name an image"
        problems += [problem(f"line {line}", uri, reason) for line in listing.numbers(without)]
        rows = rows.filter(pc.invert(missing))
    return rows, problems, notes


def _trimmed(rows: pa.Table, name: str) -> tuple[pa.Table, int]:
    """The rows with a text column without spaces around its values, and how many of them had some."""
    column = rows[name]
    if not pa.types.is_string(column.type):
        return rows.set_column(rows.column_names.index(name), name, pc.cast(column, pa.string())), 0
    bare = pc.utf8_trim_whitespace(column)
    changed = int(pc.sum(pc.not_equal(bare, column)).as_py() or 0)
    return (rows.set_column(rows.column_names.index(name), name, bare), changed) if changed else (rows, 0)


def _keys(rows: pa.Table, found: dict[str, pa.Array], chosen: _Columns, classes: tuple[str, ...] | None) -> pa.Array:
    options, key = chosen.options, chosen.key
    if not key:
        return combined(pc.binary_join_element_wise(options.prefix, rows[chosen.place], ""))
    if "{" not in key:
        return as_keys(key, rows[key])
    if "class" in template_fields(key):
        found = {**found, "label": class_of_key(found["label"], options.classes or classes)}
    numbered = {**found, "offset": rows[_ROW].to_numpy()}
    others = {name: rows[name] for name in template_fields(key) if name in rows.column_names}
    return keys(others, numbered, replace(options, key=key), file_name(chosen.source).rpartition(".")[0])


def _resolved(here: str, places: pa.ChunkedArray) -> pa.Array:
    """The absolute path or URI of each place, which may be relative to the manifest's directory."""
    places = combined(places)
    plain = pc.match_substring_regex(places, _PLAIN_PATH)
    joined = pc.if_else(pc.starts_with(places, "/"), places, pc.binary_join_element_wise(here, places, "/"))
    if pc.all(plain).as_py() is not False:
        return joined
    others = places.filter(pc.invert(plain)).to_pylist()
    resolved = pa.array([_resolve(here, text) for text in others], pa.string())
    return pc.replace_with_mask(joined, pc.invert(plain), resolved)


def _resolve(here: str, text: str) -> str:
    return text if is_remote(text) else absolute(text if text.startswith(("/", "file://", "~")) else join(here, text))


def _refuse_web(places: pa.ChunkedArray, source: str) -> None:
    """Raise CatalogError for URLs of the web before anything is downloaded."""
    remote = places.filter(pc.match_substring(places, "://")).to_pylist()
    reasons = [reason for uri in remote if (reason := web_address(uri))]
    if reasons:
        raise CatalogError(f"{source}: {len(reasons):,} of {len(places):,} lines name a URL, first {reasons[0]}")


def _refuse_credentials(places: pa.ChunkedArray, source: str) -> None:
    for uri in places.filter(pc.match_substring(places, "://")).to_pylist():
        if has_credentials(uri):
            raise CatalogError(f"{source}: expected URIs without credentials, got {redacted(uri)}; {WHERE_THEY_BELONG}")


# How else the path of a file that does not exist may be spelled.
_SPELLINGS: dict[str, Callable[[str], str]] = {
    "the path in Unicode form NFC": partial(unicodedata.normalize, "NFC"),
    "the path in Unicode form NFD": partial(unicodedata.normalize, "NFD"),
    "the path with slashes instead of backslashes": lambda uri: uri.replace("\\", "/"),
}


def _existing(given: pa.Array) -> tuple[pa.Table, list[str]]:
    """The files, a table of the schema FILES, and notes. A file that does not exist is looked for under other
    spellings."""
    uris: list[str] = given.to_pylist()
    sizes, times = _sizes_and_times(uris)
    notes = []
    for what, spelled in _SPELLINGS.items():
        at = [i for i, size in enumerate(sizes) if size is None and ("\\" in uris[i] or not uris[i].isascii())]
        others = [spelled(uris[i]) for i in at]
        found = [one for one in zip(at, others, *_sizes_and_times(others), strict=True) if one[2] is not None]
        for i, uri, size, time in found:
            uris[i], sizes[i], times[i] = uri, size, time
        if found:
            notes.append(f"Files found under {what}: {len(found):,} (the first is {found[0][1]}).")
    again = len(uris) - pc.count_distinct(given).as_py()
    if again:
        notes.append(f"{again:,} lines name a file that another line names, too.")
    names = [file_name(uri) for uri in uris]
    return table(FILES, {"name": names, "uri": uris, "size": sizes, "time": times}), notes


def _sizes_and_times(uris: list[str]) -> tuple[list[int | None], list[int | None]]:
    files = infos(uris)
    return files["size"].to_pylist(), files["time"].to_pylist()


MANIFEST = Manifest()
