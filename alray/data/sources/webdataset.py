"""WebDataset tars. Indexing notes the byte offset of every image, so that reading one image is one ranged read."""

from __future__ import annotations

import io
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, compress
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.folder import says_otherwise
from alray.data.sources.keys import keys as keys_of
from alray.data.sources.keys import template_fields
from alray.data.sources.label_text import class_of_key
from alray.data.sources.layout import places, understand
from alray.data.sources.listing import NO_FILES, listing
from alray.data.sources.samples import LABEL_KINDS, UNSAID, Chosen, Classes, choose_images, sample_of
from alray.data.sources.scan import (
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    agree,
    amount,
    concat,
    read_classes,
    suffixes,
    table,
)
from alray.data.sources.source import IMAGE_OPTIONS, Found, Image, Source, attempt
from alray.data.sources.split_names import split_of_file
from alray.data.sources.tars import Tar, read_headers
from alray.store import Store, filesystem

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_THREADS = 16  # threads: a header is one small read, and the latencies of an object store overlap
_HEADERS = 5120  # the most bytes that the headers and padding of an image and its class take
_END = 10240  # the size of a tar is a multiple of this
_FIELDS = ("name", "file", "row", "split", "class")  # of a template for keys


class WebDataset(Source):
    """Tars whose members are images."""

    name: ClassVar[str] = "webdataset"
    about: ClassVar[str] = (
        "WebDataset tars: a tar, a glob of tars, or a folder that holds .tar files. They must not be compressed, "
        "because single images are read by their offset."
    )
    labels: ClassVar[str] = (
        f"The member of the same sample that ends in {', '.join(LABEL_KINDS)} (the first of these); else the directory "
        "in the image's name, as in a folder."
    )
    keys: ClassVar[str] = "The name of the image's member, after the name of its tar where names repeat. Or --key."
    by_folders: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = IMAGE_OPTIONS | {"key", "label_column", "image_column", "class_depth", "links"}
    extensions: ClassVar[tuple[str, ...]] = (".tar", ".tar.gz", ".tgz")
    writable: ClassVar[bool] = True
    keeps_unlabeled: ClassVar[bool] = True

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the image members of all tars.

        The key of an image is its member's name; where a name is in several tars, all keys begin with the tar's name.
        options.key: a template of name (the member's), file (the tar's, without .tar), row (the image's position in
        the tar), split and class. The class is in a member of the same sample (`samples.LABEL_KINDS`). Without one it
        is the directory in the member's name, as in a folder. With an empty label column there are no classes. Raises
        CatalogError if there is no tar or if one is compressed.
        """
        found = listing(source, options.links)
        compressed = [name for name in found.files["name"].to_pylist() if name.lower().endswith(_COMPRESSED)]
        if compressed:
            raise CatalogError(
                f"{source}: expected uncompressed tars, in which one image can be read by its offset, got "
                f"{len(compressed)} compressed ones, first {compressed[0]}; decompress them"
            )
        files = found.with_extension(source, [".tar"])
        uris, paths = files["uri"].to_pylist(), files["name"].to_pylist()
        with ThreadPoolExecutor(min(_THREADS, len(uris))) as pool:
            tars = list(pool.map(lambda uri, path: read_headers(uri, path, options.label_column), uris, paths))
        chosen = choose_images((tar.names for tar in tars), options.image_column)
        pictures = sum(len(tar.names) for tar in tars)
        _keep(tars, chosen)
        classes = agree([read_classes(place) for place in self.class_places(source, files)], source)
        scan = _scan(tars, options, source)
        others = set(found.files["name"].to_pylist()) - set(paths)
        return replace(
            scan,
            classes=classes,
            ignored=sum((tar.ignored for tar in tars), suffixes(others)),
            left_out=pictures - len(scan.images),
            notes=(*found.notes, *chosen.notes, *scan.notes),
            doubts=(*chosen.doubts, *scan.doubts),
            files=self.files(source, files),
        )

    def class_places(self, source: str, used: pa.Table) -> set[str]:
        """The directories of the tars."""
        return {uri.rpartition("/")[0] for uri in used["uri"].to_pylist()}

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """The bytes of each image by one ranged read. Every tar is opened once, and reads overlap."""
        uris = references["uri"].to_pylist()
        with ExitStack() as stack:

            def opened(uri: str) -> Any:
                fs, path = filesystem(uri)
                return stack.enter_context(fs.open_input_file(path))

            def ranged(uri: str, offset: int, size: int) -> bytes:
                file = files[uri]
                if isinstance(file, Exception):
                    raise file
                return bytes(file.read_at(size, offset))

            distinct = list(dict.fromkeys(uris))
            files = dict(zip(distinct, pool.map(lambda uri: attempt(opened, uri), distinct), strict=True))
            places = uris, references["offset"].to_pylist(), references["size"].to_pylist()
            return list(pool.map(lambda *at: attempt(ranged, *at), *places))

    def check_keys(self, keys: Sequence[str], labels: Sequence[str | None], is_test: Any) -> None:
        """Raise CatalogError if two images would share one .cls member, or if all keys name splits and one is not that
        of its image."""
        stems: dict[str, str] = {}
        for key in keys:
            other = stems.setdefault(_stem(key), key)
            if other != key:
                raise CatalogError(
                    f"expected keys with different stems, got {key} and {other}, which would share one .cls member"
                )
        splits, _ = places(keys, classes=False)
        for key, split, label, test in zip(keys, splits, labels, is_test.tolist(), strict=True):
            if (split == "test") != test and all(splits):
                raise CatalogError(says_otherwise(key, split, label, label, test))

    def write(self, store: Store, is_test: bool, images: Iterator[list[Image]], most_bytes: int) -> None:
        """Write shard-00000.tar ..., or test-00000.tar ... for the test split. Each image is followed by its class in a
        .cls member."""
        prefix = "test" if is_test else "shard"
        number, size = 0, 0
        waiting: list[Image] = []
        for image in (image for chunk in images for image in chunk):
            needs = len(image[1]) + _HEADERS
            if waiting and size + needs > most_bytes - _END:
                store.write_bytes(f"{prefix}-{number:05d}.tar", _tar_of(waiting))
                number, size, waiting = number + 1, 0, []
            waiting.append(image)
            size += needs
        if waiting:
            store.write_bytes(f"{prefix}-{number:05d}.tar", _tar_of(waiting))


def _tar_of(images: list[Image]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for key, data, label in images:
            _append(tar, key, data)
            _append(tar, f"{_stem(key)}.cls", label.encode())
    return sink.getvalue()


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # it has no time and no owner, so the same images give the same tar
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _keep(tars: list[Tar], chosen: Chosen) -> None:
    if chosen.suffixes is not None:
        for tar in tars:
            keep = [sample_of(name)[1] in chosen.suffixes for name in tar.names]
            tar.names = list(compress(tar.names, keep))
            tar.offsets, tar.sizes = (array("q", compress(column, keep)) for column in (tar.offsets, tar.sizes))


def _scan(tars: list[Tar], options: ScanOptions, source: str) -> Scan:
    """The references to all images, without what the files beside the tars say."""
    names = list(chain.from_iterable(tar.names for tar in tars))
    looked_up = Classes(options.label_column)
    labels = list(chain.from_iterable(looked_up.of_all(tar.names, tar.labels) for tar in tars))
    _check_column(tars, options.label_column, source)
    by_folder = bool(options.label_column) and UNSAID in labels
    column = pa.array(names, pa.string())
    layout = understand(column, options, by_folder)
    keep = layout.keep
    tar_of = np.repeat(np.arange(len(tars)), [len(tar.names) for tar in tars])
    has_splits = bool(len(layout.split)) and not layout.split.null_count
    splits = pa.array([split_of_file(f"{tar.name}.tar", options.split) for tar in tars], pa.string())
    columns = {
        "uri": pa.array([tar.uri for tar in tars], pa.string()).take(pa.array(tar_of)).filter(pa.array(keep)),
        "offset": np.concatenate([np.array(tar.offsets, np.int64) for tar in tars])[keep],
        "size": np.concatenate([np.array(tar.sizes, np.int64) for tar in tars])[keep],
        "split": layout.split if has_splits else splits.take(pa.array(tar_of[keep])),
    }
    if not options.label_column:
        labels = [None] * len(names)
    said = pa.array(labels, pa.string()).filter(pa.array(keep))
    columns["label"] = pc.if_else(pc.equal(said, UNSAID), layout.label, said) if UNSAID in labels else said
    prefix = "" if has_splits else options.prefix
    columns["key"], notes = _keys(tars, column, keep, columns, replace(options, prefix=prefix))
    notes = [*layout.notes, *looked_up.notes(), *notes]
    problems = concat((one for tar in tars for one in tar.problems), PROBLEMS)
    named = layout.named | {name for name in options.split for tar in tars if name in tar.name.split("/")}
    images = table(IMAGES, columns)
    return Scan(images, problems, notes=tuple(notes), doubts=layout.doubts, named=named, files=NO_FILES)


def _check_column(tars: list[Tar], column: str, source: str) -> None:
    """Raise CatalogError if the user names a label column that no .json has."""
    without = sum(tar.without_label for tar in tars)
    if column not in ("", "label") and not any(tar.labels.get(".json") for tar in tars):
        raise CatalogError(f"{source}: label_column: expected {column!r} in .json members, got {without:,} without it")


def _keys(
    tars: list[Tar], names: pa.Array, keep: npt.NDArray[np.bool_], columns: dict[str, Any], options: ScanOptions
) -> tuple[pa.Array, list[str]]:
    """The keys of the images that are kept, and sentences for the user. names: of all images."""
    if options.key:
        return _from_template(tars, [tar.names for tar in tars], keep, columns, options), []
    distinct = len(set(chain.from_iterable(tar.names for tar in tars)))
    again = sum(len(set(tar.names)) for tar in tars) - distinct if distinct < len(names) else 0
    starts = pa.array([f"{options.prefix}{tar.name}/" if again else options.prefix for tar in tars], pa.string())
    tar_of = np.repeat(np.arange(len(tars)), [len(tar.names) for tar in tars])
    keys = pc.binary_join_element_wise(starts.take(pa.array(tar_of)), names, "") if again or options.prefix else names
    notes = []
    if again:
        notes.append(
            f"{amount(again, 'name')} of images in more than one tar, so every key begins with the name of its tar, as "
            f"{keys[0]} (--key gives other keys)"
        )
    return keys.filter(pa.array(keep)), notes


def _from_template(
    tars: list[Tar], names: list[list[str]], keep: npt.NDArray[np.bool_], columns: dict[str, Any], options: ScanOptions
) -> pa.Array:
    if "{" not in options.key or not set(template_fields(options.key)) <= set(_FIELDS):
        raise CatalogError(
            f"key: expected a template of {', '.join(f'{{{name}}}' for name in _FIELDS)} for tars, got {options.key!r}"
        )
    parts, at, position = [], 0, 0
    columns = {**columns, "label": class_of_key(columns["label"], options.classes)}
    for tar, own in zip(tars, names, strict=True):
        here = np.flatnonzero(keep[at : at + len(own)])
        part = {name: columns[name][position : position + len(here)] for name in ("split", "label")}
        others = {"name": pa.array([own[row] for row in here], pa.string())}
        parts.append(keys_of(others, {**part, "offset": here}, options, tar.name))
        at, position = at + len(own), position + len(here)
    return pa.concat_arrays(parts)


def _stem(name: str) -> str:
    return name[: -len(name.rpartition(".")[2]) - 1]


WEBDATASET = WebDataset()
