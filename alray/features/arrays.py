"""Shards: rows with their embedding, logits or pretext loss, read block by block from memory-mapped files.

Letters: n rows of the shard, d width of the embedding, c classes. Arrays keep their stored dtype until a block is read:
`floating` alone says what the stored numbers of bfloat16, and of int8 and uint8 with a scale, stand for.
Blocks are in ascending row order. A worker opens its shard from a `ShardSource`, which is small and picklable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from alray.features.row_runs import RowRuns

Rows = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]
Array = npt.NDArray[Any]

EMBEDDING, LOGITS, PRETEXT_LOSS, DISCRIMINATOR = "embedding", "logits", "pretext_loss", "discriminator"
PIXEL = {name: f"pixel_{name}" for name in ("confidence", "margin", "entropy")}  # means over the pixels of an image
EXTRACTED = frozenset({EMBEDDING, LOGITS, *PIXEL.values()})  # the columns that are extracted with the main model
_BLOCK = 1 << 20  # numbers worked on together
BFLOAT16 = np.dtype(np.uint16)  # NumPy has no bfloat16: its bits are stored as uint16


@dataclass(frozen=True, eq=False)
class Scaled:
    """A column (n, w) that is stored as int8 or uint8, one byte for each number, and stands for scale * stored.

    scale: float32, finite and above zero, one number () or one for each column (w,). Like an array it can be asked for
    some of its rows. It never becomes an array by itself, which would take four times the memory: see `floating`.
    """

    stored: Array
    scale: Array

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, at: Any) -> Scaled:
        """Some rows, as they are stored."""
        return Scaled(self.stored[at], self.scale)

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError("stored numbers with a scale are no array: use `floating`")

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, w)."""
        return self.stored.shape

    @property
    def ndim(self) -> int:
        """2."""
        return self.stored.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored numbers."""
        return self.stored.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of the stored numbers."""
        return self.stored.nbytes


Column = Array | Scaled  # a column of a segment, as it is stored


@dataclass(frozen=True)
class Block:
    """Some rows of a shard. rows (m,) int64 ascending; columns by name, each (m, ...) and floating point."""

    rows: Rows
    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Array:
        try:
            return self.columns[name]
        except KeyError:
            there = ", ".join(self.columns)
            raise KeyError(f"{name}: only {there} were read; a strategy names in `needs` what it reads") from None

    def take(self, at: Array | slice) -> Block:
        """The rows at these ascending positions."""
        return Block(self.rows[at], {name: column[at] for name, column in self.columns.items()})


@dataclass
class Reads:
    """What was read of a segment: rows, and their bytes as they are stored, a row that is read twice counted twice."""

    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Segment:
    """Chosen positions in the columns of one file. The columns are whole, and may be memory-mapped."""

    rows: RowRuns  # (m,) the catalog rows of the chosen positions
    positions: RowRuns | None  # (m,) ascending positions inside the arrays; None: all of them
    columns: Mapping[str, Column]
    reads: Reads = field(default_factory=Reads, compare=False)  # shared with the segments that are made from this one

    def read(self, start: int, stop: int) -> Block:
        """The rows start:stop of this segment, as a copy or a view, in floating point, see `floating`."""
        at: slice | Rows = slice(start, stop)
        if self.positions is not None:
            at = self.positions.cut(start, stop)
            if len(at) and at[-1] - at[0] == len(at) - 1:
                at = slice(int(at[0]), int(at[-1]) + 1)
        return self._block(self.rows.cut(start, stop), at)

    def take(self, at: Rows) -> Block:
        """The rows at these ascending places in this segment."""
        return self._block(self.rows.at(at), at if self.positions is None else self.positions.at(at))

    def _block(self, rows: Rows, at: slice | Rows) -> Block:
        columns = {name: column[at] for name, column in self.columns.items()}
        self.reads.rows += len(rows)
        self.reads.bytes += sum(column.nbytes for column in columns.values())
        return Block(rows, {name: floating(column) for name, column in columns.items()})


