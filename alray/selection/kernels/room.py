"""Memory for temporaries that is kept from block to block.

A call that works on one long array costs a thread less than many short ones: after each of them it may have to wait for
Python's lock. But a long array in fresh memory is written to where nothing of it is in the cache. In memory that is
used again and again it costs no more than a short one. Letters: m rows, c classes, g lines.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_CUT = 1 << 17  # numbers of a matrix that are transposed at once: both copies of them stay in the cache
_TOGETHER = 1 << 17  # numbers of lines that are compared at once
_Singles = npt.NDArray[np.float32]


class Room:
    """The memory of one thread. Threads must not share it."""

    def __init__(self) -> None:
        self._kept: dict[str, npt.NDArray[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> _Singles:
        """An array of float32 with any content. It overwrites the one that was taken by this name before."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.size < size:
            kept = self._kept[name] = np.empty(size, np.float32)
        return kept[:size].reshape(shape)

    def transposed(self, z: _Singles) -> _Singles:
        """One line per class (c, m) of a matrix (m, c)."""
        lines = self.take("lines", z.shape[::-1])
        rows = max(1, _CUT // max(1, z.shape[1]))
        for start in range(0, len(z), rows):
            lines[:, start : start + rows] = z[start : start + rows].T
        return lines

    def two_largest(self, lines: _Singles) -> tuple[_Singles, _Singles]:
        """The largest and the second largest number of each column (m,) of two lines or more (c, m).

        Several lines are compared with several others in one call, so that no call is short.
        """
        count, m = lines.shape
        g = max(1, min(count // 2, _TOGETHER // max(1, m)))
        first, second, lower = (self.take(name, (g, m)) for name in ("first", "second", "lower"))
        np.maximum(lines[:g], lines[g : 2 * g], out=first)
        np.minimum(lines[:g], lines[g : 2 * g], out=second)
        for start in range(2 * g, count, g):
            more = lines[start : start + g]
            k = len(more)
            np.minimum(first[:k], more, out=lower[:k])
            np.maximum(second[:k], lower[:k], out=second[:k])
            np.maximum(first[:k], more, out=first[:k])
        while g > 1:  # the last lines of these are merged with the first ones
            k = g // 2
            g -= k
            np.minimum(first[:k], first[g : g + k], out=lower[:k])
            np.maximum(second[:k], second[g : g + k], out=second[:k])
            np.maximum(second[:k], lower[:k], out=second[:k])
            np.maximum(first[:k], first[g : g + k], out=first[:k])
        return first[0], second[0]
