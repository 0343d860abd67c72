"""Ascending row numbers in little memory: as runs of consecutive numbers where that is shorter.

A pool without its labeled rows is a few runs. Sources of shards hold their rows in this form: a message that names the
rows of a shard then has some bytes per labeled row and none per row. Letters: n rows, r runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 20  # rows looked at together
_Rows = npt.NDArray[np.int64]
_Integers = npt.NDArray[np.integer]


def narrow_rows(rows: _Integers) -> _Integers:
    """Ascending rows as a copy with 4 bytes each if they are below 2^31, else with 8."""
    return rows.astype(np.int32 if not len(rows) or int(rows[-1]) < 2**31 else np.int64)


@dataclass(frozen=True, eq=False)
class RowRuns:
    """Ascending rows. firsts, ends (r,): each run's first row, and the one behind its last; where ends is None, firsts
    are the rows themselves."""

    firsts: _Integers
    ends: _Integers | None

    @classmethod
    def of(cls, rows: _Integers) -> RowRuns:
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

    @classmethod
    def joined(cls, parts: Sequence[RowRuns]) -> RowRuns:
        """The rows of some parts, which follow each other."""
        ends = [part.ends for part in parts if part.ends is not None]
        if len(ends) < max(1, len(parts)):
            return cls.of(np.concatenate([np.empty(0, np.int64), *(part.rows() for part in parts)]))
        return cls(np.concatenate([part.firsts for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.firsts) if self.ends is None else int(self._lengths.sum())

    def __getstate__(self) -> dict[str, Any]:
        return {"firsts": self.firsts, "ends": self.ends}  # and not what follows from them

    @cached_property
    def _lengths(self) -> _Integers:
        assert self.ends is not None
        return self.ends - self.firsts

    @cached_property
    def _before(self) -> _Integers:
        """The number of rows before each run."""
        return np.cumsum(self._lengths) - self._lengths

    @property
    def last(self) -> int:
        """The last row; -1 if there is none."""
        if not len(self.firsts):
            return -1
        return int(self.firsts[-1]) if self.ends is None else int(self.ends[-1]) - 1

    def places(self, rows: _Integers) -> tuple[_Rows, npt.NDArray[np.bool_]]:
        """The positions (k,) of some rows (k,) among these, and which of them are not there, (k,) bool; the position of
        such a row means nothing."""
        if not len(self.firsts):
            return np.zeros(len(rows), np.int64), np.ones(len(rows), np.bool_)
        if self.ends is None:
            at = np.searchsorted(self.firsts, rows.astype(self.firsts.dtype))
            return at, self.firsts[np.minimum(at, len(self.firsts) - 1)] != rows
        run = np.searchsorted(self.firsts, rows, side="right") - 1
        return self._before[run] + (rows - self.firsts[run]), (run < 0) | (rows >= self.ends[run])

    def has(self, rows: _Rows) -> npt.NDArray[np.bool_]:
        """Which of some rows (k,), none below the first and none above the last of these, are among these, (k,)
        bool."""
        if self.ends is None:
            return np.asarray(~self.places(rows)[1])
        return np.asarray(rows < self.ends[np.searchsorted(self.firsts, rows.astype(self.firsts.dtype), "right") - 1])

    def rows(self) -> _Rows:
        """The rows, (n,) int64 ascending."""
        return self.cut(0, len(self))

    def cut(self, start: int, stop: int) -> _Rows:
        """The rows at the positions start:stop, int64."""
        if self.ends is None or stop <= start:
            return self.firsts[start:stop].astype(np.int64)
        first = int(np.searchsorted(self._before, start, side="right")) - 1
        runs = slice(first, int(np.searchsorted(self._before, stop)))
        before, firsts = self._before[runs], self.firsts[runs]
        if len(firsts) == 1:
            row = int(firsts[0]) + start - int(before[0])
            return np.arange(row, row + stop - start)
        found = np.repeat(firsts - before, np.minimum(before + self._lengths[runs], stop) - np.maximum(before, start))
        found += np.arange(start, stop)
        return found

    def at(self, positions: _Integers) -> _Rows:
        """The rows at these positions (k,), int64."""
        if self.ends is None:
            return self.firsts[positions].astype(np.int64)
        run = np.searchsorted(self._before, positions, side="right") - 1
        return np.asarray(positions + (self.firsts - self._before)[run], np.int64)
