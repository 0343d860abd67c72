"""WebDataset tars. Indexing notes the byte offset of every image, so that reading one image is one ranged read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from alray.data.sources.folder import says_otherwise
from alray.data.sources.scan import (
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    agree,
    concat,
    file_name,
    is_image_name,
    list_files,
    problem,
    read_classes,
    split_of_file,
    splits_and_labels,
    table,
    with_extension,
)
from alray.data.sources.source import Found, Image, Source, attempt
from alray.store import Store, filesystem

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_THREADS = 16  # threads: a header is one small read, and the latencies of an object store overlap
_BLOCK = 512
_HEADERS = 5120  # the most bytes that the headers and padding of an image and its class take
_END = 10240  # the size of a tar is a multiple of this
_READ_AHEAD = 4096  # bytes; a small sidecar is read together with its header


@dataclass
class _Tar:
    """The content of one tar, according to its headers."""

    uri: str
    images: list[tuple[str, int, int]] = field(default_factory=list)  # member name, offset, size
    sidecars: dict[str, str | None] = field(default_factory=dict)  # stem -> class; None: unknown class
    problems: list[pa.Table] = field(default_factory=list)
    ignored: int = 0

    def report(self, key: str, reason: str) -> None:
        """Note that a member, or the tar itself, cannot be used."""
        self.problems.append(problem(key, self.uri, reason))


class WebDataset(Source):
    """Tars whose members are images."""

    name: ClassVar[str] = "webdataset"
    extensions: ClassVar[tuple[str, ...]] = (".tar", ".tar.gz", ".tgz")
    writable: ClassVar[bool] = True

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to the image members of all tars. The key of an image is its member's name.

        The class is in the sidecar with the same stem (.cls: name or number; .json: the value of the label column).
        Without a sidecar it is the directory in the member's name, as in a folder. With an empty label column there are
        no classes. Raises CatalogError if there is no tar or if one is compressed.
        """
        files = list_files(source)
        compressed = [name for name in files["name"].to_pylist() if name.lower().endswith(_COMPRESSED)]
        if compressed:
            raise CatalogError(
                f"{source}: expected uncompressed tars, in which one image can be read by its offset, got "
                f"{len(compressed)} compressed ones, first {compressed[0]}; decompress them"
            )
        files = with_extension(files, source, [".tar"])
        uris = files["uri"].to_pylist()
        with ThreadPoolExecutor(min(_THREADS, len(uris))) as pool:
            tars = list(pool.map(lambda uri: _read_headers(uri, options.label_column), uris))
        names = [name for tar in tars for name, _, _ in tar.images]
        splits, labels = splits_and_labels(names)
        has_splits = bool(splits) and all(splits)
        prefix = "" if has_splits else options.prefix
        columns = {
            "key": [prefix + name for name in names],
            "uri": [tar.uri for tar in tars for _ in tar.images],
            "offset": [offset for tar in tars for _, offset, _ in tar.images],
            "size": [size for tar in tars for _, _, size in tar.images],
            "label": _labels(tars, labels) if options.label_column else [None] * len(labels),
            "split": splits if has_splits else [split_of_file(file_name(tar.uri)) for tar in tars for _ in tar.images],
        }
        classes = agree([read_classes(place) for place in {uri.rpartition("/")[0] for uri in uris}], source)
        problems = concat((one for tar in tars for one in tar.problems), PROBLEMS)
        return Scan(table(IMAGES, columns), problems, classes, sum(tar.ignored for tar in tars))

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
        splits, classes = splits_and_labels(keys)
        for key, split, found, label, test in zip(keys, splits, classes, labels, is_test.tolist(), strict=True):
            if (split == "test") != test and all(splits):
                raise CatalogError(says_otherwise(key, split, found, label, test))

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


def _labels(tars: list[_Tar], by_directory: list[str | None]) -> list[str | None]:
    labels = list(by_directory)
    position = 0
    for tar in tars:
        for name, _, _ in tar.images:
            for stem in (_stem(name), _first_dot_stem(name)):
                if stem in tar.sidecars:
                    labels[position] = tar.sidecars[stem]
                    break
            position += 1
    return labels


def _stem(name: str) -> str:
    return name[: -len(name.rpartition(".")[2]) - 1]


def _first_dot_stem(name: str) -> str:
    """The name up to its first dot. In WebDataset, files with the same such name are one sample: a.left.jpg and
    a.right.jpg share a.cls."""
    place, slash, base = name.rpartition("/")
    return place + slash + base.split(".", 1)[0]


def _read_headers(uri: str, label_column: str) -> _Tar:
    tar = _Tar(uri)
    fs, path = filesystem(uri)
    with fs.open_input_file(path) as file:
        size = file.size()
        buffered = io.BufferedReader(file, _READ_AHEAD)
        try:
            with tarfile.open(fileobj=buffered, mode="r:") as members:
                try:
                    for member in members:
                        _add(tar, members, member, size, label_column)
                except (tarfile.TarError, EOFError):
                    pass  # `_check_end` reports where reading stopped
                _check_end(tar, buffered, members.offset, size)
        except tarfile.TarError as error:
            tar.report(file_name(uri), f"broken tar: {error} ({size} bytes)")
        finally:
            buffered.detach()
    return tar


def _add(tar: _Tar, members: tarfile.TarFile, member: tarfile.TarInfo, size: int, label_column: str) -> None:
    name = member.name.removeprefix("./")
    extension = name.rpartition(".")[2].lower()
    if member.isdir():
        return
    if is_image_name(name):
        if not member.isreg() or member.issparse():
            tar.report(name, "broken member: expected one range of bytes, got a link or a sparse file")
        elif member.offset_data + member.size > size:
            tar.report(
                name, f"truncated member: the tar ends {member.offset_data + member.size - size} bytes before it"
            )
        else:
            tar.images.append((name, member.offset_data, member.size))
    elif extension in ("cls", "json") and member.isreg() and member.offset_data + member.size <= size:
        _add_sidecar(tar, name, members.extractfile(member).read(), label_column)  # type: ignore[union-attr]
    else:
        tar.ignored += 1


def _add_sidecar(tar: _Tar, name: str, data: bytes, label_column: str) -> None:
    stem = _stem(name)
    try:
        if name.lower().endswith(".cls"):
            tar.sidecars[stem] = data.decode().strip()
        else:
            label = json.loads(data).get(label_column)
            if label is not None:
                tar.sidecars[stem] = str(label)
            else:
                tar.sidecars.setdefault(stem, None)
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        tar.report(name, f"broken sidecar: {error}")


def _check_end(tar: _Tar, file: io.BufferedReader, end: int, size: int) -> None:
    """Report a tar that does not end with a block of zeros: its last members may be missing."""
    file.seek(min(end, size))
    block = file.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "no end-of-archive mark" if len(block) < _BLOCK else "no valid header"
        tar.report(file_name(tar.uri), f"truncated tar: there is {what} at byte {min(end, size)} of {size}")


WEBDATASET = WebDataset()
