"""The rows that the driver of a k-center holds: bounds of their distances, and the canonical ones where they decide.

Every pick reduces distances. A row's bounds take its first picks into account, as many as it has `seen`; they hold for
all of them, because the upper bound of a distance that shrinks stays one. Two rows are compared canonically only where
their bounds overlap. Distances are squared, and in units of the space's views. Letters: s rows held, p picks, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from alray.features.arrays import Array, Rows
from alray.models.device import device_in_use, full_float32
from alray.selection.kernels.distance import Space, View, error, products, rounded_up
from alray.selection.kernels.logits import Floats, Positions, U, nonzero
from alray.selection.protocol import Key, beats

Counts = npt.NDArray[np.int64]

_COARSE = 1e-3  # an error bound that is a larger share of the largest distance leaves too many rows undecided
_DECIDED, _DECIDE_COST = 16, 4e5  # deciding rows costs about as much as so many operations on single numbers
_TOGETHER = 1 << 19  # products per matrix
_CENTERS = 1024  # picks per matrix where bounds are brought up to date
_DECIDERS = 4096  # picks per matrix where few rows are decided
UNUSUAL = 8  # times the norm of the picks before: such picks have bounds of their own
_THIN = 32  # columns: adding |c|^2 takes longer than the rest of a product of so few


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows (s,), their stored vectors (s, d), and their squared distances (s,) to the nearest center; of picks, at the
    time they were picked. spent: what picking them has cost, in operations on single numbers."""

    rows: Rows
    vectors: Array
    squared: Floats
    spent: float = 0.0


