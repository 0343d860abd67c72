"""A kind of source is one object. It indexes a source and reads single images of it; some kinds can also write one.

A new format is one file with a subclass of `Source`, one line in `alray.data.sources.kinds.SOURCES`, its name in
`IndexConfig.format`, and a writer in tests/unit/image_sources.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.files import with_class_files
from alray.data.sources.listing import list_files
from alray.data.sources.scan import CatalogError, Scan, ScanOptions, is_hidden
from alray.store import Store, read_bytes

# The options that not every kind reads, see `Source.uses`.
SOME_READ = ("key", "label_column", "image_column", "class_depth", "links", "on_problem", "check", "pixel_range")
IMAGE_OPTIONS = frozenset({"on_problem", "check", "pixel_range"})  # those of every kind whose rows are images

T = TypeVar("T")
Image = tuple[str, bytes, str]  # key, encoded bytes, class as text
Found = bytes | Exception | None  # result of reading an image; None: the place exists but holds no bytes

_OURS = ("builtins", "alray")  # errors of these packages are defects, or have a message already

UNKNOWN = "-1"  # the class, as text, of an image whose class is not known


@dataclass(frozen=True)
class Source:
    """The base of all kinds. By default an image is a whole file, and nothing can be written."""

    name: ClassVar[str]
    # What `alray formats` prints: what it reads and how it is recognised, where labels come from, and what keys are.
    about: ClassVar[str]
    labels: ClassVar[str]
    keys: ClassVar[str]
    layouts: ClassVar[Mapping[str, str]] = {}  # what it knows of published structures, by their names
    extensions: ClassVar[tuple[str, ...]] = ()  # with format=auto, a source whose name ends so is of this kind
    decoded: ClassVar[bool] = True  # whether its rows are images, and not embeddings
    can_exclude: ClassVar[bool] = True  # whether unusable rows may be left out
    writable: ClassVar[bool] = False  # whether `write` is implemented
    keeps_unlabeled: ClassVar[bool] = False  # whether what it writes may have images without a label beside others
    by_folders: ClassVar[bool] = False  # whether names of folders can be its classes
    uses: ClassVar[frozenset[str]] = IMAGE_OPTIONS  # of the options SOME_READ
    has_columns: ClassVar[bool] = False  # whether its files can hold masks beside the images

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """Find all images of a path or URI. Raises CatalogError.

        Every image needs key, uri and size (`alray.data.sources.scan.IMAGES`); a file that is missing has size None.
        The key starts with options.prefix unless the source itself names splits. The scan's `files` are those that
        `listed` finds.
        """
        raise NotImplementedError(f"{type(self).__name__}.scan")

    def listed(self, source: str, known: Sequence[str], links: str) -> pa.Table:
        """The files that a scan would read now, a table of the schema FILES in any order. It costs one listing.

        known: the URIs that the latest scan read; links: as in `ScanOptions`. Raises CatalogError if nothing exists at
        the source.
        """
        return self.files(source, list_files(source, links))

    def files(self, source: str, listed: pa.Table) -> pa.Table:
        """Of the listed files those that a scan reads, with the lists of classes beside them."""
        reads = self.reads(listed["name"])
        used = listed if pc.all(reads).as_py() else listed.filter(reads)  # a copy of a million names would be large
        return with_class_files(used, self.class_places(source, used))

    def reads(self, names: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which of the listed files, by name, a scan reads; bool."""
        read = [name.lower().endswith(self.extensions) and not is_hidden(name) for name in names.to_pylist()]
        return pa.chunked_array([read], pa.bool_())

    def class_places(self, source: str, used: pa.Table) -> set[str]:
        """The directories in which a scan looks for a list of classes."""
        return set()

    def unused(self, given: Mapping[str, Any]) -> list[str]:
        """The options that this kind does not read. given: those with other values than the default."""
        return [name for name in SOME_READ if name in given and name not in self.uses]

    def check(self, test_root: str) -> None:
        """Raise CatalogError if this kind does not allow a test set in a separate place."""

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """The encoded bytes of each reference (uri, offset, size), in their order, or the error of reading them.

        pool: threads for overlapping reads; column: name of the image column, for files with columns.
        """
        return list(pool.map(lambda uri: attempt(read_bytes, uri), references["uri"].to_pylist()))

    def check_keys(self, keys: Sequence[str], labels: Sequence[str | None], is_test: npt.NDArray[np.bool_]) -> None:
        """Raise CatalogError unless images with these keys, written by `write` and indexed again, get the same keys,
        classes and splits."""
        raise NotImplementedError(f"{type(self).__name__}.check_keys")

    def name_in(self, key: str, label: str) -> str:
        """The name under which `write` should get a labeled image, so that it has this class when it is indexed."""
        return key

    def write(self, store: Store, is_test: bool, images: Iterator[list[Image]], most_bytes: int) -> None:
        """Write images. is_test: whether they belong to the test split; most_bytes: largest size of a file with many
        images."""
        raise NotImplementedError(f"{type(self).__name__}.write")

    def embedding(self, uri: str, content: str, column: str) -> npt.NDArray[np.floating]:
        """The user's own embeddings (n, d). content, column: `Scan.content` and `Scan.image_column`.

        Raises CatalogError if there are none."""
        raise CatalogError(f"{uri}: expected a source of embeddings, got images ({self.name})")

    def pretext_loss(self, uri: str, content: str) -> npt.NDArray[np.float64]:
        """The user's own pretext losses (n,). content: the hash that `scan`
        returned. Raises CatalogError if there are none."""
        raise CatalogError(f"{uri}: expected a source of embeddings with pretext losses, got images ({self.name})")

    def provided_columns(self, content: str) -> frozenset[str]:
        """The columns of numbers that the source itself has, by their names in `alray.features.arrays`. content:
        `Scan.content`."""
        return frozenset()


def attempt(read: Callable[..., T], *args: Any) -> T | Exception:
    """The result of read(*args), or its error if the file cannot be read.

    A client of an object store may raise errors of any type, but not those of Python itself.
    """
    try:
        return read(*args)
    except Exception as error:
        if isinstance(error, OSError | IndexError) or type(error).__module__.partition(".")[0] not in _OURS:
            return error
        raise
