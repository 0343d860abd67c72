"""Write the images of a catalog as WebDataset tars or as an image folder, byte for byte.

Parquet is read by whole row groups, so reading scattered rows is slow. In a tar or a folder one image is one read. A
catalog of the written files has the same keys, labels, splits and bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import fetch
from alray.data.origin import look
from alray.data.sources.kinds import SOURCES
from alray.data.sources.scan import CLASSES_FILE, amount, classes_text, is_image_name
from alray.data.sources.source import UNKNOWN, Image, Source
from alray.data.sources.webdataset import WEBDATASET
from alray.reasons import terminal
from alray.store import Store, absolute

_CHUNK_BYTES = 64 * 2**20


def repack(
    catalog: Catalog,
    out: str,
    format: str = WEBDATASET.name,
    max_tar_bytes: int = 256 * 2**20,
    progress: bool = False,
) -> int:
    """Write every image of the catalog under its key into the empty directory `out`.

    webdataset writes shard-00000.tar ... (and test-00000.tar ... for the test split), in which each image
    is followed by its class in a .cls member. folder writes a file at each key's path. Both write alray-classes.txt,
    which keeps the order of the classes. Returns how many images were written. Raises CatalogError if a key cannot be a
    file name, if the written files would be indexed with another split or class than the catalog has, if it has a
    validation set, or if the source has changed.
    """
    target = SOURCES.get(format)
    if target is None or not target.writable:
        names = " or ".join(source.name for source in SOURCES.values() if source.writable)
        raise CatalogError(f"format: expected {names}, got {format!r}")
    if not catalog.source.decoded:
        raise CatalogError(f"{catalog.uri}: expected a catalog of images, got one of embeddings")
    if held_out := int(catalog.is_validation().sum()):
        raise CatalogError(
            f"{catalog.uri}: {held_out:,} images are the validation set, as --split says, which repacked files would "
            "not show; index without that, repack, and name them in a list (split.val_list)"
        )
    store = Store(absolute(out), sums="")  # a data set, and perhaps a million files: repacking makes it again
    if store.names():
        raise CatalogError(f"{out}: expected an empty directory, got one with {store.names()[0]}")
    store.check_writable()
    for note in look(catalog):
        if progress:
            print(terminal(note), flush=True)
    keys = catalog.keys().to_pylist()
    _check_keys(catalog, keys, target)
    is_test = catalog.is_test()
    with tqdm(total=len(catalog), desc="repacking", unit=" images", disable=not progress) as bar:
        for test in (False, True):
            rows = np.flatnonzero(is_test == test)
            target.write(store, test, _images(catalog, rows, bar), max_tar_bytes)
    store.write_bytes(CLASSES_FILE, classes_text(catalog.classes))
    return len(catalog)


def _check_keys(catalog: Catalog, keys: list[str], target: Source) -> None:
    labels = [catalog.classes[number] if number >= 0 else None for number in catalog.labels().tolist()]
    try:
        _check_keys_of(target, keys, labels, catalog)
    except CatalogError as error:
        raise CatalogError(terminal("; ".join([str(error), *_advice(catalog, keys, labels, target)]))) from None


def _check_keys_of(target: Source, keys: list[str], labels: list[str | None], catalog: Catalog) -> None:
    for key in keys:
        if key.startswith("/") or "//" in key or not is_image_name(key):
            raise CatalogError(f"{key}: expected a key that is a relative path with the extension of an image")
    target.check_keys(keys, labels, catalog.is_test())


def _advice(catalog: Catalog, keys: list[str], labels: list[str | None], target: Source) -> Iterator[str]:
    """Why images with these keys and labels cannot be written so, if labels are missing, and what to do."""
    bare, formats = labels.count(None), [source for source in SOURCES.values() if source.writable]
    if 0 < bare < len(labels) and not target.keeps_unlabeled:
        several = amount(len(labels), "image")
        yield f"{bare:,} of {several} have no label, which a {target.name} cannot show beside others"
        formats = [source for source in formats if source.keeps_unlabeled]
    ways = []
    for other in formats:
        if other is not target:
            with suppress(CatalogError):
                _check_keys_of(other, keys, labels, catalog)
                ways.append(f"repack with --format {other.name}")
    if "key" in catalog.source.uses and (target in formats or not ways):
        template = "{split}/{class}/{file}-{row}.jpg" if bare < len(labels) else "{split}/{file}-{row}.jpg"
        then = "" if target in formats else f", and repack with --format {formats[0].name}"
        ways.append(f"index again with --key '{template}'{then}")
    if ways:
        yield ", or ".join(ways)


def _images(catalog: Catalog, rows: npt.NDArray[np.int64], bar: tqdm) -> Iterator[list[Image]]:
    """Read the images in chunks, in the order of the source, so that every file is read once."""
    if not len(rows):
        return
    references = catalog.references(rows).sort_by([("uri", "ascending"), ("offset", "ascending")])
    labels = catalog.labels()[references["row"].to_numpy()].tolist()
    for start, stop in _chunks(references):
        chunk = references.slice(start, stop - start)
        found = fetch(chunk, catalog.source, catalog.image_column)
        names = [catalog.classes[label] if label >= 0 else UNKNOWN for label in labels[start:stop]]
        yield list(zip(chunk["key"].to_pylist(), found, names, strict=True))
        bar.update(stop - start)


def _chunks(references: pa.Table) -> Iterator[tuple[int, int]]:
    place = np.cumsum(references["size"].to_numpy()) // _CHUNK_BYTES
    edges = [0, *(np.flatnonzero(np.diff(place)) + 1).tolist(), len(references)]
    return pairwise(edges)
