"""Farthest-first with the distances of all held rows up to date: for picks that change the distances of most rows.

The distances of all rows to some candidates, the farthest rows, are one matrix product. Picks are made as long as the
farthest row is one of the candidates; each takes a few operations on numbers that are there already. With one candidate
this is the plain loop: one pass over the rows per pick. How many candidates there are follows from how many of them
were picked before. Letters: s rows held, d width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alray.features.arrays import Array
from alray.models.device import full_float32
from alray.selection.kernels.held import Held, for_squares
from alray.selection.kernels.logits import Positions
from alray.selection.protocol import Key, beats

_MOST = 1 << 24  # numbers of the matrix: 64 MB
_FEWEST, _CANDIDATES = 16, 256
_PASSES, _PICK_COST = 5, 2e4  # operations per row, and for a pick besides, in operations on single numbers
_ALONE = 16  # picks with one candidate each, before more are tried again


def dense(rows: Held, k: int, rest: Key) -> tuple[float, bool]:
    """Pick until there are k picks; returns what it cost in operations on single numbers, and False when the best row
    does not beat `rest`."""
    cost = rows.pair_cost * rows.refresh(np.flatnonzero(rows.upper > -np.inf))
    search = _Dense(rows, rest)
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
        elif 8 * found < size:
            size = max(_FEWEST, size // 2)
    search.save()
    return cost, more


def least_cost(rows: Held) -> float:
    """What a pick costs at least, when all candidates are picked; without bringing the rows up to date."""
    return len(rows) * (rows.pair_cost + _PASSES) + _PICK_COST


class _Dense:
    """Upper bounds of all rows in the precision of their views, and how far below them the distances may be."""

    def __init__(self, rows: Held, rest: Key) -> None:
        self.rows, self.rest = rows, rest
        self.type: Any = np.float64 if rows.double else np.float32
        self.upper = self._up(rows.upper)
        largest = rows.view[np.flatnonzero(rows.upper > -np.inf)].largest  # of the rows that may be picked
        with np.errstate(invalid="ignore"):
            below = np.where(rows.upper > -np.inf, self.upper - rows.lower, 0.0)
        eps = rows.around(slice(None), largest)[2]
        eps = eps + np.where(eps > 0, self._more(largest), 0.0)  # eps pays for the rounding of sums, too
        self._least_width = self._up(2 * eps)
        self.width = np.maximum(self._up(below), self._least_width)
        self.add = self._up(rows.view.squares + eps)
        # One row per column of the embedding, and ones, which |c|^2 is multiplied with: products are fastest like this.
        self.columns = rows.view.x.new_ones(rows.view.x.shape[1] + 1, len(rows))
        self.columns[:-1] = rows.view.x.T
        self.g = np.empty((0, len(rows)), self.type)
        self.new, self.open = np.empty(len(rows), self.type), np.empty(len(rows), bool)
        self.next = self._farthest()

    def _more(self, largest: float) -> float:
        """What eps grows by when |c|^2 is one of the terms of the product, as it is for thin rows already."""
        return 0.0 if self.rows.thin else for_squares(self.rows.view, largest)

    def _products(self, at: Positions) -> Array:
        """|c|^2 - 2 x.c for these rows as centers c and all rows x, (p, s); the next call overwrites it."""
        x = self.rows.view.x[torch.from_numpy(at)].cpu().numpy()
        squares = np.minimum(self.rows.view.squares[at], np.finfo(self.type).max ** 0.5)
        centers = np.concatenate([-2 * x, squares[:, None]], axis=1, dtype=self.type)
        if self.columns.device.type != "cpu":
            with full_float32():
                return (torch.from_numpy(centers).to(self.columns.device) @ self.columns).cpu().numpy()
        if len(at) > len(self.g):
            self.g = np.empty((len(at), len(self.upper)), self.type)
        if len(at) == 1:
            np.dot(centers[0], self.columns.numpy(), out=self.g[0])
            return self.g
        with full_float32():
            torch.mm(torch.from_numpy(centers), self.columns, out=torch.from_numpy(self.g[: len(at)]))
        return self.g

    def _up(self, value: Array) -> Array:
        found = value.astype(self.type)
        low = found < value
        found[low] = np.nextafter(found[low], self.type(np.inf))
        return np.asarray(found)

    def save(self) -> None:
        """Write the bounds back."""
        left = np.flatnonzero(self.upper > -np.inf)
        self.rows.upper[left] = self.upper[left]
        self.rows.lower[left] = self.upper[left].astype(np.float64) - self.width[left]
        self.rows.seen[left] = len(self.rows.picked)

    def block(self, size: int, k: int) -> bool:
        """Pick among the `size` farthest rows; False when the best row does not beat the rest."""
        if self.next is None:
            return False
        at = self._candidates(self.next, size)
        line = {int(position): number for number, position in enumerate(at)}
        g = self._products(at)
        while self.next is not None and self.next in line:
            self.rows.pick(self.next)
            self.upper[self.next] = -np.inf
            np.add(g[line[self.next]], self.add, out=self.new)
            np.minimum(self.upper, self.new, out=self.upper)
            if len(self.rows.picked) >= k:
                return True
            self.next = self._farthest()
        return self.next is not None

    def _farthest(self) -> int | None:
        """The row to pick next; None where it does not beat the rest."""
        best = int(self.upper.argmax())
        top = float(self.upper[best])
        if top == -np.inf or not beats(self.rows.key(best, top), self.rest):
            return None
        least = top - float(self.width[best])
        if least == top:  # nobody is above, and of several the first has the lowest number
            return best
        bound = np.nextafter(self.type(least), self.type(-np.inf))  # below `least` after rounding, too
        np.greater_equal(self.upper, bound, out=self.open)
        if np.count_nonzero(self.open) == 1 and beats(self.rows.key(best, least), self.rest):
            return best
        at = np.flatnonzero(self.open)
        squared = self.rows.settle(at)
        self.upper[at] = self._up(squared)
        self.width[at] = np.maximum(self._up(self.upper[at] - squared), self._least_width[at])
        first = int(squared.argmax())
        best = int(at[first])
        return best if beats(self.rows.key(best, float(squared[first])), self.rest) else None

    def _candidates(self, best: int, size: int) -> Positions:
        """About `size` of the farthest rows, ascending, with `best` among them."""
        if size == 1:
            return np.array([best])
        step = max(1, len(self.upper) // (64 * size))
        some = self.upper[::step]
        place = max(0, len(some) - max(1, size // step))
        at = np.flatnonzero(self.upper >= max(np.partition(some, place)[place], np.finfo(self.type).min))
        if len(at) > 2 * size:
            at = at[np.argsort(-self.upper[at], kind="stable")[: 2 * size]]
        return np.union1d(at, [best])
