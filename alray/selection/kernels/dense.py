"""Farthest-first with the distances of all rows up to date: for picks that change the distances of most rows.

The distances of all rows to some candidates, the farthest rows, are one matrix product. Picks are made as long as the
farthest row is one of the candidates; each takes a few operations on numbers that are there already. With one candidate
this is the plain loop: one pass over the rows per pick. How many candidates there are follows from how many of them
were picked before. Rows that bounds cannot tell apart are listed with their canonical distances, and every pick updates
these, so that rows at equal distances are decided once. Letters: s rows, r listed rows, d width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alray.features.arrays import Array
from alray.selection.kernels.distance import squared_norms
from alray.selection.kernels.held import Held
from alray.selection.kernels.logits import Positions
from alray.selection.kernels.matrices import fetched, product, sent, taken
from alray.selection.protocol import Key, beats

_MOST = 1 << 24  # numbers of the matrix: 64 MB
_FEWEST, _CANDIDATES = 16, 256
_PASSES, _PICK_COST = 5, 4e4  # operations per row, and for a pick besides, in operations on single numbers
_ALONE = 16  # picks with one candidate each, before more are tried again
_LISTED, _FEW = 1 << 13, 64  # numbers of the listed rows, and rows: those beyond are compared by their bounds again
_FIRST = 16  # rows decided together at first, and then more and more


def dense(rows: Held, k: int, limit: Key) -> tuple[float, bool]:
    """Pick until there are k picks; returns what it cost in operations on single numbers, and False when the best row
    does not beat the limit."""
    cost = rows.pair_cost * rows.refresh(np.flatnonzero(rows.upper > -np.inf))
    search = _Dense(rows, limit)
    size, alone, more = _FEWEST, 0, True
    while more and len(rows.picked) < k:
        before = len(rows.picked)
        more = search.block(1 if alone else size, k)
        found = len(rows.picked) - before
        pass_cost = rows.view.x.shape[1] / 2 if alone else rows.pair_cost * size
        cost += len(rows) * (pass_cost + _PASSES * found) + _PICK_COST * (found + 1)
        if alone:
            alone -= 1
        elif found < 3:
            size, alone = _FEWEST, _ALONE
        elif 2 * found >= size:
            size = min(2 * size, _CANDIDATES, max(_FEWEST, _MOST // len(rows)))
        elif 3 * found < size:
            size = max(_FEWEST, size // 2)
        if rows.undecided(cost + search.cost) or rows.coarse(search.top):
            break
    search.save()
    return cost + search.cost, more


class _Dense:
    """Upper bounds of all rows in the precision of their views, and how far below them the distances may be."""

    def __init__(self, rows: Held, limit: Key) -> None:
        self.rows, self.limit, self.cost = rows, limit, 0.0
        self.type: Any = np.float64 if rows.double else np.float32
        self.upper = self._up(rows.upper)
        usual = rows.share[(self.upper > -np.inf) & (rows.kind == 0)]
        self.usual = float(usual.max(initial=0.0))  # the largest share of an ordinary pick
        with np.errstate(invalid="ignore"):
            below = np.where(self.upper > -np.inf, self.upper - rows.lower, 0.0)
        self._least_width = self._up(2 * (rows.share + self.usual))
        self.width = np.maximum(self._up(below), self._least_width)
        self.add = self._up(rows.above)
        self.columns = rows.columns
        self.g = np.empty((0, len(rows)), self.type)
        self.new, self.open = np.empty(len(rows), self.type), np.empty(len(rows), bool)
        self.listed = np.empty(0, np.intp)  # ascending; their upper bounds here are -inf
        self.squared, self.vectors = np.empty(0), np.empty((0, rows.vectors.shape[1]))  # canonical
        self.top = np.inf  # the largest squared distance
        self.next = self._farthest()

    def _products(self, at: Positions) -> Array:
        """|c|^2 - 2 x.c for these rows as centers c and all rows x, (p, s); the next call overwrites it."""
        x = fetched(taken(self.rows.view.x, at))
        with np.errstate(over="ignore"):
            centers = np.concatenate([-2 * x, self.rows.above[at][:, None]], axis=1, dtype=self.type)
        if self.rows.device is not None:
            return fetched(product(sent(centers, self.rows.device), self.columns))
        if len(at) > len(self.g):
            self.g = np.empty((len(at), len(self.upper)), self.type)
        if len(at) == 1:
            np.dot(centers[0], self.columns, out=self.g[0])
            return self.g
        product(centers, self.columns, self.g[: len(at)])
        return self.g

    def _up(self, value: Array) -> Array:
        found = value.astype(self.type)
        low = found < value
        found[low] = np.nextafter(found[low], self.type(np.inf))
        return np.asarray(found)

    def save(self) -> None:
        """Write the bounds back."""
        rows, count = self.rows, len(self.rows.picked)
        left = np.flatnonzero(self.upper > -np.inf)
        rows.upper[left] = self.upper[left]
        rows.lower[left] = self.upper[left].astype(np.float64) - self.width[left]
        rows.seen[left] = count
        rows.know(self.listed, self.squared)

    def block(self, size: int, k: int) -> bool:
        """Pick among the `size` farthest rows; False when the best row does not beat the limit."""
        if self.next is None:
            return False
        at = self._candidates(self.next, size)
        line = {int(position): number for number, position in enumerate(at)}
        g = self._products(at)
        while self.next is not None and self.next in line:
            self._pick(self.next, g[line[self.next]])
            if len(self.rows.picked) >= k:
                return True
            self.next = self._farthest()
        return self.next is not None

    def _pick(self, best: int, g: Array) -> None:
        self.rows.pick(best)
        self.upper[best] = -np.inf
        if len(self.listed):
            self._update_listed(best)
        np.add(g, self.add, out=self.new)
        if self.rows.share[best] > self.usual:
            self._widen(float(self.rows.share[best]))
        np.minimum(self.upper, self.new, out=self.upper)

    def _widen(self, share: float) -> None:
        """Take a pick of unusually large norm into account in the width of the bounds."""
        at = np.flatnonzero(self.upper > -np.inf)
        before, new = self.upper[at].astype(np.float64), self.new[at].astype(np.float64)
        with np.errstate(invalid="ignore"):
            lower = new - 2 * (self.rows.share[at] + share)
            lower = np.where(np.isnan(lower), -np.inf, lower)
            width = self._up(np.minimum(before, new) - np.minimum(before - self.width[at], lower))
        self.width[at] = np.maximum(width, self._least_width[at])

    def _update_listed(self, best: int) -> None:
        rows, there = self.rows, self.listed != best
        if not there.all():
            self.listed, self.squared, self.vectors = self.listed[there], self.squared[there], self.vectors[there]
        squared = squared_norms(self.vectors - rows.space.canonical(rows.vectors[best : best + 1]))
        np.minimum(self.squared, squared / rows.space.unit, out=self.squared)
        self.cost += 3 * self.vectors.size

    def _farthest(self) -> int | None:
        """The row to pick next; None where it does not beat the limit."""
        size = _FIRST
        while True:
            best, value = -1, -np.inf
            if len(self.listed):
                first = int(self.squared.argmax())
                best, value = int(self.listed[first]), float(self.squared[first])
            other = int(self.upper.argmax())
            top = float(self.upper[other])
            self.top = max(value, top)
            if value > top:
                return best if beats(self.rows.key(best, value), self.limit) else None
            if top == -np.inf or not beats(self.rows.key(other, top), self.limit):
                return None
            least = top - float(self.width[other])
            if least == top and (value < top or other < best):
                return other  # nobody is above, and of several the first has the lowest number
            bound = np.nextafter(self.type(max(least, value)), self.type(-np.inf))  # after rounding, too
            np.greater_equal(self.upper, bound, out=self.open)
            alone = least > value and np.count_nonzero(self.open) == 1
            if alone and beats(self.rows.key(other, least), self.limit):
                return other
            at = np.flatnonzero(self.open)
            if len(at) > size:  # one of the farthest may be so far that the others cannot be it
                at = np.sort(at[np.argpartition(-self.upper[at], size)[:size]])
                size *= 8
            self._list(at)

    def _list(self, at: Positions) -> None:
        """Decide rows, which bounds cannot tell apart."""
        rows = self.rows
        squared, vectors = rows.settle(at), rows.space.canonical(rows.vectors[at])
        self.cost += rows.decide_cost(len(at)) + 3 * vectors.size
        self.upper[at] = -np.inf
        listed = np.concatenate([self.listed, at])
        order = np.argsort(listed)
        self.listed, self.squared = listed[order], np.concatenate([self.squared, squared])[order]
        self.vectors = np.concatenate([self.vectors, vectors])[order]
        if len(self.listed) > max(_FEW, _LISTED // self.vectors.shape[1]):
            self._shorten(max(_FEW, _LISTED // self.vectors.shape[1]) // 2)

    def _shorten(self, most: int) -> None:
        """Go on with about `most` listed rows, the farthest, and with those that cannot be told from the farthest by
        their rounded bounds: they would be listed again at once, without end."""
        low = self.squared < -np.partition(-self.squared, most - 1)[most - 1]
        low &= self._up(self.squared) < self.squared.max()
        at, squared = self.listed[low], self.squared[low]
        self.upper[at] = self._up(squared)
        self.width[at] = np.maximum(self._up(self.upper[at] - squared), self._least_width[at])
        self.rows.know(at, squared)
        self.listed, self.squared, self.vectors = self.listed[~low], self.squared[~low], self.vectors[~low]

    def _candidates(self, best: int, size: int) -> Positions:
        """About `size` of the farthest rows, ascending, with `best` among them."""
        if size == 1:
            return np.array([best])
        self.upper[self.listed] = self.squared
        step = max(1, len(self.upper) // (64 * size))
        some = self.upper[::step]
        place = max(0, len(some) - max(1, size // step))
        at = np.flatnonzero(self.upper >= max(np.partition(some, place)[place], np.finfo(self.type).min))
        if len(at) > 2 * size:
            at = at[np.argsort(-self.upper[at], kind="stable")[: 2 * size]]
        self.upper[self.listed] = -np.inf
        return np.union1d(at, [best])


def least_cost(rows: Held) -> float:
    """What a pick costs at least, when all candidates are picked; without bringing the rows up to date."""
    return len(rows) * (rows.pair_cost + _PASSES) + _PICK_COST
