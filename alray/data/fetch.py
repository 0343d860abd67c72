"""The bytes of chosen images and no others, and bytes to pixels.

A whole file, one ranged read of a tar, or the row groups of a Parquet file that hold the rows: as the references say.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from alray.data.sources.parquet import image_bytes, image_field
from alray.data.sources.scan import PROBLEMS, concat, problem
from alray.store import filesystem

_THREADS = 16  # reads wait for a disk or a network, not for the processor
_CHECK_BYTES = 16 * 2**20

T = TypeVar("T")


class ImageError(ValueError):
    """An image that cannot be read or decoded; the message is 'key: kind: details'."""


def fetch(references: pa.Table, kind: str, image_column: str = "image", threads: int = _THREADS) -> list[bytes]:
    """The encoded bytes of each reference, in their order.

    references: columns key, uri, offset, size; kind: the format of the catalog. Raises ImageError that names the first
    key whose bytes are not there, or are not as many as were indexed.
    """
    found = fetch_each(references, kind, image_column, threads)
    for item in found:
        if isinstance(item, ImageError):
            raise item
    return [item for item in found if isinstance(item, bytes)]


def fetch_each(references: pa.Table, kind: str, image_column: str, threads: int) -> list[bytes | ImageError]:
    """The bytes of each reference, or why there are none."""
    uris = references["uri"].to_pylist()
    offsets = references["offset"].to_pylist()
    sizes = references["size"].to_pylist()
    with ThreadPoolExecutor(threads) as pool:
        if kind == "parquet":
            found = _from_parquet(pool, uris, offsets, image_column)
        elif kind == "webdataset":
            found = _from_tars(pool, uris, offsets, sizes)
        else:
            found = list(pool.map(lambda uri: _attempt(_whole_file, uri), uris))
    keys = references["key"].to_pylist()
    return [_checked(*item) for item in zip(found, keys, uris, sizes, strict=True)]


def _attempt(read: Callable[..., T], *args: Any) -> T | Exception:
    try:
        return read(*args)
    except (OSError, pa.ArrowException, IndexError) as error:
        return error


def _checked(data: bytes | Exception | None, key: str, uri: str, size: int | None) -> bytes | ImageError:
    if isinstance(data, Exception):
        return ImageError(f"{key}: missing image: cannot read {uri}: {data}")
    if data is None or len(data) != (len(data) if size is None else size):
        got = "none" if data is None else len(data)
        return ImageError(f"{key}: changed image: {size} bytes were indexed, and {uri} has {got} now")
    return data


def _whole_file(uri: str) -> bytes:
    fs, path = filesystem(uri)
    with fs.open_input_file(path) as file:
        return bytes(file.read())


def _from_tars(pool: ThreadPoolExecutor, uris: Any, offsets: Any, sizes: Any) -> list[bytes | Exception | None]:
    """One ranged read each; every tar is opened once, and its reads overlap."""
    with ExitStack() as stack:

        def opened(uri: str) -> Any:
            fs, path = filesystem(uri)
            return stack.enter_context(fs.open_input_file(path))

        def read(uri: str, offset: int, size: int) -> bytes:
            file = files[uri]
            if isinstance(file, Exception):
                raise file
            return bytes(file.read_at(size, offset))

        distinct = list(dict.fromkeys(uris))
        files = dict(zip(distinct, pool.map(lambda uri: _attempt(opened, uri), distinct), strict=True))
        return list(pool.map(lambda *at: _attempt(read, *at), uris, offsets, sizes))


def _from_parquet(pool: ThreadPoolExecutor, uris: Any, offsets: Any, column: str) -> list[bytes | Exception | None]:
    places: dict[str, list[int]] = {}
    for i, uri in enumerate(uris):
        places.setdefault(uri, []).append(i)
    rows = [np.array([offsets[i] for i in at], np.int64) for at in places.values()]
    answers = pool.map(lambda uri, wanted: _attempt(_parquet_rows, uri, wanted, column), places, rows)
    found: list[bytes | Exception | None] = [None] * len(uris)
    for at, answer in zip(places.values(), answers, strict=True):
        for position, i in enumerate(at):
            found[i] = answer if isinstance(answer, Exception) else answer[position]
    return found


def _parquet_rows(uri: str, rows: Any, column: str) -> list[bytes | None]:
    """The image bytes of some rows of one file: only the row groups they are in, only the image column."""
    fs, path = filesystem(uri)
    found: list[bytes | None] = [None] * len(rows)
    with pq.ParquetFile(path, filesystem=fs) as file:
        field = image_field(file.schema_arrow, column)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        for group in np.unique(groups).tolist():
            if group == len(ends):
                raise IndexError(f"it has {sum(sizes)} rows, and row {rows.max()} was asked for")
            images = image_bytes(file.read_row_group(group, columns=[field], use_threads=False)[column])
            at = np.flatnonzero(groups == group)
            inside = rows[at] - (ends[group] - sizes[group])
            for i, data in zip(at.tolist(), images.take(pa.array(inside)).to_pylist(), strict=True):
                found[i] = data
    return found


def decode(data: bytes, key: str) -> Image.Image:
    """Encoded bytes as an RGB image (8 bits a channel); transparency is dropped, 16-bit grey loses its lower byte.

    Raises ImageError that names the key and the reason, for whatever a decoder may meet in broken bytes.
    """
    if not data:
        raise ImageError(f"{key}: broken image: it has no bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _rgb(image)
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error; all of it is told
        why = str(error) or type(error).__name__
        raise ImageError(f"{key}: broken image: {why} ({len(data)} bytes)") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"grey values from {values.min()} to {values.max()} are no 16-bit image")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def undecodable(images: pa.Table, kind: str, image_column: str, progress: bool) -> pa.Table:
    """Open every image once, on all processors: the problems (key, uri, reason) of those that cannot be decoded.

    images: columns key, uri, offset, size, in any order.
    """
    images = images.sort_by([("uri", "ascending"), ("offset", "ascending")])
    sizes = np.cumsum(images["size"].to_numpy())
    edges = np.flatnonzero(np.diff(sizes // _CHECK_BYTES, prepend=-1)) if len(images) else np.empty(0, np.int64)
    ends = [*edges[1:].tolist(), len(images)]
    chunks = [images.slice(start, end - start) for start, end in zip(edges.tolist(), ends, strict=True)]
    problems: list[pa.Table] = []
    workers = ThreadPoolExecutor(_processors())
    with workers, tqdm(total=len(images), desc="checking", unit=" images", disable=not progress) as bar:

        def check(chunk: pa.Table) -> list[pa.Table]:
            found = _broken(chunk, kind, image_column)
            bar.update(len(chunk))
            return found

        for found in workers.map(check, chunks):
            problems.extend(found)
    return concat(problems, PROBLEMS)


def _broken(chunk: pa.Table, kind: str, image_column: str) -> list[pa.Table]:
    problems = []
    found = fetch_each(chunk, kind, image_column, threads=4)
    for data, key, uri in zip(found, chunk["key"].to_pylist(), chunk["uri"].to_pylist(), strict=True):
        error = data if isinstance(data, ImageError) else _why_undecodable(data, key)
        if error is not None:
            problems.append(problem(key, uri, str(error).removeprefix(f"{key}: ")))
    return problems


def _why_undecodable(data: bytes, key: str) -> ImageError | None:
    try:
        decode(data, key)
    except ImageError as error:
        return error
    return None


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take(references: pa.Table, rows: Any) -> pa.Table:
    """The references of some rows, in the order asked for; their column row ascends. Raises KeyError."""
    have = references["row"].to_numpy()
    at = np.searchsorted(have, rows)
    if len(at) and (len(have) == 0 or not np.array_equal(have[np.minimum(at, len(have) - 1)], rows)):
        raise KeyError(f"rows {np.setdiff1d(rows, have)[:5].tolist()} have no reference")
    return references.take(pa.array(at))
