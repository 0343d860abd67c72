"""Write the images of a catalog as WebDataset tars or as an image folder, byte for byte.

Parquet is read by row groups, so scattered rows cost whole groups; a tar or a folder gives one image for one read.
Indexing what was written gives the same keys, labels, splits and bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import fetch
from alray.data.sources import SOURCES
from alray.data.sources.scan import CLASSES_FILE, is_image_name
from alray.data.sources.source import UNKNOWN, Image, Source
from alray.data.sources.webdataset import WEBDATASET
from alray.store import Store, absolute

_CHUNK_BYTES = 64 * 2**20


def repack(
    catalog: Catalog,
    out: str,
    format: str = WEBDATASET.name,
    max_tar_bytes: int = 256 * 2**20,
    progress: bool = False,
) -> None:
    """Write every image of the catalog under its key, in an empty directory `out`.

    webdataset: shard-00000.tar ... (and test-00000.tar ... for the test split), each image followed by its class in a
    .cls member. folder: a file at each key's path. Both: alray-classes.txt, which keeps the order of the classes.
    Raises CatalogError where a key cannot be a file name, or would say another split or class than the catalog.
    """
    target = SOURCES.get(format)
    if target is None or not target.writable:
        names = " or ".join(source.name for source in SOURCES.values() if source.writable)
        raise CatalogError(f"format: expected {names}, got {format!r}")
    store = Store(absolute(out))
    if store.names():
        raise CatalogError(f"{out}: expected an empty directory, and there is {store.names()[0]} in it")
    store.check_writable()
    keys = catalog.keys().to_pylist()
    _check_keys(catalog, keys, target)
    is_test = catalog.is_test()
    with tqdm(total=len(catalog), desc="repacking", unit=" images", disable=not progress) as bar:
        for test in (False, True):
            rows = np.flatnonzero(is_test == test)
            target.write(store, test, _images(catalog, rows, bar), max_tar_bytes)
    store.write_bytes(CLASSES_FILE, "".join(f"{name}\n" for name in catalog.classes).encode())


def _check_keys(catalog: Catalog, keys: list[str], target: Source) -> None:
    """Every key must be a relative path with an image's extension, and must not say another split or class."""
    for key in keys:
        if key.startswith("/") or "//" in key or not is_image_name(key):
            raise CatalogError(
                f"{key}: a file of this name would not be found again as this image (expected a relative path with an "
                "image's extension); index with key='{split}/{class}/{file}-{row}.jpg' or the like first"
            )
    labels = [catalog.classes[number] if number >= 0 else None for number in catalog.labels().tolist()]
    target.check_keys(keys, labels, catalog.is_test())


def _images(catalog: Catalog, rows: npt.NDArray[np.int64], bar: tqdm) -> Iterator[list[Image]]:
    """Some images at a time, in the order in which they lie in the source: every file is read once."""
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
