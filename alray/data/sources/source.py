"""A kind of source: one object that indexes it, reads single images of it again, and may write it.

A new format is one file with a subclass of `Source`, and one line in `alray.data.sources.SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.sources.scan import CatalogError, ScanOptions, Scan
from alray.store import Store, read_bytes

T = TypeVar("T")
Image = tuple[str, bytes, str]  # key, encoded bytes, class as text
Found = bytes | Exception | None  # of an image that was asked for; None: its place holds no bytes

UNKNOWN = "-1"  # the class, as text, of an image whose class is not known


@dataclass(frozen=True)
class Source:
    """What is the same for every kind: an image is a whole file, and nothing can be written."""

    name: ClassVar[str]
    extensions: ClassVar[tuple[str, ...]] = ()  # of names of files that show this kind
    decoded: ClassVar[bool] = True  # whether its rows are images, which indexing opens once
    can_exclude: ClassVar[bool] = True  # whether rows that cannot be used may be left out
    writable: ClassVar[bool] = False  # whether images can be written in this way
    has_columns: ClassVar[bool] = False  # whether its files can hold masks beside the images

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to all images of a path or URI. Raises CatalogError."""
        raise NotImplementedError(f"{type(self).__name__}.scan")

    def check(self, test_root: str) -> None:
        """Raises CatalogError where a test set in a place of its own cannot be."""

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """The encoded bytes of each reference (uri, offset, size), in their order, or why there are none.

        pool: for reads that overlap; column: of the images, where files have columns.
        """
        return list(pool.map(lambda uri: attempt(read_bytes, uri), references["uri"].to_pylist()))

    def check_keys(self, keys: Sequence[str], labels: Sequence[str | None], is_test: npt.NDArray[np.bool_]) -> None:
        """Raises CatalogError unless images of these keys, written by `write` and indexed again, get the same keys,
        classes and splits."""
        raise NotImplementedError(f"{type(self).__name__}.check_keys")

    def write(self, store: Store, is_test: bool, images: Iterator[list[Image]], most_bytes: int) -> None:
        """Write images. most_bytes: of a file that holds many."""
        raise NotImplementedError(f"{type(self).__name__}.write")

    def embedding(self, uri: str, content: str) -> npt.NDArray[np.floating]:
        """The embeddings (n, d) that were brought in. content: as `Scan.content` gave it. Raises CatalogError."""
        raise CatalogError(f"{uri}: a source of images ({self.name}) holds no embeddings")

    def pretext_loss(self, uri: str, content: str) -> npt.NDArray[np.float64]:
        """The pretext losses (n,) that were brought in with the embeddings. Raises CatalogError."""
        raise CatalogError(f"{uri}: a source of images ({self.name}) holds no pretext losses")

    def provided_columns(self, content: str) -> frozenset[str]:
        """Which columns of numbers the source itself brings, by the names of `alray.features.arrays`."""
        return frozenset()


def attempt(read: Callable[..., T], *args: Any) -> T | Exception:
    """What a read returns, or the error of a file that cannot be read."""
    try:
        return read(*args)
    except (OSError, pa.ArrowException, IndexError) as error:
        return error
