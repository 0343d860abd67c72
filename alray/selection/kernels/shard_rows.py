"""The rows of a shard by their positions in it: their numbers, one of their columns, a random sample, parts that fit
the cache.

Letters: n rows of the shard, m of them, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from alray.features.arrays import Array, Integers, Rows, Shard
from alray.keyed import priorities
from alray.selection.kernels.logits import Positions
from alray.selection.kernels.matrices import Device

CHUNK = 1 << 21  # numbers per view of a chunk of rows: 8 MB
_ROWS = 1 << 15  # rows of a chunk
CHUNK_COARSE = 1 << 23  # in bfloat16, where products of few rows take much longer
_CHUNK_ON_GPU, _ROWS_ON_GPU = 1 << 26, 1 << 16  # the same where each step costs the launch of a kernel
TOGETHER = 1 << 20  # rows whose numbers are looked at together
_SAMPLE = "k_center/sample"


class ShardRows:
    """The rows of a shard, and one column of them, (n, d). device: where chunks of it are worked on."""

    def __init__(self, shard: Shard, column: str, device: Device) -> None:
        self._shard, self._column, self._ids, self._device = shard, column, shard.runs(), device

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, at: int) -> int:
        """The number of the row at a position."""
        return int(self.numbers(np.array([at]))[0])

    def numbers(self, at: Integers) -> Rows:
        """The numbers of the rows at some positions, (m,)."""
        return self._ids.at(at)

    def take(self, at: Integers) -> Array:
        """The stored vectors at ascending positions, (m, d)."""
        return self.read(self._ids.at(at))

    def read(self, rows: Rows) -> Array:
        """The stored vectors of rows, (m, d)."""
        return self._shard.take(rows)[self._column] if len(rows) else np.empty((0, self.width), np.float32)

    def places(self, rows: Rows) -> Positions:
        """The positions of those of some rows that are in this shard."""
        at, missing = self._ids.places(rows)
        return at[~missing]

    def blocks(self, size: int) -> Iterator[Rows]:
        """The numbers of all rows, so many at a time."""
        for start in range(0, len(self), size):
            yield self._ids.cut(start, min(start + size, len(self)))

    def sampled(self, size: int) -> Positions:
        """Random positions. Each row is among them with probability size / 2^64, for any cut."""
        if size >= 2**64:
            return np.arange(len(self))
        parts = [np.empty(0, np.int64)]
        for number, rows in enumerate(self.blocks(TOGETHER)):
            parts.append(np.flatnonzero(priorities(0, _SAMPLE, rows) < np.uint64(size)) + number * TOGETHER)
        return np.concatenate(parts)

    def chunks(self, at: Integers, coarse: Callable[[], bool] = lambda: False, first: int = 0) -> Iterator[Positions]:
        """Positions in parts of `chunk`; coarse: whether the next one is larger, for products in bfloat16; first: how
        many are in the first one at most, 0: no other number."""
        start = 0
        while start < len(at):
            size = self._fitting(CHUNK_COARSE, _ROWS) if coarse() else self.chunk
            size = size if start or not first else min(size, first)
            yield at[start : start + size].astype(np.intp)
            start += size

    @property
    def chunk(self) -> int:
        """How many rows to work on at once."""
        return self._fitting(CHUNK, _ROWS) if self._device is None else self._fitting(_CHUNK_ON_GPU, _ROWS_ON_GPU)

    def _fitting(self, numbers: int, most: int) -> int:
        return min(most, max(256, numbers // max(1, self.width)))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored numbers."""
        return self.take(np.zeros(1, np.intp)).dtype

    @property
    def width(self) -> int:
        """The number of columns d."""
        segments = self._shard.segments
        return int(segments[0].columns[self._column].shape[1]) if segments else 0
