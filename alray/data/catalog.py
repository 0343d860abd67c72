"""The catalog: one row per image in sorted-key order, with the place of its bytes, its label and its split.

A row number is the rank of the image's key among all keys, so the same data give the same rows on any machine. A
catalog is a directory. Its meta.json is written last: a directory without it is not a catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.config import ConfigError, IndexConfig, refuse_credentials
from alray.config.fields import validated
from alray.data.assemble import Assembled, assemble
from alray.data.copies import copy_notes
from alray.data.depth import Range
from alray.data.examine import read_once, unread
from alray.data.examples import empty_class_notes
from alray.data.hashes import fingerprint_of
from alray.data.problems import REFUSED, counts, first, left_by_refusal, refuse_problems
from alray.data.scans import image_column, scans_of, with_absolute_places
from alray.data.sources import arrays, own
from alray.data.sources.damaged import reachable
from alray.data.sources.files import scanned_files
from alray.data.sources.kinds import SOURCES, kind_of
from alray.data.sources.listing import NO_FILES
from alray.data.sources.parquet import PARQUET
from alray.data.sources.scan import CatalogError
from alray.data.sources.source import Source
from alray.data.sources.split_names import VALIDATION
from alray.data.understood import understood
from alray.store import Store, absolute, is_file, is_remote, json_bytes, read_bytes, table_bytes

__all__ = ["Catalog", "CatalogError", "build", "index", "index_arrays"]

Rows = npt.NDArray[np.int64]
META, _IMAGES = own.CATALOG
_PROBLEMS, _FILES = "problems.parquet", "files.parquet"
_VERSION = 2
_URI = 2  # which column of a reference names its file


@dataclass(frozen=True)
class Catalog:
    """An indexed source. A column is read when it is first needed, and then kept in memory.

    uri: the catalog's directory; format: name of the kind of source; classes: names by label number. fingerprint: 16
    hex digits that depend on the content (keys, sizes, labels, splits, classes and, where they were read, the bytes of
    the images) and not on where it is stored.
    listed: rows and labels that a list of the user's gives to images without a label. masks: the URI of the mask that
    people drew, by key. image_column: the column of the images in Parquet files. embedding_fingerprint: of the user's
    own embeddings and
    pretext losses; empty for a catalog of images. size: number of rows. pixel_range: as declared (`IndexConfig`).
    """

    uri: str
    format: str
    classes: tuple[str, ...]
    fingerprint: str
    image_column: str
    embedding_fingerprint: str
    size: int
    pixel_range: Range | None = None
    listed: tuple[Rows, npt.NDArray[np.int32]] | None = field(default=None, compare=False, repr=False)
    masks: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, uri: str) -> Catalog:
        """Open the catalog in a directory. Raises CatalogError where there is none."""
        store = Store(absolute(uri))
        if not store.has(META):
            there = [] if is_remote(store.uri) else store.names()  # a bucket may hold millions of names
            refused = left_by_refusal(store)
            got = refused or (f"a directory without {META}, with {there[0]}" if there else "none")
            place = "DIRECTORY" if there and not refused else uri  # a catalog may not be written among other files
            raise CatalogError(
                f"{uri}: expected a catalog, got {got}; make one with `alray index SOURCE --out {place}`"
            )
        meta = store.read_json(META)
        if meta["version"] != _VERSION:
            raise CatalogError(
                f"{uri}: expected catalog version {_VERSION}, got {meta['version']}, made by another version of alray; "
                f"index the source again with `alray index SOURCE --out {uri}`, or remove a catalog that a run made"
            )
        fields = {name: meta[name] for name in ("format", "fingerprint", "image_column", "embedding_fingerprint")}
        fields["pixel_range"] = tuple(meta.get("pixel_range") or ()) or None
        return cls(uri=store.uri, classes=tuple(meta["classes"]), size=meta["counts"]["images"], **fields)

    @staticmethod
    def exists(uri: str) -> bool:
        """Whether a directory has a catalog."""
        return Store(absolute(uri)).has(META)

    def __len__(self) -> int:
        return self.size

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}  # without the columns in memory

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def labels(self) -> npt.NDArray[np.int32]:
        """(n,) int32 class numbers, -1 where unknown. Read-only."""
        return self._labels

    def is_test(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: which rows belong to the test split."""
        return np.asarray(pc.equal(self._read("split")["split"], "test").to_numpy())

    def is_validation(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: which rows the user named as the validation set when the source was indexed."""
        return np.asarray(pc.equal(self._read("split")["split"], VALIDATION).to_numpy())

    def named(self, classes: Sequence[str]) -> Catalog:
        """The catalog with these classes, for labels that people give, if it has none of its own."""
        return self if self.classes else replace(self, classes=tuple(classes))

    def keys(self, rows: Rows | None = None) -> pa.Array:
        """The keys of some rows in the given order; by default of all rows."""
        column = self._read("key")["key"] if rows is None else self._keys.take(pa.array(rows))
        return column.combine_chunks()

    def rows_of(self, keys: Sequence[str]) -> Rows:
        """The row of each key (k,) int64, -1 where the catalog has no such image."""
        found = pc.index_in(pa.array(keys, pa.string()), self.keys().cast(pa.string()))
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)

    def references(self, rows: Rows) -> pa.Table:
        """The places of some rows' bytes: a table with columns row, key, uri, offset, size, in ascending row order."""
        found = self._places.take(pa.array(np.sort(np.asarray(rows, np.int64)))).combine_chunks()
        return found.cast(found.schema.set(_URI, pa.field("uri", pa.string())))

    def embedding(self) -> npt.NDArray[np.floating]:
        """The user's own embeddings (n, d), in row order, with their stored type. Raises CatalogError for a catalog of
        images."""
        return self.source.embedding(self._first_uri, self.embedding_fingerprint, self.image_column)

    @property
    def source(self) -> Source:
        """The kind of source that was indexed. It can read the images again."""
        return SOURCES[self.format]

    @property
    def provided_columns(self) -> frozenset[str]:
        """The columns of numbers that the source itself provides, by their names in `alray.features.arrays`; none for a
        catalog of images."""
        return self.source.provided_columns(self.embedding_fingerprint)

    def pretext_loss(self) -> npt.NDArray[np.float64]:
        """The user's own pretext losses (n,), in row order. Raises CatalogError if the source has none."""
        return self.source.pretext_loss(self._first_uri, self.embedding_fingerprint)

    def problems(self) -> pa.Table:
        """The images that indexing left out: a table with columns key, uri, reason."""
        return Store(self.uri).read_table(_PROBLEMS)

    def notes(self) -> list[str]:
        """Sentences on what indexing understood, guessed, changed or left out."""
        return list(Store(self.uri).read_json(META).get("notes", []))

    def told(self) -> list[str]:
        """`notes`, and how many images were left out, with the first of them."""
        problems = self.problems()
        if not len(problems):
            return self.notes()
        place = f"{self.uri}/{_PROBLEMS}"
        left_out = f"left out: {len(problems):,}, with key and reason in {place}; the first:"
        return [*self.notes(), left_out, *first(problems)]

    def config(self) -> IndexConfig:
        """How it was made; its places are absolute."""
        return validated(IndexConfig, Store(self.uri).read_json(META)["config"])

    def table(self) -> pa.Table:
        """All rows with all columns: row, key, uri, offset, size, label, split, and hash (int64, of the bytes; null
        where they were not read)."""
        return Store(self.uri).read_table(_IMAGES)

    def files(self) -> pa.Table:
        """The files that it was made from, as they were listed then: a table with columns uri, size, time (ns), and
        place (0: the root, 1: the test root)."""
        return Store(self.uri).read_table(_FILES)

    def write_files(self, files: pa.Table) -> None:
        """Replace the files that it was made from, after their times have changed and nothing else."""
        Store(self.uri).write_table(_FILES, files)

    def _read(self, *columns: str) -> pa.Table:
        return Store(self.uri).read_table(_IMAGES, list(columns))

    @property
    def _first_uri(self) -> str:
        """The one file that holds all of the user's own embeddings."""
        uri: str = self._read("uri")["uri"][0].as_py()
        return uri

    @cached_property
    def _labels(self) -> npt.NDArray[np.int32]:
        labels: npt.NDArray[np.int32] = pc.fill_null(self._read("label")["label"], -1).to_numpy()
        if self.listed is not None:
            np.put(labels := np.array(labels), *self.listed)
        labels.setflags(write=False)  # Arrow's arrays are read-only already, unless several chunks were joined
        return labels

    @cached_property
    def _keys(self) -> pa.ChunkedArray:
        return self._places["key"] if "_places" in self.__dict__ else self._read("key")["key"]

    @cached_property
    def _places(self) -> pa.Table:
        """References to all rows. A file that holds many images is named once."""
        found = self._read("row", "key", "uri", "offset", "size")
        if not len(found):
            return found
        once = found["uri"].dictionary_encode().unify_dictionaries()
        return found.set_column(_URI, "uri", once) if 2 * len(once.chunk(0).dictionary) < len(found) else found


def index(source: str, out: str, *, progress: bool = False, **options: Any) -> Catalog:
    """Make the catalog of a source in `out`: `build` with the fields of IndexConfig as keyword arguments.

    A value of None means the default. Raises CatalogError also for an unknown option or a value that an option does not
    accept.
    """
    try:
        given = {name: value for name, value in options.items() if value is not None}
        config = validated(IndexConfig, {"root": source, **given})
    except ConfigError as error:
        raise CatalogError(str(error)) from None
    return build(config, out, progress)


def build(
    config: IndexConfig, out: str, progress: bool = False, wants_test: bool = False, decode: bool = True
) -> Catalog:
    """Make the catalog of a source: a folder, tars, Parquet files, a manifest, or an .npz of embeddings.

    With a test_root, everything in it is the test split, and keys start with train/ or test/ unless the source gives
    its own. Images that cannot be used are counted. With on_problem "refuse" they raise CatalogError, which names the
    first of them: no catalog is written, but problems.csv with all of them, if there are more. With "exclude" they are
    left out and listed in the catalog's problems. Where the source looks different from what anybody means
    (`alray.data.understood`), CatalogError says so, unless config.yes accepts it; wants_test: whether missing test
    images look so. decode: whether images are decoded, too, where config.check has them read. Raises StoreError, before
    the source is read, if `out` cannot be written. Raises ConfigError for a URI with credentials.
    """
    refuse_credentials({"root": config.root, "test_root": config.test_root, "out": out})
    source, test_root, classes = config.root, config.test_root, config.classes or None
    store = Store(absolute(out))
    store.check_writable()
    with reachable(source):
        kind = kind_of(source, config.format)
    kind.check(test_root)
    scans = scans_of(config, kind)
    files = table_bytes(scanned_files(scans))  # much smaller than the tables, which are not needed again
    scans = [replace(scan, files=NO_FILES) for scan in scans]
    column = image_column(scans, config)
    found = assemble(scans, classes)
    about_source = partial(understood, scans, given=config.split, from_folders=kind.by_folders, wants_test=wants_test)
    looks_wrong = "" if config.yes else about_source(found).refusal(source)
    reads = config.check == "decode" and kind.decoded and len(found.images) > 0
    opens = reads and not looks_wrong
    found = read_once(found, kind, column, config, progress, decode) if opens else unread(found)
    # Missing and broken images are told together; a structure that looks wrong, before images are opened.
    refuse_problems(found.problems, len(found.images), config, kind, store, looks_wrong, reads and not opens)
    copies = copy_notes(found.images, found.classes)
    about = {
        "format": kind.name,
        "image_column": column,
        "pixel_range": config.pixel_range,
        "config": with_absolute_places(config).model_dump(mode="json"),
        "ignored_files": sum(sum(scan.ignored.values()) for scan in scans),
        "notes": [*about_source(found).accepted(), *empty_class_notes(found), *copies],
    }
    return _write(store, found, about, "".join(scan.content for scan in scans), files)


def index_arrays(
    images: npt.NDArray[np.uint8],
    labels: Sequence[Any] | npt.NDArray[Any] | None,
    out: str,
    *,
    keys: Iterable[str] | None = None,
    test: npt.NDArray[np.bool_] | None = None,
    classes: Sequence[str] | None = None,
) -> Catalog:
    """Make the catalog of arrays in memory. The images are stored in the catalog's directory as PNG bytes in Parquet.

    images (n, h, w) or (n, h, w, 3) uint8; labels (n,) class names or numbers (-1: unknown) or None; test (n,) bool;
    keys (n,): by default the position with nine digits. Raises CatalogError, with nothing written, if shapes, types or
    labels do not fit, or if keys are not different.
    """
    store, names = Store(absolute(out)), arrays.keys_of(images, labels, keys, test, classes)
    store.check_writable()
    store.delete(META)
    store.delete("images")
    try:
        arrays.write(images, labels, store.child("images"), names, test, classes)
        named = tuple(map(str, classes or ()))
        config = IndexConfig(root=store.at("images"), format=PARQUET.name, key="key", classes=named, yes=True)
        return build(config, out, decode=False)
    except CatalogError:
        store.delete("images")
        raise


def _write(store: Store, found: Assembled, about: dict[str, Any], content: str, files: memoryview) -> Catalog:
    images, n = found.images, len(found.images)
    test = int(pc.sum(pc.equal(images["split"], "test")).as_py())
    counted = {"images": n, "test": test, "unlabeled": images["label"].null_count, "problems": counts(found.problems)}
    Store(store.uri, sums="").delete(REFUSED)
    rows = images.add_column(0, "row", pa.array(np.arange(n, dtype=np.int64)))
    declared = f"pixel_range={about['pixel_range']}" if about["pixel_range"] else ""
    fingerprint = fingerprint_of(images, found.classes, content + declared)
    meta = {"version": _VERSION, "classes": list(found.classes), "fingerprint": fingerprint, "counts": counted, **about}
    meta["embedding_fingerprint"] = content
    data = json_bytes(meta)
    if is_file(store.at(META)) and read_bytes(store.at(META)) != data:
        store.delete(META)
    # Two starts that index at the same time write the same files, and so the same checksums.
    tables = {_IMAGES: table_bytes(rows), _PROBLEMS: table_bytes(found.problems), _FILES: files}
    store.write_together({**tables, META: data}, last=True)
    return Catalog.open(store.uri)
