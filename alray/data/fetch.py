"""Read the bytes of the chosen images and of no others (contract C2), and decode them to pixels."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from alray.data.sources.scan import PROBLEMS, concat, problem
from alray.data.sources.source import Source

_THREADS = 16  # reads wait for a disk or a network, not for a CPU
_CHECK_BYTES = 16 * 2**20  # of the images that one thread checks before it takes the next
_BLOCK_BYTES = 32 * 2**20

T = TypeVar("T")


class ImageError(ValueError):
    """An image cannot be read or decoded; the message is 'key: kind: details'."""


def block_rows(size: int) -> int:
    """The number of rows per block, 16 to 4096, with which a block of decoded size x size images has about 32 MiB."""
    return min(max(_BLOCK_BYTES // (3 * size * size), 16), 4096)


def fetch(references: pa.Table, source: Source, image_column: str) -> list[bytes]:
    """The encoded bytes of each reference, in their order.

    references: columns key, uri, offset, size; source: the kind of source that was indexed. Raises ImageError, which
    names the first image that is missing or has another size than when it was indexed.
    """
    return all_found(fetch_each(references, source, image_column))


def all_found(found: Sequence[bytes | ImageError]) -> list[bytes]:
    """The same bytes. Raises the first ImageError among them."""
    for item in found:
        if isinstance(item, ImageError):
            raise item
    return [item for item in found if isinstance(item, bytes)]


def fetch_each(
    references: pa.Table, source: Source, image_column: str, threads: int = _THREADS
) -> list[bytes | ImageError]:
    """The bytes of each reference, or the reason why there are none."""
    with ThreadPoolExecutor(threads) as pool:
        found = source.read(pool, references, image_column)
    keys, uris, sizes = (references[name].to_pylist() for name in ("key", "uri", "size"))
    return [_checked(*item) for item in zip(found, keys, uris, sizes, strict=True)]


def _checked(data: bytes | Exception | None, key: str, uri: str, size: int | None) -> bytes | ImageError:
    if isinstance(data, Exception):
        return ImageError(f"{key}: missing image: cannot read {uri}: {data}")
    if data is None or len(data) != (len(data) if size is None else size):
        got = "none" if data is None else len(data)
        return ImageError(f"{key}: changed image: expected the {size} bytes that were indexed, got {got} from {uri}")
    return data


def decode(data: bytes, key: str) -> Image.Image:
    """Decode bytes to an RGB image with 8 bits per channel. Transparency is dropped; 16-bit grey values keep their
    upper byte.

    Raises ImageError, which names the key and the reason, for all bytes that cannot be decoded.
    """
    if not data:
        raise ImageError(f"{key}: broken image: it has no bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _rgb(image)
    except Exception as error:  # decoders raise many types, from SyntaxError to struct.error
        why = str(error) or type(error).__name__
        raise ImageError(f"{key}: broken image: {why} ({len(data)} bytes)") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"expected 16-bit grey values, got {values.min()} to {values.max()}")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def undecodable(images: pa.Table, source: Source, image_column: str, progress: bool) -> pa.Table:
    """Open every image once, on all CPUs. Returns the problems (key, uri, reason) of the images that cannot be decoded.

    images: columns key, uri, offset, size, in any order.
    """
    images = images.sort_by([("uri", "ascending"), ("offset", "ascending")])
    sizes = np.cumsum(images["size"].to_numpy())
    edges = np.flatnonzero(np.diff(sizes // _CHECK_BYTES, prepend=-1)) if len(images) else np.empty(0, np.int64)
    ends = [*edges[1:].tolist(), len(images)]
    chunks = [images.slice(start, end - start) for start, end in zip(edges.tolist(), ends, strict=True)]
    problems: list[pa.Table] = []
    workers = ThreadPoolExecutor(processors())
    with workers, tqdm(total=len(images), desc="checking", unit=" images", disable=not progress) as bar:

        def check(chunk: pa.Table) -> list[pa.Table]:
            found = _broken(chunk, source, image_column)
            bar.update(len(chunk))
            return found

        for found in workers.map(check, chunks):
            problems.extend(found)
    return concat(problems, PROBLEMS)


def _broken(chunk: pa.Table, source: Source, image_column: str) -> list[pa.Table]:
    problems = []
    found = fetch_each(chunk, source, image_column, threads=4)
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


def processors() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take(references: pa.Table, rows: Any) -> pa.Table:
    """The references of some rows, in the order of `rows`. The references' column row must ascend.

    Raises KeyError for rows without a reference.
    """
    have = references["row"].to_numpy()
    at = np.searchsorted(have, rows)
    if len(at) and (len(have) == 0 or not np.array_equal(have[np.minimum(at, len(have) - 1)], rows)):
        raise KeyError(f"rows {np.setdiff1d(rows, have)[:5].tolist()} have no reference")
    return references.take(pa.array(at))
