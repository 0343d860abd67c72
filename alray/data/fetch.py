"""Read the bytes of the chosen images and of no others (contract C2)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from alray.data.sources.source import Source
from alray.patience import may_pass, persistent
from alray.reasons import why

_THREADS = 16  # reads wait for a disk or a network, not for a CPU
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
    keys, uris, sizes = (references[name].to_pylist() for name in ("key", "uri", "size"))
    with ThreadPoolExecutor(threads) as pool:
        found = persistent(
            uris[0] if uris else "", lambda: source.read(pool, references, image_column), again=_first_that_passes
        )
    return [_checked(*item) for item in zip(found, keys, uris, sizes, strict=True)]


def _first_that_passes(found: Sequence[bytes | Exception | None]) -> Exception | None:
    return next((item for item in found if isinstance(item, Exception) and may_pass(item)), None)


def _checked(data: bytes | Exception | None, key: str, uri: str, size: int | None) -> bytes | ImageError:
    if isinstance(data, Exception):
        return ImageError(f"{key}: missing image: cannot read {uri}: {why(data)}")
    if data is None or len(data) != (len(data) if size is None else size):
        got = "none" if data is None else len(data)
        return ImageError(f"{key}: changed image: expected the {size} bytes that were indexed, got {got} from {uri}")
    return data


def take(references: pa.Table, rows: Any) -> pa.Table:
    """The references of some rows, in the order of `rows`. The references' column row must ascend.

    Raises KeyError for rows without a reference.
    """
    have = references["row"].to_numpy()
    at = np.searchsorted(have, rows)
    if len(at) and (len(have) == 0 or not np.array_equal(have[np.minimum(at, len(have) - 1)], rows)):
        raise KeyError(f"rows {np.setdiff1d(rows, have)[:5].tolist()} have no reference")
    return references.take(pa.array(at))