class Held:
    """The held rows, ascending, so that the first of several largest values belongs to the lowest row."""

    def __init__(self, space: Space, held: Chosen, k: int) -> None:
        order = np.argsort(held.rows)
        self.space, self.rows, self.vectors = space, held.rows[order], held.vectors[order]
        self._exact = held.squared[order] / space.unit  # canonical, for the first `_known` picks
        self._most = min(k, len(order))
        self._known = np.zeros(len(order), np.int64)
        self.upper, self.lower = self._exact.copy(), self._exact.copy()  # -inf: picked
        self.seen = np.zeros(len(order), np.int64)
        self.picked: list[int] = []
        self._edges: list[int] = []  # picks from one edge to the next have similar norms
        self._norms: list[float] = []  # the largest norm of each such part
        self.spent = 0.0  # what picking has cost otherwise, in operations on single numbers
        self.decided = 0  # how often bounds were not enough to choose a row
        self.device = device_in_use()
        self._measure(space.view(self.vectors))
        if len(order) and (np.median(self.eps) > _COARSE * self.upper.max(initial=0.0) > 0 or np.isinf(self.eps).any()):
            self.refine()

    def __len__(self) -> int:
        return len(self.rows)

    def _measure(self, view: View) -> None:
        self.view = view = view.to(self.device)
        self.thin, self._largest = view.x.shape[1] <= _THIN, view.largest
        self.eps = self._error(view, self._largest)
        if self.thin:
            self._with_ones = torch.cat([view.x, torch.ones_like(view.x[:, :1])], dim=1)
        self.above = view.squares + self.eps  # with g, an upper bound, and a lower bound
        with np.errstate(invalid="ignore"):
            self.below = np.where(np.isinf(self.eps), -np.inf, view.squares - self.eps)
        self._x, self._squares = view.x.new_empty(self._most, view.x.shape[1]), np.empty(self._most)
        self._norms = [float(np.sqrt(view.squares[self.picked[a:b]].max())) for a, b in self._parts()]
        at = np.array(self.picked, np.intp)  # of the picks, in order: views and squared norms
        self._x[: len(at)], self._squares[: len(at)] = view[at].x, view.squares[at]

    def _error(self, view: View, largest: float) -> Floats:
        eps = error(view, largest, view.step)
        if self.thin:
            eps[eps > 0] += for_squares(view, largest)
        return eps

    def around(self, at: Positions | slice, largest: float) -> tuple[Floats, Floats, Floats]:
        """`above`, `below` and `eps` of rows for centers whose norms are at most `largest`."""
        if 2 * largest >= self._largest:
            return self.above[at], self.below[at], self.eps[at]
        view = self.view[at]
        eps = self._error(view, largest)
        with np.errstate(invalid="ignore"):
            return view.squares + eps, np.where(np.isinf(eps), -np.inf, view.squares - eps), eps

    def _parts(self) -> list[tuple[int, int]]:
        """The picks, cut where their norms change much."""
        return list(pairwise([*self._edges, len(self.picked)]))

    def _cut_parts(self, size: int) -> list[tuple[int, int, float]]:
        """The same in parts of at most `size` picks, with the largest norm of each."""
        parts = zip(self._parts(), self._norms, strict=True)
        return [(at, min(at + size, b), norm) for (a, b), norm in parts for at in range(a, b, size)]

    @property
    def double(self) -> bool:
        """Whether bounds come from float64 products."""
        return self.view.x.dtype == torch.float64

    def refine(self) -> None:
        """Use float64 products from now on."""
        self._measure(self.space.view(self.vectors, torch.float64))

    def similar(self) -> bool:
        """Whether the norms of the rows that are left are alike enough for one bound of all."""
        squares = self.view.squares[self.upper > -np.inf]
        return bool(squares.max(initial=0.0) <= UNUSUAL**4 * np.median(squares))

    def undecided(self) -> bool:
        """Whether float32 products leave so many rows undecided that float64 products are cheaper."""
        return not self.double and (self.decided - _DECIDED) * _DECIDE_COST > self.spent

    @property
    def pair_cost(self) -> float:
        """What a pair of a matrix product costs, in operations on single numbers."""
        return (2 if self.double else 1) * (1 + self.view.x.shape[1] / 25)

    def chosen(self) -> Chosen:
        """The picks, with the canonical distances that they had."""
        at = np.array(self.picked, np.intp)
        self._decide(at, np.arange(len(at)))
        return Chosen(self.rows[at], self.vectors[at], self._exact[at] * self.space.unit, self.spent)

    def pick(self, at: int) -> None:
        """Take a row."""
        count, norm = len(self.picked), float(np.sqrt(self.view.squares[at]))
        if not count or (count - self._edges[-1] >= len(self._edges) and _far_apart(norm, self._norms[-1])):
            self._edges.append(count)
            self._norms.append(norm)
        self._norms[-1] = max(self._norms[-1], norm)
        self._x[count], self._squares[count] = self.view.x[at], self.view.squares[at]
        self.picked.append(at)
        self.upper[at] = self.lower[at] = -np.inf

    def key(self, at: int, value: float) -> Key:
        """The key of a row with this value."""
        return value, int(self.rows[at])

    def refresh(self, at: Positions) -> int:
        """Bring bounds up to date with all picks; returns the number of pairs that were compared."""
        pairs, count = 0, len(self.picked)
        for start, stop, largest in self._cut_parts(_CENTERS):
            old = at[self.seen[at] < stop]
            centers = self._centers(start, stop)
            for part in _cut(old, stop - start):
                low = self._lowest(part, centers)
                above, below, _ = self.around(part, largest)
                self.upper[part] = np.minimum(self.upper[part], low + above)
                self.lower[part] = np.minimum(self.lower[part], low + below)
            pairs += len(old) * (stop - start)
        self.seen[at] = count
        return pairs

    def _lowest(self, at: Positions | slice, centers: View) -> Floats:
        if not self.thin:
            return np.asarray(products(self.view.x[at], centers).amin(dim=1).cpu().numpy(), np.float64)
        squares = torch.from_numpy(centers.squares).to(centers.x.device, centers.x.dtype)
        with full_float32():
            g = self._with_ones[at] @ torch.cat([-2 * centers.x, squares[:, None]], dim=1).T
        return np.asarray(g.amin(dim=1).cpu().numpy(), np.float64)

    def settle(self, at: Positions) -> Floats:
        """The canonical distances of rows after all picks; they replace the bounds."""
        self.decided += 1
        self._decide(at, np.full(len(at), len(self.picked)))
        self.upper[at] = self.lower[at] = self._exact[at]
        self.seen[at] = len(self.picked)
        return self._exact[at]

    def _decide(self, at: Positions, until: Counts) -> None:
        """Canonical distances (r,) of rows, of which each takes its first `until` picks into account."""
        new = np.flatnonzero((self._known[at] < until) & (self._exact[at] > 0))
        at, until = at[new], until[new]
        for start in range(0, len(at), _TOGETHER // _DECIDERS):
            some = slice(start, start + _TOGETHER // _DECIDERS)
            self._decide_some(at[some], until[some])

    def _decide_some(self, at: Positions, until: Counts) -> None:
        value = self._exact[at].copy()
        first, last = int(self._known[at].min()), int(until.max())
        for start, stop, largest in self._cut_parts(_DECIDERS):
            start, stop = max(start, first), min(stop, last)
            if start >= stop:
                continue
            i, j = self._near(at, value, (start, stop, largest), until)
            centers = np.array([self.picked[start + center] for center in j], np.intp)
            np.minimum.at(value, i, self.space.pairs(self.vectors, self.vectors, at[i], centers) / self.space.unit)
        self._exact[at], self._known[at] = value, until

    def _centers(self, start: int, stop: int) -> View:
        return View(self._x[start:stop], self._squares[start:stop], self.view.step)

    def _near(
        self, at: Positions, value: Floats, part: tuple[int, int, float], until: Counts
    ) -> tuple[Positions, Positions]:
        """Pairs of rows and of the picks start:stop that may be nearer than `value` (r,) and than the row's other
        picks."""
        start, stop, largest = part
        g = products(self.view.x[at], self._centers(start, stop)).cpu().numpy()
        if stop > until.min():
            g[np.arange(start, stop) >= until[:, None]] = np.inf
        squares, eps = self.view.squares[at], self.around(at, largest)[2]
        with np.errstate(invalid="ignore"):
            limit = np.fmin(value, g.min(axis=1) + squares + eps) + eps - squares
        i, j = nonzero((g <= rounded_up(limit, self.double)[:, None]) & (g < np.inf))
        return i, j


def _far_apart(norm: float, other: float) -> bool:
    return norm > UNUSUAL * other or other > UNUSUAL * norm


def for_squares(view: View, largest: float) -> float:
    """What eps grows by where |c|^2 is one of the terms of a product."""
    unit = U if view.x.dtype == torch.float32 else 2.0**-53
    return 1.01 * (view.x.shape[1] + 9) * unit * largest**2


def _cut(at: Positions, width: int) -> list[Positions | slice]:
    """Parts of some rows that are compared together with so many centers; slices where they are neighbours."""
    size = max(1, _TOGETHER // max(1, width))
    if len(at) and at[-1] - at[0] == len(at) - 1:
        return [slice(start, min(start + size, int(at[-1]) + 1)) for start in range(int(at[0]), int(at[-1]) + 1, size)]
    return [at[start : start + size] for start in range(0, len(at), size)]


def certain(upper: Floats, lower: Floats, rows: Rows, best: int, limit: Key) -> bool:
    """Whether the row with the largest upper bound, the lowest of several, is farthest and beats the limit."""
    if lower[best] < upper[best]:
        if not beats((float(lower[best]), int(rows[best])), limit):
            return False
        return int(np.count_nonzero(upper >= lower[best])) == 1
    return True
