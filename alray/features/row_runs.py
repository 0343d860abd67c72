"""Ascending row numbers in little memory: as runs of consecutive numbers where that is shorter.

A pool without its labeled rows is a few runs. Sources of shards hold their rows in this form: a message that names the
rows of a shard then has some bytes per labeled row and none per row. Letters: n rows, r runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array, Integers, Segment, Shard, narrow_rows

_BLOCK = 1 << 20  # rows looked at together


@dataclass(frozen=True, eq=False)
class RowRuns:
    """Ascending rows. firsts, ends (r,): each run's first row, and the one behind its last; where ends is None, firsts
    are the rows themselves."""

    firsts: Integers
    ends: Integers | None

    @classmethod
    def of(cls, rows: Integers) -> RowRuns:
        """Ascending rows (n,) without repetition."""
        breaks = [np.zeros(min(1, len(rows)), np.int64)]
        for start in range(1, len(rows), _BLOCK):
            part = rows[start - 1 : start + _BLOCK]
            breaks.append(np.flatnonzero(np.diff(part) != 1) + start)
        first = np.concatenate(breaks)
        if 2 * len(first) >= len(rows):
            return cls(narrow_rows(rows), None)
        last = np.append(first[1:], len(rows)) - 1
        return cls(narrow_rows(rows[first]), rows[last].astype(np.int64) + 1)

    def __len__(self) -> int:
        return len(self.firsts) if self.ends is None else int((self.ends - self.firsts).sum())

    def places(self, rows: Integers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The positions (k,) of some rows (k,) among these, and which of them are not there, (k,) bool; the position of
        such a row means nothing."""
        if not len(self.firsts):
            return np.zeros(len(rows), np.int64), np.ones(len(rows), np.bool_)
        if self.ends is None:
            at = np.searchsorted(self.firsts, rows.astype(self.firsts.dtype))
            return at, self.firsts[np.minimum(at, len(self.firsts) - 1)] != rows
        run = np.searchsorted(self.firsts, rows, side="right") - 1
        lengths = self.ends - self.firsts
        behind = np.cumsum(lengths) - lengths
        return behind[run] + (rows - self.firsts[run]), (run < 0) | (rows >= self.ends[run])

    def rows(self) -> npt.NDArray[np.int64]:
        """The rows, (n,) int64 ascending."""
        if self.ends is None:
            return self.firsts.astype(np.int64)
        lengths = self.ends - self.firsts
        if len(lengths) == 1:
            return np.arange(int(self.firsts[0]), int(self.ends[0]))
        behind = np.cumsum(lengths) - lengths  # rows before each run
        found = np.repeat(self.firsts - behind, lengths)
        found += np.arange(len(found))
        return found


@dataclass(frozen=True)
class RowsSource:
    """A shard of rows without features. columns: what else is known of them, by name, each (n,)."""

    runs: RowRuns
    columns: Mapping[str, Array]

    def open(self) -> Shard:
        """A shard of one segment."""
        return Shard([Segment(self.runs.rows(), None, self.columns)])
