"""The catalog: one row per image in sorted-key order, with the place of its bytes, its label and its split.

A row number is the rank of the image's key among all keys, so the same data give the same rows on any machine. A
catalog is a directory. Its meta.json is written last: a directory without it is not a catalog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.config import ConfigError, DataConfig, IndexConfig, refuse_credentials
from alray.config.fields import validated
from alray.data import sources
from alray.data.assemble import Assembled, assemble, take_out
from alray.data.depth import Range
from alray.data.examine import examine
from alray.data.problems import REFUSED, counts, refuse_problems
from alray.data.scans import image_column, scans_of
from alray.data.sources import arrays
from alray.data.sources.damaged import reachable
from alray.data.sources.parquet import PARQUET
from alray.data.sources.scan import CatalogError
from alray.data.sources.source import Source
from alray.data.understood import understood
from alray.store import Store, absolute, is_file, json_bytes, read_bytes, table_bytes

__all__ = ["Catalog", "CatalogError", "build", "ensure_catalog", "index", "index_arrays"]

Rows = npt.NDArray[np.int64]
_META, _IMAGES, _PROBLEMS = "meta.json", "catalog.parquet", "problems.parquet"
_VERSION = 1


@dataclass(frozen=True)
class Catalog:
    """An indexed source. A column is read when it is first needed, and then kept in memory.

    uri: the catalog's directory; format: name of the kind of source; classes: names by label number. fingerprint: 16
    hex digits that depend on the content (keys, sizes, labels, splits, classes) and not on where it is stored.
    image_column: the column of the images in Parquet files. embedding_fingerprint: of the user's own embeddings and
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

    @classmethod
    def open(cls, uri: str) -> Catalog:
        """Open the catalog in a directory. Raises CatalogError where there is none."""
        store = Store(absolute(uri))
        if not store.has(_META):
            raise CatalogError(
                f"{uri}: expected a catalog, got no {_META}; make one with `alray index SOURCE --out {uri}`"
            )
        meta = store.read_json(_META)
        if meta["version"] != _VERSION:
            raise CatalogError(
                f"{uri}: expected catalog version {_VERSION}, got {meta['version']}; index the source again"
            )
        fields = {name: meta[name] for name in ("format", "fingerprint", "image_column", "embedding_fingerprint")}
        fields["pixel_range"] = tuple(meta.get("pixel_range") or ()) or None
        return cls(uri=store.uri, classes=tuple(meta["classes"]), size=meta["counts"]["images"], **fields)

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
        """(n,) bool: which rows belong to the test split. Read-only."""
        return self._is_test

    def keys(self, rows: Rows | None = None) -> pa.Array:
        """The keys of some rows in the given order; by default of all rows."""
        column = self._read("key")["key"] if rows is None else self._keys.take(pa.array(rows))
        return column.combine_chunks()

    def references(self, rows: Rows) -> pa.Table:
        """The places of some rows' bytes: a table with columns row, key, uri, offset, size, in ascending row order."""
        return self._places.take(pa.array(np.sort(np.asarray(rows, np.int64)))).combine_chunks()

    def embedding(self) -> npt.NDArray[np.floating]:
        """The user's own embeddings (n, d), in row order, with their stored type. Raises CatalogError for a catalog of
        images."""
        return self.source.embedding(self._first_uri, self.embedding_fingerprint, self.image_column)

    @property
    def source(self) -> Source:
        """The kind of source that was indexed. It can read the images again."""
        return sources.SOURCES[self.format]

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
        return list(Store(self.uri).read_json(_META).get("notes", []))

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
        labels.setflags(write=False)  # Arrow's arrays are read-only already, unless several chunks were joined
        return labels

    @cached_property
    def _is_test(self) -> npt.NDArray[np.bool_]:
        is_test: npt.NDArray[np.bool_] = pc.equal(self._read("split")["split"], "test").to_numpy()
        is_test.setflags(write=False)
        return is_test

    @cached_property
    def _keys(self) -> pa.ChunkedArray:
        return self._places["key"] if "_places" in self.__dict__ else self._read("key")["key"]

    @cached_property
    def _places(self) -> pa.Table:
        return self._read("row", "key", "uri", "offset", "size")


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


