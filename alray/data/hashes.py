"""Hashes of the bytes of images, which tell a changed image from one whose file has only another time, and of the rows
of a catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from alray.data.fetch import fetch_each
from alray.data.sources.source import Found, Source
from alray.data.sources.split_names import VALIDATION
from alray.process import processors

_POSITION = "position"
_CHUNK_ROWS = 256  # images that one thread reads before it takes the next


@dataclass(frozen=True)
class Hashing(Source):
    """A source that notes the hash of every image that is read through it. The images to read are those of `numbered`.

    hashes (n,) int64 and known (n,) bool: the hash of each image, and whether it was read.
    """

    source: Source
    hashes: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, source: Source, n: int) -> Hashing:
        """No image of n has been read yet."""
        return cls(source, np.zeros(n, np.int64), np.zeros(n, bool))

    @staticmethod
    def numbered(images: pa.Table) -> pa.Table:
        """The images (n) with a column that says where their hashes are noted."""
        return images.append_column(_POSITION, pa.array(np.arange(len(images))))

    def read(self, pool: ThreadPoolExecutor, references: pa.Table, column: str) -> list[Found]:
        """Read as the source does, and note the hashes."""
        found = self.source.read(pool, references, column)
        for position, data in zip(references[_POSITION].to_pylist(), found, strict=True):
            if isinstance(data, bytes):
                digest = hashlib.blake2b(data, digest_size=8).digest()
                self.hashes[position] = int.from_bytes(digest, "little", signed=True)
                self.known[position] = True
        return found

    def column(self) -> pa.Array:
        """The hashes, (n,) int64; null for images that were not read."""
        return pa.array(self.hashes, mask=~self.known)


def read_hashes(images: pa.Table, source: Source, image_column: str, progress: bool) -> pa.Array:
    """Read every image once, on all CPUs, without decoding it; (n,) int64 hashes in the order of the images, null where
    an image cannot be read. images: columns key, uri, offset, size."""
    hashing = Hashing.of(source, len(images))
    ordered = Hashing.numbered(images).sort_by([("uri", "ascending"), ("offset", "ascending")])
    chunks = [ordered.slice(at, _CHUNK_ROWS) for at in range(0, len(ordered), _CHUNK_ROWS)]
    workers = ThreadPoolExecutor(processors())
    with workers, tqdm(total=len(images), desc="comparing", unit=" images", disable=not progress) as bar:

        def read(chunk: pa.Table) -> None:
            fetch_each(chunk, hashing, image_column, threads=4)
            bar.update(len(chunk))

        list(workers.map(read, chunks))
    return hashing.column()


def fingerprint_of(images: pa.Table, classes: Sequence[str], content: str) -> str:
    """A hash of the rows of a catalog, 16 hex digits: keys, sizes, labels, splits, classes and, where all images were
    read, their bytes. It does not depend on where the data are stored.

    images: columns key, size, label, split, hash in row order; content: what else belongs to the catalog.
    """
    digest = hashlib.blake2b(repr((list(classes), content)).encode(), digest_size=8)
    digest.update(pc.binary_length(images["key"]).to_numpy().tobytes())
    for chunk in images["key"].chunks:
        digest.update(memoryview(pa.concat_arrays([chunk]).cast(pa.binary()).buffers()[2] or b""))
    for name, unknown in (("size", -1), ("label", -1)):
        digest.update(pc.fill_null(images[name], unknown).to_numpy().tobytes())
    digest.update(pc.equal(images["split"], "test").to_numpy().tobytes())
    held_out = pc.equal(images["split"], VALIDATION).to_numpy()
    if held_out.any():
        digest.update(held_out.tobytes())
    if not images["hash"].null_count:
        digest.update(images["hash"].to_numpy().tobytes())
    return digest.hexdigest()
