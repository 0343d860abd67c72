"""The catalog of a run: made if there is none, and trusted only while its source still is what it was made from.

A catalog lists the files that it was made from, with size and time. One listing shows that nothing changed. Where it
shows a difference, the source is scanned again, and its rows and the bytes of images decide: files that were copied or
touched are still the same data, and corrected labels or other images are not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from alray.config import DataConfig, IndexConfig
from alray.config.arguments import option
from alray.data.assemble import assemble, named_classes
from alray.data.catalog import Catalog, CatalogError, build
from alray.data.changes import FileChanges, bytes_changed, file_changes, row_changes
from alray.data.hashes import read_hashes
from alray.data.problems import left_by_refusal
from alray.data.scans import scans_of
from alray.data.sources.files import files_of, scanned_files, with_file
from alray.reasons import some_classes
from alray.store import Store, StoreError, absolute

# Options of indexing that change rows, and would be ignored where there is a catalog.
_CHANGE_ROWS = (
    "key", "label_column", "image_column", "split", "class_depth", "links", "pixel_range", "classes",
    "test_label_numbers",
)  # fmt: skip
_looks: ContextVar[dict[tuple[str, str], list[str]] | None] = ContextVar("looks", default=None)


def ensure_catalog(config: DataConfig, default_uri: str) -> tuple[Catalog, list[str]]:
    """Open the config's catalog (or the one at default_uri). If there is none, index the config's source there.

    Returns also sentences on its source (`look`). Classes that the configuration names are those of a catalog that has
    none: they change no row. Raises CatalogError if there is neither a catalog nor a source, if
    the catalog was made from another source than the config names, or if the source has changed since.
    """
    uri = config.catalog or default_uri
    if Catalog.exists(uri):
        catalog = Catalog.open(uri)
        _refuse_other_source(config, catalog)
        return catalog.named(named_classes(config.classes)), look(catalog)
    if not config.root:
        if config.catalog:
            got = left_by_refusal(Store(uri)) or "none"
            raise CatalogError(
                f"data.catalog: expected a catalog at {uri}, got {got}; `alray index SOURCE --out {uri}` makes it, and "
                "so does a run with data.root"
            )
        raise CatalogError("data.root: expected the source of the images, got none; give data.root or data.catalog")
    return build(config, uri), []


def _refuse_other_source(config: DataConfig, catalog: Catalog) -> None:
    made = catalog.config()
    for field in ("root", "test_root", "test_labels"):
        value, known = getattr(config, field), getattr(made, field)
        if value and absolute(value) != known:
            raise CatalogError(
                f"data.{field}: expected {known or 'none'}, from which the catalog at {catalog.uri} was made, "
                f"got {absolute(value)}: leave data.{field} empty to use this catalog, or give another data.catalog"
            )
    found = {"image_column": catalog.image_column, "classes": catalog.classes}
    for field in _CHANGE_ROWS:
        value, known = getattr(config, field), getattr(made, field)
        default = IndexConfig.model_fields[field].get_default(call_default_factory=True)
        # Segmentation indexes without labels; a catalog with labels serves it, too, with classes of the masks.
        for_masks = config.label_column == "" and field in ("label_column", "classes")
        names = field == "classes" and not catalog.classes  # for the labels that people give: no row has one
        if not (for_masks or names) and value not in (default, known, found.get(field, known)):
            has, got = (_in_words(one) for one in (found.get(field, known), value))
            raise CatalogError(
                f"data.{field}: expected that of the catalog at {catalog.uri}, {has}, got {got}: leave it out (the "
                f"catalog's is used), or index again into another data.catalog with {option(field)}"
            )


def _in_words(value: Any) -> str:
    """The value of an option; of many classes the first."""
    names = isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    return (some_classes(value) if names else str(value)) or "none"


def refuse_to_replace(config: IndexConfig, uri: str) -> None:
    """Raise CatalogError if there is a catalog at a URI that was made from another source than the config's."""
    try:
        made = Catalog.open(uri).config().root
    except (CatalogError, StoreError):
        return  # there is none, or none that could be used
    if made != absolute(config.root):
        raise CatalogError(
            f"out: expected a directory without a catalog of another source, got {uri}, whose catalog was made from "
            f"{made}: give another directory, or replace the catalog with --overwrite True"
        )


def look(catalog: Catalog) -> list[str]:
    """Look whether a catalog's source still is what it was made from. It costs one listing of the source, and more only
    where sizes or times of files are others.

    Returns sentences for the user on what could not be compared. Raises CatalogError, with what changed and the command
    that indexes it anew.
    """
    place, known = (catalog.uri, catalog.fingerprint), _looks.get()
    if known is None:
        return _look(catalog)
    if place not in known:
        known[place] = _look(catalog)
    return known[place]


@contextmanager
def looked_at_once() -> Iterator[None]:
    """Context manager: inside of it, `look` looks at each catalog's source once. For many checks in a short time."""
    token = _looks.set({})
    try:
        yield
    finally:
        _looks.reset(token)


