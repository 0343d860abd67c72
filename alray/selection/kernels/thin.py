"""Farthest-first among rows of few columns, with the canonical distances of all of them up to date (contract C4).

The rows of some leaves of a tree that are farther than all rows of the other leaves form a block. Inside it every pick
updates every row, as long as the farthest of all rows is there; then the leaves meet these picks, most of them by a
look at their boxes. Nothing is ever undecided, because no distance is estimated. Letters: s rows held, q rows of a
block, d width.
"""

from __future__ import annotations

import numpy as np

from alray.features.arrays import Array, Rows
from alray.selection.kernels.distance import Space
from alray.selection.kernels.held import Chosen
from alray.selection.kernels.leaves import Leaves
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.kernels.matrices import device_in_use
from alray.selection.protocol import Key, beats

_COLUMNS = 3  # of rows of more columns, boxes keep too few from being looked at
_START, _FEWEST = 16, 4  # leaves of a block
_ROWS = 256  # of a block, about
_PER_COLUMN = 3  # operations: a difference, a square, a sum
_FEW = 12  # picks of a block: fewer ask for a larger one


def few_columns(width: int) -> bool:
    """Whether boxes keep most rows from being looked at: where there are few columns."""
    return 0 < width <= _COLUMNS and device_in_use() is None


def thin(space: Space, held: Chosen, k: int, rest: Key, centers: Array | None = None) -> Chosen:
    """The picks of `alray.selection.kernels.greedy.greedy`."""
    order = np.argsort(held.rows)
    search = _Thin(space.canonical(held.vectors[order]), held.rows[order], held.squared[order], rest)
    if centers is not None:
        search.meet(space.canonical(centers))
    while (missing := min(k, len(order)) - len(search.picks)) > 0:
        if not search.block(missing):
            break
    at = order[search.picks]
    return Chosen(held.rows[at], held.vectors[at], np.array(search.squared), search.spent)


class _Thin:
    """Rows in leaves, and the picks among them as positions, with the squared distances that they had."""

    def __init__(self, x: Floats, rows: Rows, squared: Floats, rest: Key) -> None:
        self._leaves, self._rows, self._rest = Leaves(x, squared), rows, rest
        self._count, self._inside = _START, 0  # leaves of a block; pairs that were compared inside blocks
        self.picks: list[int] = []
        self.squared: list[float] = []

    @property
    def spent(self) -> float:
        """What picking has cost, in operations on single numbers."""
        return _PER_COLUMN * len(self._leaves.columns) * float(self._leaves.pairs + self._inside)

    def meet(self, centers: Floats) -> None:
        """Take centers (p, d) into account that are none of the rows."""
        self._leaves.meet(centers)

    def block(self, most: int) -> int:
        """At most `most` picks among the farthest rows; how many there were."""
        leaves = self._leaves
        at = self._farthest(self._count)
        limit = self._limit(at)
        squared = leaves.squared[at]
        if squared.max() <= 0:
            return self._pick_copies(most)
        inside = np.flatnonzero(squared >= max(limit[0], np.finfo(np.float64).min))
        if not len(inside):
            return 0
        inside = inside[np.argsort(leaves.place[at].ravel()[inside])]  # the first of equals is the lowest row
        place = leaves.place[at].ravel()[inside]
        columns = leaves.columns.take(at, axis=1).reshape(len(leaves.columns), -1).take(inside, axis=1)
        found = self._pick(columns, squared.ravel()[inside], place, limit, most)
        self._inside += len(found) * len(inside)
        if found:
            leaf, row = np.divmod(inside[found], squared.shape[1])
            leaves.squared[at[leaf], row] = -np.inf
            leaves.meet(np.ascontiguousarray(columns[:, found].T))
            leaves.top[at] = leaves.squared[at].max(axis=1)
        if len(inside) > 2 * _ROWS:
            self._count = max(_FEWEST, self._count // 2)
        elif len(inside) < _ROWS and len(found) < _FEW:
            self._count = min(2 * self._count, len(leaves))
        return len(found)

    def _pick(self, columns: Floats, squared: Floats, place: Positions, limit: Key, most: int) -> list[int]:
        """Pick among rows (d, q), which `squared` (q,) and `place` (q,) belong to, until the farthest does not beat the
        limit; returns where the picks are."""
        difference, found = np.empty_like(columns), list[int]()
        total, others = difference[0], list(difference[1:])
        while len(found) < most:
            best = int(squared.argmax())
            value = float(squared[best])
            if value <= limit[0] and not beats((value, int(self._rows[place[best]])), limit):
                break
            if value == -np.inf:
                break
            found.append(best)
            self.squared.append(value)
            np.subtract(columns, columns[:, best : best + 1], out=difference)
            np.multiply(difference, difference, out=difference)
            for other in others:
                np.add(total, other, out=total)
            np.minimum(squared, total, out=squared)
            squared[best] = -np.inf
        self.picks += place[found].tolist()
        return found

    def _pick_copies(self, most: int) -> int:
        """All that are left are copies of centers: the lowest row first."""
        leaves = self._leaves
        place = np.sort(leaves.place[leaves.squared == 0])[:most]
        place = place[[beats((0.0, int(row)), self._rest) for row in self._rows[place]]]
        self.picks += place.tolist()
        self.squared += [0.0] * len(place)
        leaves.squared[np.isin(leaves.place, place)] = -np.inf
        leaves.top = leaves.squared.max(axis=1)
        return len(place)

    def _farthest(self, count: int) -> Positions:
        """The leaves with the farthest rows."""
        top = self._leaves.top
        if count >= len(top):
            return np.arange(len(top))
        at = np.flatnonzero(top >= np.partition(top, len(top) - count)[len(top) - count])
        return at if len(at) == count else at[np.lexsort((self._lowest(at), -top[at]))[:count]]

    def _lowest(self, at: Positions) -> Positions:
        """The position of the farthest row of each leaf."""
        leaves = self._leaves
        return np.asarray(leaves.place[at, leaves.squared[at].argmax(axis=1)])

    def _limit(self, inside: Positions) -> Key:
        """The key that a row of these leaves must beat."""
        top = self._leaves.top.copy()
        top[inside] = -np.inf
        value = float(top.max())
        if value == -np.inf:
            return self._rest
        limit = value, int(self._rows[self._lowest(np.flatnonzero(top == value)).min()])
        return limit if beats(limit, self._rest) else self._rest
