"""What a shard holds: rows with their embedding, logits or pretext loss, read block by block from memory-mapped files.

Letters: n rows of the shard, d width of the embedding, c classes. Arrays keep their stored dtype until a block is read;
blocks come in ascending row order. A shard is opened inside the worker from a `ShardSource`, which is small and
picklable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

EMBEDDING, LOGITS, PRETEXT_LOSS, DISCRIMINATOR = "embedding", "logits", "pretext_loss", "discriminator"
PIXEL = {name: f"pixel_{name}" for name in ("confidence", "margin", "entropy")}  # means over an image's pixels
EXTRACTED = frozenset({EMBEDDING, LOGITS, *PIXEL.values()})  # what is extracted by the main model
BFLOAT16 = np.dtype(np.uint16)  # NumPy has no bfloat16: its bits are stored as uint16


@dataclass(frozen=True)
class Block:
    """Some rows of a shard. rows (m,) int64 ascending; columns by name, each (m, ...) and floating point."""

    rows: Rows
    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]


@dataclass(frozen=True)
class Segment:
    """The chosen positions of one file (or array): whole arrays, memory-mapped or not, and which rows of them count."""

    rows: Rows  # (m,) the global rows of the chosen positions, ascending
    positions: Rows | None  # (m,) ascending positions inside the arrays; None: all of them
    columns: Mapping[str, Array]

    def read(self, start: int, stop: int) -> Block:
        """Copy (or view) the rows start:stop of this segment; bfloat16 is widened to float32."""
        at: slice | Rows = slice(start, stop) if self.positions is None else self.positions[start:stop]
        return Block(self.rows[start:stop], {name: floating(column[at]) for name, column in self.columns.items()})


@dataclass(frozen=True)
class Shard:
    """One worker's part of the rows to choose from."""

    segments: Sequence[Segment]

    def __len__(self) -> int:
        return sum(len(segment.rows) for segment in self.segments)

    def blocks(self, size: int) -> Iterator[Block]:
        """All rows in ascending order, at most `size` at a time."""
        for segment in self.segments:
            for start in range(0, len(segment.rows), size):
                yield segment.read(start, min(start + size, len(segment.rows)))

    def rows(self) -> Rows:
        """All row numbers, (n,) int64 ascending."""
        parts = [segment.rows for segment in self.segments]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def take(self, rows: Rows) -> Block:
        """The given rows of this shard, in ascending order. Raises KeyError for a row that is not here."""
        wanted = np.sort(np.asarray(rows, np.int64))
        found: list[Block] = []
        for segment in self.segments:
            at = np.searchsorted(segment.rows, wanted)
            at = at[(at < len(segment.rows)) & (segment.rows[np.minimum(at, len(segment.rows) - 1)] == wanted)]
            if len(at):
                inside = at if segment.positions is None else segment.positions[at]
                columns = {name: floating(column[inside]) for name, column in segment.columns.items()}
                found.append(Block(segment.rows[at], columns))
        block = concatenate(found) if found else Block(np.empty(0, np.int64), {})
        if len(block) != len(wanted):
            raise KeyError(f"rows {np.setdiff1d(wanted, block.rows)[:5]} are not in this shard")
        return block


class ShardSource(Protocol):
    """A recipe for a shard: small, picklable, opened where the work is."""

    def open(self) -> Shard:
        """Map the files (or arrays) of this shard."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """A shard of arrays in memory. rows (n,) int64 ascending; columns by name, each (n, ...)."""

    rows: Rows
    columns: Mapping[str, Array]

    def open(self) -> Shard:
        """The arrays as one segment."""
        return Shard([Segment(self.rows, None, self.columns)])


@dataclass(frozen=True)
class WithColumns:
    """A shard with further columns of one number a row. rows (n,) int64 ascending, those of the shard at least."""

    source: ShardSource
    rows: Rows
    columns: Mapping[str, Array]

    def open(self) -> Shard:
        """The shard's segments, each with its part of the columns."""
        return Shard([self._with(segment) for segment in self.source.open().segments])

    def _with(self, segment: Segment) -> Segment:
        at = np.searchsorted(self.rows, segment.rows)
        assert np.array_equal(self.rows[at], segment.rows)
        more = {name: column[at] for name, column in self.columns.items()}
        if segment.positions is not None:  # as long as the segment's own arrays
            length = len(next(iter(segment.columns.values())))
            for name, values in more.items():
                more[name] = np.zeros(length, values.dtype)
                more[name][segment.positions] = values
        return Segment(segment.rows, segment.positions, {**segment.columns, **more})


def cut(n: int, shards: int) -> list[slice]:
    """Cut range(n) into `shards` contiguous near-equal parts (the first n % shards are one longer; some may be
    empty)."""
    edges = [n // shards * i + min(i, n % shards) for i in range(shards + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def floating(array: Array) -> Array:
    """Stored values as floating point: bfloat16 bits become float32, everything else stays as stored."""
    if array.dtype == BFLOAT16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array


def concatenate(blocks: Sequence[Block]) -> Block:
    """Several blocks as one, in the order given."""
    names = blocks[0].columns.keys()
    return Block(
        np.concatenate([block.rows for block in blocks]),
        {name: np.concatenate([block[name] for block in blocks]) for name in names},
    )