def _look(catalog: Catalog) -> list[str]:
    config, known = catalog.config(), catalog.files()
    now, said = _listed(catalog, config, known)
    found = file_changes(known.filter(pc.is_in(known["place"], value_set=pc.unique(now["place"]))), now)
    if not found:
        return said
    if said:  # a part of the source cannot be listed, so it cannot be scanned either
        raise _changed(catalog, config, found.sentences())
    return _compare(catalog, config, found)


def _listed(catalog: Catalog, config: IndexConfig, known: pa.Table) -> tuple[pa.Table, list[str]]:
    """The files that are there now, with columns uri, size, time, place, and sentences on places that cannot be
    listed."""
    listings, said = [], []
    for place, root in enumerate(filter(None, (config.root, config.test_root))):
        uris = known.filter(pc.equal(known["place"], place))["uri"].to_pylist()
        try:
            files = catalog.source.listed(root, uris, config.links)
            why = "" if pc.count(files["size"]).as_py() else "there is nothing of what was indexed"
        except (CatalogError, StoreError, OSError) as error:
            why = str(error).removeprefix(f"{root}: ")
        if why:
            said.append(f"{root} was not looked at ({why}): its catalog {catalog.uri} is used as it is.")
        else:
            listings.append((place, files))
    if config.test_labels and listings and listings[0][0] == 0:
        listings[0] = (0, with_file(listings[0][1], config.test_labels))
    return files_of(listings), said


def _compare(catalog: Catalog, config: IndexConfig, found: FileChanges) -> list[str]:
    """Scan the source again and compare rows and bytes. Returns sentences on what could not be compared; raises
    CatalogError if anything is different."""
    try:
        scans = scans_of(config, catalog.source)
        fresh = assemble(scans, config.classes or None)
    except CatalogError as error:
        raise _changed(catalog, config, [*found.sentences(), f"it cannot be indexed any more: {error}"]) from None
    left_out = _left_out(catalog, fresh.images, found)
    was = _with_classes(catalog.table(), catalog.classes)
    now = _with_classes(fresh.images.filter(pc.invert(left_out)), fresh.classes)
    rows = row_changes(was, now, fresh.problems)
    sentences = rows.sentences
    if "".join(scan.content for scan in scans) != catalog.embedding_fingerprint:
        sentences.append("the embeddings or the pretext losses are others")
    if fresh.classes != catalog.classes:
        sentences.append(f"the classes were {some_classes(catalog.classes)} and are {some_classes(fresh.classes)}")
    uncompared = 0
    if catalog.source.decoded and not sentences:
        images = rows.same.filter(pc.is_in(rows.same["uri"], value_set=found.unequal))
        hashed = images.filter(pc.is_valid(images["hash"]))
        sentences += bytes_changed(hashed, read_hashes(hashed, catalog.source, catalog.image_column, progress=True))
        uncompared = len(images) - len(hashed)
    if sentences:
        raise _changed(catalog, config, sentences)
    with suppress(StoreError):  # then the next look compares again
        catalog.write_files(scanned_files(scans))
    if not uncompared:
        return []
    return [
        f"The files of {uncompared:,} images were written again after they were indexed. Their keys, sizes and labels "
        "are the same; their bytes were not compared, because they were indexed with check none."
    ]


def _left_out(catalog: Catalog, images: pa.Table, found: FileChanges) -> pa.ChunkedArray:
    """Which images of a new scan, (n,) bool, were left out of the catalog because they could not be used, and have not
    been repaired since."""
    known = pc.is_in(images["key"], value_set=catalog.problems()["key"])
    repaired = pc.is_in(images["uri"], value_set=pa.concat_arrays([found.added, found.resized]))
    return pc.and_(known, pc.invert(repaired))


def _with_classes(images: pa.Table, classes: Sequence[str]) -> pa.Table:
    return images.append_column("class", pa.array(list(classes), pa.string()).take(images["label"].combine_chunks()))


def _changed(catalog: Catalog, config: IndexConfig, sentences: Sequence[str]) -> CatalogError:
    roots = " or ".join(filter(None, (config.root, config.test_root)))
    return CatalogError(
        "\n".join([
            f"{roots} has changed since the catalog {catalog.uri} was made from it:",
            *(f"  {sentence}" for sentence in sentences),
            "Old and new data are not mixed in one run. To go on with the old data, bring them back. To use the new "
            "data, index them anew:",
            f"  {command(catalog, config)}",
            "Then the same run begins anew in a directory of its own, and the old one stays as it is.",
        ])
    )  # fmt: skip


def command(catalog: Catalog, config: IndexConfig) -> str:
    """The command that makes a catalog in the same way. config: `Catalog.config`."""
    words = ["alray", "index", config.root, "--out", catalog.uri]
    if not config.yes and not (catalog.labels()[catalog.is_test()] >= 0).any():
        words.append("--yes")  # a run indexes a source without test images, but the command asks whether it is meant
    for name, field in IndexConfig.model_fields.items():
        value = getattr(config, name)
        if name != "root" and value != field.get_default(call_default_factory=True):
            words += [option(name), *([] if value is True else _texts(value))]
    return shlex.join(words)


def _texts(value: Any) -> list[str]:
    """The words that give a value on a command line."""
    if isinstance(value, Mapping):
        return [text for pair in value.items() for text in pair]
    return [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
