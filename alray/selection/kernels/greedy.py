"""Farthest-first among rows that the driver holds, as long as they certainly beat all other rows (contract C4).

It works in blocks. The rows with the largest known distances form a block, whose distances are updated with the picks
made since they were measured. Inside the block a matrix of bounds shows which distances a pick may have changed, and
only these are computed canonically.
Letters: s rows held, p rows of a block, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alray.features.arrays import Array, Rows
from alray.selection.kernels.distance import Space, View, bound, products
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.protocol import Key, beats

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows (s,), their stored vectors (s, d), and their squared distances (s,) to the nearest center; of picks, at the
    time they were picked."""

    rows: Rows
    vectors: Array
    squared: Floats


def greedy(space: Space, held: Chosen, k: int, rest: Key) -> Chosen:
    """At most k picks among the held rows, farthest first; stops when the best of them does not beat `rest`.

    held.squared are canonical and up to date; ties go to the lower row.
    """
    order = np.argsort(held.rows)
    search = _Held(space, held.rows[order], held.vectors[order], held.squared[order].copy())
    while len(search.picked) < k and search.block(k, rest):
        pass
    at = np.array(search.picked, np.intp)
    return Chosen(search.rows[at], search.vectors[at], np.array(search.distances))


class _Held:
    """The held rows, ascending, so that the first of several largest values belongs to the lowest row."""

    def __init__(self, space: Space, rows: Rows, vectors: Array, squared: Floats) -> None:
        self.space, self.rows, self.vectors, self.squared = space, rows, vectors, squared
        self.picked: list[int] = []
        self.distances: list[float] = []
        self._seen = np.zeros(len(rows), np.int64)  # number of picks that a row's distance takes into account
        self._view = space.view(vectors)
        self._largest = self._view.largest

    def block(self, k: int, rest: Key) -> bool:
        """Pick inside the block of the farthest rows; False when the best row there is does not beat `rest`."""
        at, limit = self._top()
        if not len(at) or not beats(self._key(at), rest):
            return False
        self._refresh(at)
        self._pick(at, limit if beats(limit, rest) else rest, k)
        return True

    def _key(self, at: Positions) -> Key:
        best = int(at[int(np.argmax(self.squared[at]))])
        return float(self.squared[best]), int(self.rows[best])

    def _top(self) -> tuple[Positions, Key]:
        """The block, ascending, and the key of the first row behind it. Picked rows have the value -inf."""
        free = np.flatnonzero(self.squared > -np.inf)
        if len(free) <= _BLOCK:
            return free, (-np.inf, 0)
        value = self.squared[free]
        least = np.partition(value, len(value) - _BLOCK - 1)[len(value) - _BLOCK - 1]
        above = free[value > least]
        level = free[value == least]
        room = _BLOCK - len(above)
        return np.sort(np.concatenate([above, level[:room]])), (float(least), int(self.rows[level[room]]))

    def _refresh(self, at: Positions) -> None:
        """Update distances with the picks made since they were measured."""
        picked = np.array(self.picked, np.intp)
        for start in range(0, len(picked), _BLOCK):
            centers = picked[start : start + _BLOCK]
            old = at[self._seen[at] < start + len(centers)]
            if len(old):
                low = self._low(old, self._view[centers])
                left = self.squared[old]
                i, j = np.nonzero((low < left[:, None]) & (left > 0)[:, None])
                found = self.space.pairs(self.vectors, self.vectors, old[i], centers[j])
                np.minimum.at(self.squared, old[i], found)
        self._seen[at] = len(picked)

    def _low(self, at: Positions, centers: View) -> Floats:
        """Lower bounds of squared distances, (rows, centers)."""
        view = self._view[at]
        g = products(view.x, centers).numpy().astype(np.float64)
        eps = bound(view.squares, self._largest, self.vectors.shape[1])
        with np.errstate(invalid="ignore"):
            low = (g + (view.squares - eps)[:, None]) * self.space.unit
        return np.where(np.isnan(low), -np.inf, low)

    def _pick(self, at: Positions, limit: Key, k: int) -> None:
        low = np.ascontiguousarray(self._low(at, self._view[at]).T)  # one line per candidate pick
        squared, rows = self.squared[at], self.rows[at]
        while len(self.picked) < k:
            best = int(np.argmax(squared))
            if squared[best] == -np.inf or not beats((float(squared[best]), int(rows[best])), limit):
                break
            self.picked.append(int(at[best]))
            self.distances.append(float(squared[best]))
            squared[best] = -np.inf
            near = np.flatnonzero((low[best] < squared) & (squared > 0))  # nothing is nearer than 0
            if len(near):
                exact = self.space.pairs(self.vectors, self.vectors, at[near], np.full(len(near), at[best]))
                squared[near] = np.minimum(squared[near], exact)
        self.squared[at] = squared
        self._seen[at] = len(self.picked)
