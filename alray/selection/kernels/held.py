"""The rows that the driver of a k-center holds: bounds of their distances, and the canonical ones where they decide.

Every pick reduces distances. A row's bounds take its first picks into account, as many as it has `seen`; they hold for
all of them, because the upper bound of a distance that shrinks stays one. Two rows are compared canonically only where
their bounds overlap. Distances are squared, and in units of the space's views. Letters: s rows held, p picks, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array, Rows
from alray.selection.kernels.centers import unusual
from alray.selection.kernels.distance import Space, View, rounded_up, shares, squared_norms
from alray.selection.kernels.logits import Floats, Positions, nonzero
from alray.selection.kernels.matrices import (
    Matrix,
    device_in_use,
    fetched,
    joined,
    lowest,
    product,
    sent,
    taken,
    twice_less,
)
from alray.selection.protocol import Key, beats

Counts = npt.NDArray[np.int64]

_COARSE = 1e-3  # an error bound that is a larger share of the largest distance leaves too many rows undecided
_DECIDED, _DECIDE_COST = 8, 4e5  # deciding rows costs about as much as so many operations on single numbers
_AT_ONCE = 1 << 16  # numbers: rows are compared with so few picks without bounds
_TOGETHER = 1 << 19  # products per matrix
_CENTERS = 1024  # picks per matrix where bounds are brought up to date
_DECIDERS = 4096  # picks per matrix where few rows are decided
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
        self._known = np.zeros(len(order), np.int64)
        self.upper, self.lower = self._exact.copy(), self._exact.copy()  # -inf: picked
        self.seen = np.zeros(len(order), np.int64)
        self.picked: list[int] = []
        self.spent = 0.0  # what picking has cost otherwise, in operations on single numbers
        self.decided = 0.0  # how often bounds were not enough to choose rows
        self._picked_vectors = np.empty((min(k, len(order)), self.vectors.shape[1]))  # as the metric sees them
        self._copied = 0  # so many of them are there
        self.device = device_in_use()
        self._measure(space.view(self.vectors))
        if len(order) and (self.coarse(float(self.upper.max())) or np.isinf(self.share).any()):
            self.refine()

    def __len__(self) -> int:
        return len(self.rows)

    def _measure(self, view: View) -> None:
        self.view = view = view.to(self.device)
        self.thin = view.x.shape[1] <= _THIN
        self.share = shares(view)  # what a row, as a row or as a pick, adds to the error bound of a pair
        self._ones = joined([view.x, _ones_beside(view.x)], 1) if self.thin else view.x
        self.kind = unusual(view.squares)
        self._columns: Matrix = None
        self._usual = 4 * float(np.median(self.share)) if len(view) else 0.0
        self.above = view.squares + self.share  # with a product of centers, an upper bound, and a lower bound
        with np.errstate(invalid="ignore"):
            self.below = np.where(np.isinf(self.share), -np.inf, view.squares - self.share)

    def products(self, centers: Positions, at: Positions | slice) -> Matrix:
        """One line per row in `centers`: with `above` of the rows `at`, upper bounds of their squared distances to it;
        less twice the center's share, and with `below`, lower bounds."""
        bias, x = self.above[centers][:, None], taken(self.view.x, centers)
        if not self.thin:
            return twice_less(bias, x, taken(self.view.x, at))
        with np.errstate(over="ignore"):
            bias = bias.astype(np.float64 if self.double else np.float32)
        return product(joined([-2 * x, sent(bias, self.device)], 1), taken(self._ones, at).T)

    @property
    def columns(self) -> Matrix:
        """One row per column of the views, and ones, which |c|^2 is multiplied with: most products are fastest so."""
        if self._columns is None:
            x = self.view.x
            self._columns = joined([x.T, _ones_beside(x).T])
        return self._columns

    @property
    def double(self) -> bool:
        """Whether bounds come from float64 products."""
        return self.view.double

    def refine(self) -> None:
        """Use float64 products from now on."""
        self._measure(self.space.view(self.vectors, np.float64))
        left = np.flatnonzero(self.upper > -np.inf)  # lower bounds from float32 products would stay wide
        self.lower[left], self.seen[left] = self._exact[left], self._known[left]
        self.refresh(left)

    def coarse(self, top: float) -> bool:
        """Whether float32 products are of no use where the largest squared distance is `top`."""
        return not self.double and self._usual > _COARSE * top > 0

    def undecided(self, more: float = 0.0) -> bool:
        """Whether float32 products leave so many rows undecided that float64 products are cheaper. more: what picking
        has cost besides `spent`."""
        return not self.double and (self.decided - _DECIDED) * _DECIDE_COST > self.spent + more

    def decide_cost(self, count: int) -> float:
        """What deciding so many rows costs, in operations on single numbers."""
        return _DECIDE_COST * (1 + count * _DECIDERS / _TOGETHER)

    @property
    def pair_cost(self) -> float:
        """What a pair of a matrix product costs, in operations on single numbers."""
        return float((2 if self.double else 1) * (1 + self.vectors.shape[1] / 25))

    def chosen(self) -> Chosen:
        """The picks, with the canonical distances that they had."""
        at = np.array(self.picked, np.intp)
        self._decide(at, np.arange(len(at)))
        return Chosen(self.rows[at], self.vectors[at], self._exact[at] * self.space.unit, self.spent)

    def pick(self, at: int) -> None:
        """Take a row."""
        self.picked.append(at)
        self.upper[at] = self.lower[at] = -np.inf

    def key(self, at: int, value: float) -> Key:
        """The key of a row with this value."""
        return value, int(self.rows[at])

    def refresh(self, at: Positions) -> int:
        """Bring bounds up to date with all picks; returns the number of pairs that were compared."""
        pairs, picked = 0, np.array(self.picked, np.intp)
        for start in range(0, len(picked), _CENTERS):
            some = picked[start : start + _CENTERS]
            old = at[self.seen[at] < start + len(some)]
            some = some[max(0, int(self.seen[old].min()) - start) :] if len(old) else some[:0]
            for centers in self._alike(some):
                self._meet(old, centers)
            pairs += len(old) * len(some)
        self.seen[at] = len(picked)
        return pairs

    def _meet(self, at: Positions, centers: Positions) -> None:
        lower = 2 * float(self.share[centers].max())
        for part in _cut(at, len(centers)):
            g = self.products(centers, part)
            low = lowest(g, 0).astype(np.float64)
            self.upper[part] = np.minimum(self.upper[part], low + self.above[part])
            low = low - lower if lower < np.inf else np.full(len(low), -np.inf)
            self.lower[part] = np.minimum(self.lower[part], low + self.below[part])

    def _alike(self, centers: Positions) -> list[Positions]:
        """The same in parts with similar norms, because the lower bounds of a part are as wide as its largest norm."""
        kind = self.kind[centers]
        return [centers[kind == one] for one in np.unique(kind)]

    def settle(self, at: Positions) -> Floats:
        """The canonical distances of rows after all picks; they replace the bounds."""
        self.decided += self.decide_cost(len(at)) / _DECIDE_COST
        self._decide(at, np.full(len(at), len(self.picked)))
        self.upper[at] = self.lower[at] = self._exact[at]
        self.seen[at] = len(self.picked)
        return self._exact[at]

    def know(self, at: Positions, squared: Floats) -> None:
        """Keep the canonical distances of rows after all picks."""
        self.upper[at] = self.lower[at] = self._exact[at] = squared
        self.seen[at] = self._known[at] = len(self.picked)

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
        if first == last:  # decided a moment ago
            return
        if len(at) * (last - first) * self.vectors.shape[1] <= _AT_ONCE and last == until.min():
            squared = self._all_pairs(at, first, last)
            np.minimum(value, squared.min(axis=1) / self.space.unit, out=value)
            self._exact[at], self._known[at] = value, until
            return
        for start in range(first, last, _DECIDERS):
            centers = np.array(self.picked[start : min(start + _DECIDERS, last)], np.intp)
            i, j = self._near(at, value, centers, until - start)
            squared = self.space.pairs(self.vectors, self.vectors, at[i], centers[j])
            np.minimum.at(value, i, squared / self.space.unit)
        self._exact[at], self._known[at] = value, until

    def _all_pairs(self, at: Positions, first: int, last: int) -> Floats:
        """Canonical squared distances of rows to the picks first:last."""
        new = self.picked[self._copied : last]
        self._picked_vectors[self._copied : last] = self.space.canonical(self.vectors[new])
        self._copied = max(self._copied, last)
        x = self.space.canonical(self.vectors[at])
        difference = (x[:, None] - self._picked_vectors[first:last]).reshape(-1, x.shape[1])
        return squared_norms(difference).reshape(len(at), -1)

    def _near(self, at: Positions, value: Floats, centers: Positions, until: Counts) -> tuple[Positions, Positions]:
        """Pairs of rows and of the first `until` (r,) of the picks `centers` that may be nearer than `value` (r,) and
        than the row's other picks."""
        g = fetched(self.products(centers, at))
        if len(centers) > until.min():
            g[np.arange(len(centers))[:, None] >= until] = np.inf
        shares = 2 * self.share[centers]
        with np.errstate(invalid="ignore"):
            limit = np.fmin(value, g.min(axis=0) + self.above[at]) - self.below[at]
            j, i = nonzero(g <= rounded_up(limit + shares.max(), self.double))
            near = ~(g[j, i] - shares[j] > limit[i]) & (j < until[i])
        return i[near], j[near]


def _ones_beside(x: Matrix) -> Matrix:
    """Ones for the rows of a matrix, (m, 1)."""
    return np.ones((len(x), 1), x.dtype) if isinstance(x, np.ndarray) else x.new_ones(len(x), 1)


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
