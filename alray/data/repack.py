"""Write the images of a catalog as WebDataset tars or as an image folder, byte for byte.

Parquet is read by row groups, so scattered rows cost whole groups; a tar or a folder gives one image for one read.
Indexing what was written gives the same keys, labels, splits and bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import fetch
from alray.data.sources.scan import CLASSES_FILE, is_image_name, splits_and_labels
from alray.store import Store, absolute

_CHUNK_BYTES = 64 * 2**20
_HEADERS = 5120  # of an image and its class, with long names, and their padding, at most
_END = 10240  # a tar is a multiple of this
_WRITERS = 16
UNKNOWN = "-1"

Image = tuple[str, bytes, str]  # key, bytes, class


def repack(
    catalog: Catalog,
    out: str,
    format: Literal["webdataset", "folder"] = "webdataset",
    max_tar_bytes: int = 256 * 2**20,
    progress: bool = False,
) -> None:
    """Write every image of the catalog under its key, in an empty directory `out`.

    webdataset: shard-00000.tar ... (and test-00000.tar ... for the test split), each image followed by its class in a
    .cls member. folder: a file at each key's path. Both: alray-classes.txt, which keeps the order of the classes.
    Raises CatalogError where a key cannot be a file name, or would say another split or class than the catalog.
    """
    if format not in ("webdataset", "folder"):
        raise CatalogError(f"format: expected webdataset or folder, got {format!r}")
    store = Store(absolute(out))
    if store.names():
        raise CatalogError(f"{out}: expected an empty directory, and there is {store.names()[0]} in it")
    store.check_writable()
    keys = catalog.keys().to_pylist()
    _check_keys(catalog, keys, format == "folder")
    is_test = catalog.is_test()
    with tqdm(total=len(catalog), desc="repacking", unit=" images", disable=not progress) as bar:
        for prefix, rows in (("shard", np.flatnonzero(~is_test)), ("test", np.flatnonzero(is_test))):
            images = _images(catalog, rows, bar)
            if format == "folder":
                _write_files(store, images)
            else:
                _write_tars(store, prefix, images, max_tar_bytes)
    store.write_bytes(CLASSES_FILE, "".join(f"{name}\n" for name in catalog.classes).encode())


def _check_keys(catalog: Catalog, keys: list[str], folder: bool) -> None:
    """Every key must be a relative path with an image's extension, and must not say another split or class."""
    for key in keys:
        if key.startswith("/") or "//" in key or not is_image_name(key):
            raise CatalogError(
                f"{key}: a file of this name would not be found again as this image (expected a relative path with an "
                "image's extension); index with key='{split}/{class}/{file}-{row}.jpg' or the like first"
            )
    if not folder:
        _check_sidecars(keys)
    splits, labels = splits_and_labels(keys)
    numbers, is_test = catalog.labels().tolist(), catalog.is_test().tolist()
    for key, split, label, number, test in zip(keys, splits, labels, numbers, is_test, strict=True):
        name = catalog.classes[number] if number >= 0 else None
        wrong_split = (split == "test") != test and (folder or all(splits))
        if wrong_split or (folder and label != name):
            raise CatalogError(
                f"{key}: as a path it says {split or 'train'}, class {label}; the catalog says "
                f"{'test' if test else 'train'}, class {name}: index with key='{{split}}/{{class}}/...' first"
            )


def _check_sidecars(keys: list[str]) -> None:
    stems: dict[str, str] = {}
    for key in keys:
        other = stems.setdefault(_stem(key), key)
        if other != key:
            raise CatalogError(f"{key} and {other} would share one .cls member: give keys with different stems")


def _stem(key: str) -> str:
    return key.rpartition(".")[0]


def _images(catalog: Catalog, rows: npt.NDArray[np.int64], bar: tqdm) -> Iterator[list[Image]]:
    """Some images at a time, in the order in which they lie in the source: every file is read once."""
    if not len(rows):
        return
    references = catalog.references(rows).sort_by([("uri", "ascending"), ("offset", "ascending")])
    labels = catalog.labels()[references["row"].to_numpy()].tolist()
    for start, stop in _chunks(references):
        chunk = references.slice(start, stop - start)
        found = fetch(chunk, catalog.format, catalog.image_column)
        names = [catalog.classes[label] if label >= 0 else UNKNOWN for label in labels[start:stop]]
        yield list(zip(chunk["key"].to_pylist(), found, names, strict=True))
        bar.update(stop - start)


def _chunks(references: pa.Table) -> Iterator[tuple[int, int]]:
    place = np.cumsum(references["size"].to_numpy()) // _CHUNK_BYTES
    edges = [0, *(np.flatnonzero(np.diff(place)) + 1).tolist(), len(references)]
    return pairwise(edges)


def _write_files(store: Store, chunks: Iterator[list[Image]]) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        for chunk in chunks:
            list(pool.map(lambda image: store.write_bytes(image[0], image[1]), chunk))


def _write_tars(store: Store, prefix: str, chunks: Iterator[list[Image]], max_tar_bytes: int) -> None:
    number, size = 0, 0
    waiting: list[Image] = []
    for image in (image for chunk in chunks for image in chunk):
        needs = len(image[1]) + _HEADERS
        if waiting and size + needs > max_tar_bytes - _END:
            store.write_bytes(f"{prefix}-{number:05d}.tar", _tar(waiting))
            number, size, waiting = number + 1, 0, []
        waiting.append(image)
        size += needs
    if waiting:
        store.write_bytes(f"{prefix}-{number:05d}.tar", _tar(waiting))


def _tar(images: list[Image]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for key, data, label in images:
            _add(tar, key, data)
            _add(tar, f"{_stem(key)}.cls", label.encode())
    return sink.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner: the same images give the same tar
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