def build(config: IndexConfig, out: str, progress: bool = False, wants_test: bool = False) -> Catalog:
    """Make the catalog of a source: a folder, tars, Parquet files, a manifest, or an .npz of embeddings.

    With a test_root, everything in it is the test split, and keys start with train/ or test/ unless the source gives
    its own. Images that cannot be used are counted. With on_problem "refuse" they raise CatalogError, which names the
    first of them: no catalog is written, but problems.csv with all of them, if there are more. With "exclude" they are
    left out and listed in the catalog's problems. Where the source looks different from what anybody means
    (`alray.data.understood`), CatalogError says so, unless config.yes accepts it; wants_test: whether missing test
    images look so. Raises StoreError, before the source is read, if `out` cannot be written. Raises ConfigError for a
    URI with credentials.
    """
    refuse_credentials({"root": config.root, "test_root": config.test_root, "out": out})
    source, test_root, classes = config.root, config.test_root, config.classes or None
    store = Store(absolute(out))
    store.check_writable()
    with reachable(source):
        kind = sources.kind_of(source, config.format)
    kind.check(test_root)
    scans = scans_of(config, kind)
    column = image_column(scans, config)
    found = assemble(scans, classes)
    about_source = partial(understood, scans, given=config.split, from_folders=kind.by_folders, wants_test=wants_test)
    looks_wrong = "" if config.yes else about_source(found).refusal(source)
    notes: tuple[str, ...] = ()
    if config.check == "decode" and kind.decoded and len(found.images) and not looks_wrong:
        examined = examine(found.images, kind, column, config.pixel_range, progress)
        notes = examined.notes
        found = _without(found, examined.problems)
    # Missing and broken images are told together; a structure that looks wrong, before images are opened.
    refuse_problems(found.problems, len(found.images), config, kind, store, looks_wrong)
    origin = {"root": absolute(source), "test_root": absolute(test_root) if test_root else ""}
    about = {
        "format": kind.name,
        "image_column": column,
        "pixel_range": config.pixel_range,
        "source": origin,
        "ignored_files": sum(sum(scan.ignored.values()) for scan in scans),
        "notes": [*about_source(found).accepted(), *notes],
    }
    return _write(store, found, about, "".join(scan.content for scan in scans))


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
    keys (n,): by default the position with nine digits. Raises CatalogError, with nothing written, if shapes or types
    do not fit.
    """
    store = Store(absolute(out))
    store.check_writable()
    store.delete(_META)
    store.delete("images")
    try:
        arrays.write(images, labels, store.child("images"), keys, test, classes)
        named = tuple(map(str, classes or ()))
        return index(store.at("images"), out, format=PARQUET.name, key="key", check="none", classes=named, yes=True)
    except CatalogError:
        store.delete("images")
        raise


def ensure_catalog(config: DataConfig, default_uri: str) -> Catalog:
    """Open the config's catalog (or the one at default_uri). If there is none, index the config's source there.

    Raises CatalogError if there is neither a catalog nor a source, or if the catalog was made from another source than
    the config names.
    """
    uri = config.catalog or default_uri
    store = Store(absolute(uri))
    if store.has(_META):
        _refuse_other_source(config, store)
        return Catalog.open(uri)
    if not config.root:
        if config.catalog:
            raise CatalogError(
                f"data.catalog: expected a catalog at {uri}, got none; `alray index SOURCE --out {uri}` makes it, and "
                "so does a run with data.root"
            )
        raise CatalogError("data.root: expected the source of the images, got none; give data.root or data.catalog")
    return build(config, uri)


def _refuse_other_source(config: DataConfig, store: Store) -> None:
    meta = store.read_json(_META)
    made_from = meta["source"]
    if config.pixel_range and list(config.pixel_range) != meta.get("pixel_range"):
        raise CatalogError(
            f"data.pixel_range: expected that of the catalog at {store.uri}, {meta.get('pixel_range') or 'none'}, got "
            f"{list(config.pixel_range)}; leave it empty, or index again into another data.catalog"
        )
    for field, value in (("root", config.root), ("test_root", config.test_root)):
        if value and absolute(value) != made_from[field]:
            raise CatalogError(
                f"data.{field}: expected {made_from[field] or 'none'}, from which the catalog at {store.uri} was made, "
                f"got {absolute(value)}: leave data.{field} empty to use this catalog, or give another data.catalog"
            )


def _without(found: Assembled, problems: pa.Table) -> Assembled:
    at = pc.index_in(found.images["key"], problems["key"].combine_chunks())
    images, _ = take_out(found.images, problems["reason"].combine_chunks().take(at.combine_chunks()))
    return replace(found, images=images.combine_chunks(), problems=pa.concat_tables([found.problems, problems]))


def _write(store: Store, found: Assembled, about: dict[str, Any], content: str) -> Catalog:
    images = found.images
    n = len(images)
    test = int(pc.sum(pc.equal(images["split"], "test")).as_py())
    counted = {"images": n, "test": test, "unlabeled": images["label"].null_count, "problems": counts(found.problems)}
    Store(store.uri, sums="").delete(REFUSED)
    rows = images.add_column(0, "row", pa.array(np.arange(n, dtype=np.int64)))
    declared = f"pixel_range={about['pixel_range']}" if about["pixel_range"] else ""
    fingerprint = _fingerprint(images, found.classes, content + declared)
    meta = {"version": _VERSION, "classes": list(found.classes), "fingerprint": fingerprint, "counts": counted, **about}
    meta["embedding_fingerprint"] = content
    data = json_bytes(meta)
    if is_file(store.at(_META)) and read_bytes(store.at(_META)) != data:
        store.delete(_META)
    # Two starts that index at the same time write the same files, and so the same checksums.
    store.write_together({_IMAGES: table_bytes(rows), _PROBLEMS: table_bytes(found.problems), _META: data}, last=True)
    return Catalog.open(store.uri)


def _fingerprint(images: pa.Table, classes: Sequence[str], content: str) -> str:
    """A hash of keys, sizes, labels, splits and classes. It does not depend on where the data are stored."""
    digest = hashlib.blake2b(repr((list(classes), content)).encode(), digest_size=8)
    digest.update(pc.binary_length(images["key"]).to_numpy().tobytes())
    for chunk in images["key"].chunks:
        digest.update(memoryview(pa.concat_arrays([chunk]).cast(pa.binary()).buffers()[2] or b""))
    for name, unknown in (("size", -1), ("label", -1)):
        digest.update(pc.fill_null(images[name], unknown).to_numpy().tobytes())
    digest.update(pc.equal(images["split"], "test").to_numpy().tobytes())
    return digest.hexdigest()
