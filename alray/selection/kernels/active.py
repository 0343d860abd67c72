"""Rows whose upper bounds are kept up to date with the picks of a k-center, and which can be settled.

Bounds come from matrix products with the picks that are new, in float32 or float64, with the error shares of
`alray.selection.kernels.distance`. To settle a row is to find its canonical distance to the nearest pick: of the picks
that it has missed, only those that may be nearest by these bounds are compared canonically; none where products are
exact. Distances are squared. Letters: n rows, p picks, d width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alray.features.arrays import Array, Rows
from alray.selection.kernels.bounds import up
from alray.selection.kernels.distance import Space, View, rounded_up, shares, squared_norms
from alray.selection.kernels.logits import Floats, Positions, Singles, nonzero
from alray.selection.kernels.matrices import product
from alray.selection.protocol import Key, beats

_TOGETHER = 1 << 16  # products per matrix: they stay in cache
_LINES = 256  # picks per matrix
_EXAMINED = 1 << 12  # rows that are looked at together: of most inputs the first ones tell that products are not exact
_TURNED = 1 << 13  # numbers that are turned into columns at once: they stay in the nearest cache
_AGES = 8  # groups of rows by the picks that they have missed, before those of like numbers are one group
_AT_ONCE = 1 << 13  # numbers: rows are compared with so few picks without bounds
_ALONE = 1 << 16  # numbers of the picks that rows have missed: if there are more, bounds tell which may be nearest
_OPEN = 64  # rows that may be farthest: of more of them, blocks tell more cheaply which one is
_CALL, _PER_PAIR, _PASSES = 2e5, 2, 6  # operations of settling some rows; for each pair; for each number of two rows


class Made:
    """The picks among rows (n, d), stored in `vectors`, in their order, at most k; and how products see them."""

    def __init__(self, space: Space, vectors: Array, k: int) -> None:
        self.space, self.vectors = space, vectors
        self._order, self.count = np.empty(k, np.intp), 0
        self._lines, self._share, self._seen = np.empty(0), np.empty(k), 0
        self._x = np.empty((k, vectors.shape[1]))
        self.room = np.empty(0)  # for products: fresh memory costs more than they do
        self.type: type = np.float32
        self.refine(self.type)

    @property
    def at(self) -> Positions:
        """Their positions among the rows."""
        return self._order[: self.count]

    @property
    def double(self) -> bool:
        """Whether products are in float64."""
        return self.type == np.float64

    def add(self, at: int, x: Floats) -> None:
        """One more pick; x (d,): it as the metric sees it."""
        self._order[self.count], self._x[self.count] = at, x
        self.count += 1

    def missed(self, known: int) -> Floats:
        """The picks from this one on as the metric sees them, (p, d)."""
        return self._x[known : self.count]

    def refine(self, to: type = np.float64) -> None:
        """Use products of this type from now on."""
        self.type, self._seen = to, 0
        parts = (slice(start, start + _EXAMINED) for start in range(0, len(self.vectors), _EXAMINED))
        # Whether all products of the rows, of any of them, are exact:
        self.exact = all(not shares(self.space.view(self.vectors[part], to)).any() for part in parts)
        self._lines = np.empty((len(self._order), self.vectors.shape[1] + 1), dtype=to)
        self.room = np.empty(_TOGETHER, to)

    def view(self, at: Positions) -> View:
        """Some of the rows as products see them."""
        return self.space.view(self.vectors[at], self.type)

    def since(self, before: int) -> tuple[Array, Floats]:
        """The picks from this one on, as lines (p, d + 1): -2 c, and |c|^2 with their share of error; and these shares
        (p,)."""
        if self._seen < self.count:
            part, view = slice(self._seen, self.count), self.view(self._order[self._seen : self.count])
            self._share[part] = shares(view)
            np.multiply(view.x, -2, out=self._lines[part, :-1])
            self._lines[part, -1] = view.squares + self._share[part]
            self._seen = self.count
        return self._lines[before : self.count], self._share[before : self.count]


class Active:
    """Rows at these positions (n,), ascending, with their upper bounds after the first `seen` picks, and the canonical
    distances after the first `known` picks, each (n,). upper is -inf for picks."""

    def __init__(
        self, picks: Made, at: Positions, upper: Floats, seen: Positions, exact: Floats, known: Positions
    ) -> None:
        self.at, self.upper, self.exact, self.known, self._picks = at, upper, exact, known, picks
        self.met, self.spent = picks.count, 0.0  # picks that the bounds account for; operations on single numbers
        view, self._unit = picks.view(at), picks.space.unit
        share = shares(view)
        self._above = view.squares + share
        with np.errstate(invalid="ignore"):
            self._below = np.where(np.isinf(share), -np.inf, view.squares - share)
        self._columns = np.ones((view.x.shape[1] + 1, len(at)), view.x.dtype)
        step = max(1, _TURNED // view.x.shape[1])
        for start in range(0, len(at), step):
            self._columns[:-1, start : start + step] = view.x[start : start + step].T
        self._ones = self._columns.T
        self.usual = 4 * float(np.median(share)) * self._unit if len(at) else 0.0  # how wide bounds are
        late = np.flatnonzero((seen < self.met) & (upper > -np.inf))
        for some in self._alike(late, seen):
            self._lower(some, int(seen[some].min()))

    def __len__(self) -> int:
        return len(self.at)

    @property
    def pair_cost(self) -> float:
        """What a pair of a matrix product costs, in operations on single numbers."""
        return self.double_cost / (1 if self._picks.double else 2)

    @property
    def double_cost(self) -> float:
        """The same in float64."""
        return 2 * (1 + len(self._columns) / 25)

    def refresh(self) -> None:
        """Lower all bounds by the picks that are new."""
        if self.met < self._picks.count:
            self._lower(slice(None), self.met)
            self.met = self._picks.count

    def _distances(self, some: Positions, upper: Singles) -> Floats:
        """The canonical distances of few rows after all picks; upper (n,): bounds of all rows."""
        picks, width = self._picks, len(self._columns) - 1
        missed = picks.count * len(some) - int(self.known[some].sum())
        if missed * width > _ALONE and not picks.exact:
            self.upper[some] = np.minimum(self.upper[some], upper[some].astype(np.float64) * self._unit)
            return self.settle(some)
        for one in some[self.known[some] < picks.count].tolist():
            found = squared_norms(picks.missed(self.known[one]) - self._seen(one)).min()
            self.exact[one], self.known[one] = min(self.exact[one], found), picks.count
        return self.exact[some]

    def _seen(self, one: int) -> Floats:
        """A row as the metric sees it, (1, d)."""
        return self._picks.space.canonical(self._picks.vectors[self.at[one], None])

    def sweep(self, most: int, limit: Key, numbers: Rows) -> list[float]:
        """At most so many picks, one after the other, each with the float32 bounds of all rows up to date, as long as
        they beat the limit and few rows may be the farthest; returns their distances. numbers (n,): of the rows."""
        picks, columns, squared = self._picks, self._columns, list[float]()
        upper, above, new = up(self.upper / self._unit), up(self._above), np.empty(len(self), np.float32)
        while len(squared) < most:
            one, x = self._farthest(upper)
            if one < 0 or not beats((float(self.exact[one]), int(numbers[one])), limit):
                break
            squared.append(float(self.exact[one]))
            picks.add(int(self.at[one]), x[0])
            line = -2 * self._ones[one]
            line[-1] = above[one]
            np.dot(line, columns, out=new)
            np.add(new, above, out=new)
            np.minimum(upper, new, out=upper)
            upper[one] = self.upper[one] = -np.inf
        np.minimum(self.upper, upper.astype(np.float64) * self._unit, out=self.upper)
        self.met = picks.count
        self.spent += len(squared) * len(self) * (len(columns) / 2 + 5)
        return squared

    def _farthest(self, upper: Singles) -> tuple[int, Floats]:
        """The farthest row, the first of several, and it as the metric sees it (1, d); -1 where many may be it by these
        bounds, or where all that are left are copies of centers."""
        one = int(upper.argmax())
        if upper[one] <= 0:
            return -1, np.empty((1, 0))
        value, count = float(self._distances(np.array([one]), upper)[0]), 1
        while True:
            with np.errstate(over="ignore"):
                there = upper >= np.nextafter(np.float32(value / self._unit), np.float32(-np.inf))
            found = int(np.count_nonzero(there))
            if found <= count:
                break
            if found > _OPEN:
                return -1, np.empty((1, 0))
            some, count = np.flatnonzero(there), found
            values = self._distances(some, upper)
            upper[some] = up(values / self._unit)
            one = int(some[values.argmax()])
            value = float(values.max())
        return (one if value > 0 else -1), self._seen(one)

    def _lower(self, some: Positions | slice, before: int) -> None:
        """Lower the bounds of some rows by the picks from this one on."""
        everything = isinstance(some, slice)
        columns = self._columns if everything else self._columns[:, some]
        upper, above = self.upper[some], self._above[some]
        lines, _ = self._picks.since(before)
        for start in range(0, len(lines), _LINES):
            for part, g in self._products(lines[start : start + _LINES], columns):
                low = (g.min(axis=0) + above[part]) * self._unit
                np.minimum(upper[part], low, out=upper[part])
        if not everything:
            self.upper[some] = upper
        self.spent += len(lines) * len(upper) * self.pair_cost

    def _products(self, lines: Array, columns: Array) -> Iterator[tuple[slice, Array]]:
        """Parts of rows, and the products of picks and them, one line per pick; the next ones overwrite them."""
        count, n = len(lines), columns.shape[1]
        size = min(n, max(1, _TOGETHER // count))
        for first in range(0, n, size):
            part = slice(first, min(first + size, n))
            g = self._picks.room[: count * (part.stop - first)].reshape(count, -1)
            yield part, product(lines, columns[:, part], g)

    def settle(self, some: Positions) -> Floats:
        """The canonical distances of some rows after all picks, -inf of picks; they become their bounds, which are up
        to date."""
        now = self._picks.count
        late = some[(self.known[some] < now) & (self.exact[some] > 0)]
        if len(late):
            if self._picks.exact:  # bounds may be wider than these products, but not than what was known before
                self.exact[late], self.known[late] = np.minimum(self.exact[late], self.upper[late]), now
                late = late[:0]
            for part in self._alike(late, self.known):
                self._meet(part, int(self.known[part].min()))
                self.known[part] = now
        value = np.where(self.upper[some] == -np.inf, -np.inf, self.exact[some])
        self.upper[some] = value
        return value

    def _alike(self, some: Positions, since: Positions) -> list[Positions]:
        """Rows in parts, so that each part is compared with not many more picks than its rows have missed."""
        if not len(some):
            return []
        missed = self._picks.count - since[some]
        if len(some) * int(missed.max()) * _PER_PAIR <= 2 * _CALL:
            return [some]
        ages = np.flatnonzero(np.bincount(missed))
        if len(ages) > _AGES:
            missed = np.log2(missed).astype(np.intp)
            ages = np.flatnonzero(np.bincount(missed))
        return [some[missed == one] for one in ages]

    def _meet(self, some: Positions, before: int) -> None:
        """Take the picks from this one on into account in the canonical distances of rows."""
        at, picks = self.at[some], self._picks.at[before:]
        width = len(self._columns) - 1
        if len(at) * len(picks) * width <= _AT_ONCE:
            i, j = (index.ravel() for index in np.indices((len(at), len(picks))))
        else:
            i, j = self._near(some, before)
        self.spent += _CALL + _PER_PAIR * len(at) * len(picks) + _PASSES * len(i) * width
        squared, vectors = self.exact[some], self._picks.vectors
        np.minimum.at(squared, i, self._picks.space.pairs(vectors, vectors, at[i], picks[j]))
        self.exact[some] = squared

    def _near(self, some: Positions, before: int) -> tuple[Positions, Positions]:
        """Pairs of rows and of the picks from this one on that may be nearer than the row's other picks."""
        columns, found = self._columns[:, some], []
        lines, share = self._picks.since(before)
        with np.errstate(invalid="ignore"):
            limit = self.upper[some] / self._unit - self._below[some]
            for start in range(0, len(lines), _LINES):
                shared = 2 * share[start : start + _LINES]
                reach = rounded_up(limit + shared.max(), self._picks.double)
                for part, g in self._products(lines[start : start + _LINES], columns):
                    j, i = nonzero(~(g > reach[part]))
                    near = ~(g[j, i] - shared[j] > limit[part][i])
                    found.append((i[near] + part.start, j[near] + start))
        i, j = (np.concatenate(one) for one in zip(*found, strict=True))
        return i, j


def top_of(upper: Floats, size: int) -> tuple[Positions, int]:
    """The positions of the largest bounds, of equal ones the first, ascending; and where the largest of the others is,
    -1 if there are none."""
    if size >= len(upper):
        return np.arange(len(upper)), -1
    least = np.partition(upper, len(upper) - size)[len(upper) - size]
    at = np.flatnonzero(upper >= least)
    if len(at) > size:
        equal = np.flatnonzero(upper[at] == least)
        at = np.delete(at, equal[size - len(at) :])
    others = upper.copy()
    others[at] = -np.inf
    behind = int(others.argmax())
    return at, behind if others[behind] > -np.inf else -1