@dataclass(frozen=True)
class Shard:
    """One worker's part of the rows to choose from."""

    segments: Sequence[Segment]

    def __len__(self) -> int:
        return sum(len(segment.rows) for segment in self.segments)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield all rows in ascending order, at most `size` at a time."""
        for segment in self.segments:
            for start in range(0, len(segment.rows), size):
                yield segment.read(start, min(start + size, len(segment.rows)))

    def rows(self) -> Rows:
        """All row numbers, (n,) int64 ascending."""
        return np.concatenate([np.empty(0, np.int64), *(segment.rows.rows() for segment in self.segments)])

    def runs(self) -> RowRuns:
        """All row numbers, in little memory."""
        return self.segments[0].rows if len(self.segments) == 1 else RowRuns.joined([one.rows for one in self.segments])

    def take(self, rows: Rows) -> Block:
        """The given rows, in ascending order. Raises KeyError for a row that is not in this shard."""
        wanted = np.asarray(rows, np.int64)
        if (wanted[1:] < wanted[:-1]).any():
            wanted = np.sort(wanted)
        found: list[Block] = []
        edges = np.searchsorted(wanted, self._lasts, side="right")
        for number in np.flatnonzero(np.diff(edges, prepend=0)).tolist():
            segment = self.segments[number]
            at, missing = segment.rows.places(wanted[edges[number - 1] if number else 0 : edges[number]])
            at = at[~missing] if missing.any() else at
            if len(at) and at[-1] - at[0] == len(at) - 1 and (at[1:] > at[:-1]).all():
                found.append(segment.read(int(at[0]), int(at[-1]) + 1))
            elif len(at):
                found.append(segment.take(at))
        block = concatenate(found) if found else Block(np.empty(0, np.int64), {})
        if len(block) != len(wanted):
            raise KeyError(f"rows {np.setdiff1d(wanted, block.rows)[:5]} are not in this shard")
        return block

    @cached_property
    def _lasts(self) -> Rows:
        """The last row of each segment; of one without rows, that of the segment before."""
        return np.maximum.accumulate(np.array([segment.rows.last for segment in self.segments], np.int64))


class ShardSource(Protocol):
    """A small, picklable object from which a worker opens its shard."""

    def open(self) -> Shard:
        """Open the shard."""
        ...

    def row_parts(self) -> Iterable[RowRuns]:
        """The numbers of the rows, in ascending parts; no file is read where they are known."""


@dataclass(frozen=True)
class ArraySource:
    """A shard of arrays in memory. rows (n,) int64 ascending; columns by name, each (n, ...)."""

    rows: Rows
    columns: Mapping[str, Column]

    def open(self) -> Shard:
        """A shard with the arrays as its only segment."""
        return Shard([Segment(RowRuns.of(self.rows), None, self.columns)])

    def row_parts(self) -> Iterable[RowRuns]:
        """All rows."""
        return [RowRuns(self.rows, None)]


@dataclass(frozen=True)
class RowsSource:
    """A shard of rows without features. columns: what else is known of them, by name, each (n,)."""

    runs: RowRuns
    columns: Mapping[str, Array]

    def open(self) -> Shard:
        """A shard of one segment."""
        return Shard([Segment(self.runs, None, self.columns)])

    def row_parts(self) -> Iterable[RowRuns]:
        """All rows."""
        return [self.runs]


@dataclass(frozen=True)
class WithColumns:
    """A shard with additional columns, which have one number per row.

    rows (n,) int64 ascending: at least the rows of the shard; columns by name, each (n,).
    """

    source: ShardSource
    rows: Rows
    columns: Mapping[str, Array]

    def open(self) -> Shard:
        """The shard, whose segments have the additional columns."""
        return Shard([self._with(segment) for segment in self.source.open().segments])

    def row_parts(self) -> Iterable[RowRuns]:
        """The rows of the shard itself."""
        return self.source.row_parts()

    def _with(self, segment: Segment) -> Segment:
        rows = segment.rows.rows()
        at = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[at], rows)
        more = {name: column[at] for name, column in self.columns.items()}
        if segment.positions is not None:  # make the columns as long as the segment's own arrays
            length = len(next(iter(segment.columns.values())))
            for name, values in more.items():
                more[name] = np.zeros(length, values.dtype)
                more[name][segment.positions.rows()] = values
        return Segment(segment.rows, segment.positions, {**segment.columns, **more})


def gathered(shard: Shard) -> ArraySource:
    """The rows of a shard, copied into memory as they are stored."""
    rows, columns = shard.rows(), {}
    for name in shard.segments[0].columns if shard.segments else ():
        places = [slice(None) if part.positions is None else part.positions.rows() for part in shard.segments]
        parts = [part.columns[name][at] for part, at in zip(shard.segments, places, strict=True)]
        columns[name] = joined(parts)  # a copy, even of one part
    return ArraySource(rows, columns)


def joined(parts: Sequence[Column]) -> Column:
    """A copy of all the rows of these parts of a column, as they are stored."""
    first = parts[0]
    if isinstance(first, Scaled):
        return Scaled(np.concatenate([part.stored for part in parts if isinstance(part, Scaled)]), first.scale)
    return np.concatenate([part for part in parts if not isinstance(part, Scaled)])


def narrow_values(values: Array) -> Array:
    """Floating point numbers (n,) in float32 if that changes none of them, else as they are."""
    if values.dtype != np.float64:
        return values
    narrow = np.empty(len(values), np.float32)
    for start in range(0, len(values), _BLOCK):
        part = values[start : start + _BLOCK]
        with np.errstate(over="ignore"):
            narrow[start : start + _BLOCK] = part
        if not np.array_equal(narrow[start : start + _BLOCK], part):
            return values
    return narrow


def positions_of(mask: npt.NDArray[np.bool_]) -> Integers:
    """The positions (k,) where a mask (n,) is true, ascending, in few bytes each."""
    found: Integers = np.empty(np.count_nonzero(mask), np.int32 if len(mask) < 2**31 else np.int64)
    done = 0
    for start in range(0, len(mask), _BLOCK):
        here = np.flatnonzero(mask[start : start + _BLOCK])
        found[done : done + len(here)] = here + start
        done += len(here)
    return found


def cut(n: int, shards: int) -> list[slice]:
    """Cut range(n) into `shards` contiguous parts of nearly equal length. The first n % shards are one longer than the
    others; some may be empty."""
    edges = [n // shards * i + min(i, n % shards) for i in range(shards + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def floating(stored: Column) -> Array:
    """Stored values as floating point: the bits of bfloat16 become float32, stored numbers with a scale become
    float32(stored) * scale, and other arrays stay as they are."""
    if isinstance(stored, Scaled):
        values = stored.stored.astype(np.float32)
        values *= stored.scale
        return values
    if stored.dtype == BFLOAT16:
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored


def concatenate(blocks: Sequence[Block]) -> Block:
    """Join several blocks, in the given order."""
    if len(blocks) == 1:
        return blocks[0]
    names = blocks[0].columns.keys()
    return Block(
        np.concatenate([block.rows for block in blocks]),
        {name: np.concatenate([block[name] for block in blocks]) for name in names},
    )
