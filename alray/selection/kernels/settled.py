"""Farthest-first among rows of moderately many columns, by canonical distances of the few rows that count (C4).

The rows with the largest upper bounds form a block. Their distances are settled: canonical, after all picks. Inside the
block every pick updates all distances, as long as the farthest row there beats the bounds of all other rows. Then the
bounds of the active rows are lowered by these picks, and the next block is formed among them; the other rows have
bounds below theirs, and wait (`alray.selection.kernels.active`). How wide bounds are changes how large a block must be,
and no pick. Letters: s rows held, q rows of a block, p picks, d width.
"""

from __future__ import annotations

import numpy as np

from alray.features.arrays import Array
from alray.selection.kernels.active import Active, Made, top_of
from alray.selection.kernels.distance import Space, squared_norms
from alray.selection.kernels.held import Chosen
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.kernels.matrices import device_in_use
from alray.selection.kernels.sure_picks import sure_picks
from alray.selection.protocol import Key, beats

COLUMNS = 64  # at most: every pick in a block costs so many operations per row
_WIDE, _PER_PICK = 4, 8  # times as many where there are so many rows per pick: then the bounds of all rows cost more
_BLOCK, _LEAST = 1 << 12, 64  # numbers of a block at first, and rows
_SHARE, _ACTIVE = 4, 2048  # one row in so many is active at first, and at least so many rows
_FEW, _MANY = 64, 256  # picks after which rows are chosen to be active: more of them, or fewer, are the next time
_POOR, _POOR_WIDTH = 16, 400  # picks, and picks times columns: after a block of fewer, each pick is one pass
_WHILE, _LONGEST = 32, 256  # so many, then more
_COARSE = 1e-2  # bounds that are wider than this share of the largest distance come from float64 products
_LOOK = 8  # picks, before it is looked how many rows of a block may still be picked
_PASSES = 3  # operations per number: a difference, a square, a sum
_TOGETHER = 1024  # rows that are all compared with each other: 8 MB
_OUTSIDE, _CALL = 10, 4e5  # operations per active row that forming a block takes, and besides


def moderate(width: int, rows: int = 0, k: int = 1) -> bool:
    """Whether k picks among rows of this width are made in this way, where the driver holds so many rows."""
    most = COLUMNS * (_WIDE if rows >= _PER_PICK * k else 1)
    return 0 < width <= most and device_in_use() is None


def settled(space: Space, held: Chosen, k: int, rest: Key, centers: Array | None = None) -> Chosen:
    """The picks of `alray.selection.kernels.greedy.greedy`."""
    centers = held.vectors[:0] if centers is None else centers
    search = _Settled(space, held, min(k, len(held.rows)), rest, centers)
    while search.block():
        pass
    at = search.picks.at[len(centers) :]
    return Chosen(search.rows[at], search.vectors[at], np.array(search.squared), search.spent)


class _Settled:
    """The held rows, ascending, and the picks among them as positions, with the squared distances that they had."""

    def __init__(self, space: Space, held: Chosen, k: int, rest: Key, centers: Array) -> None:
        order = slice(None) if (held.rows[1:] > held.rows[:-1]).all() else np.argsort(held.rows)
        self.space, self.rows, self.vectors = space, held.rows[order], held.vectors[order]
        n, m = len(self.rows), len(centers)
        if m:  # they are the first picks, and stand behind all rows
            self.rows = np.append(self.rows, np.full(m, np.iinfo(np.int64).max))
            self.vectors = np.concatenate([self.vectors, centers])
        self._k, self._rest = m + k, rest
        # Of rows that wait: canonical distances after the first `_known` picks, bounds after the first `_seen` picks.
        self._exact = np.append(held.squared[order], np.full(m, -np.inf))
        self._known = np.zeros(len(self.rows), np.int64)
        self._upper, self._seen = self._exact.copy(), self._known.copy()
        self.picks = Made(space, self.vectors, m + k)
        for at, x in enumerate(space.canonical(centers)):
            self.picks.add(n + at, x)
        self.squared: list[float] = []
        self._spent = 0.0  # operations on single numbers, without those of the rows that are active now
        self._size = max(_LEAST, min(_BLOCK // self.vectors.shape[1], _TOGETHER // 4))
        self._fewest = min(_POOR, -(-_POOR_WIDTH // self.vectors.shape[1]))  # a block of fewer picks is poor
        self._poor, self._while = m > 0 and self._fewest > 4, _WHILE
        # Picks are the farthest rows: where distances are known, the others may wait.
        self._wanted, self._then = len(self.rows) if m else max(_ACTIVE, len(self.rows) // _SHARE), 0
        self._careful, self._doubts = 0, 0  # legs that are still careful; how many were after the last doubt
        self._active: Active | None = None
        if k:
            self._activate()

    @property
    def spent(self) -> float:
        """What picking has cost, in operations on single numbers."""
        return self._spent + (self._active.spent if self._active is not None else 0.0)

    def _activate(self) -> None:
        """Keep the rows with the largest bounds up to date from now on."""
        self._deactivate()
        at, behind = top_of(self._upper, self._wanted)
        self._behind = (-np.inf, 0) if behind < 0 else (float(self._upper[behind]), int(self.rows[behind]))
        state = (self._upper[at], self._seen[at], self._exact[at], self._known[at])
        self._active = Active(self.picks, at, *state)

    def _deactivate(self) -> None:
        """Let all rows wait."""
        if self._active is not None:
            rows, at = self._active, self._active.at
            self._upper[at], self._seen[at] = rows.upper, rows.met
            self._exact[at], self._known[at] = rows.exact, rows.known
            self._spent += rows.spent
            found = self.picks.count - self._then
            if found < _FEW:
                self._wanted = min(4 * self._wanted, len(self.rows))
            elif found > _MANY:
                self._wanted = max(_ACTIVE, self._wanted // 2)
            self._active = None
        self._then = self.picks.count

    def _refine(self) -> None:
        """Take bounds from float64 products from now on."""
        self._deactivate()
        self._wanted = max(_ACTIVE, len(self.rows) // _SHARE)
        self.picks.refine()
        # The bounds stay true, and are narrower when they are made anew:
        self._seen = np.minimum(self._seen, self._known)
        self._activate()

    def _fresh(self) -> Active:
        """The active rows, with bounds that account for all picks."""
        assert self._active is not None
        if not self.picks.double and not self._active.usual <= _COARSE * _largest(self._active.upper):
            self._refine()
        self._active.refresh()
        return self._active

    def block(self) -> bool:
        """Pick among the rows with the largest bounds; False when no more rows are picked."""
        if self.picks.count >= self._k:
            return False
        rows = self._fresh()
        if self._poor and not self.picks.double and self._sweep(rows):
            return True
        more = self._size
        while True:
            some, limit = self._block(rows)
            value = rows.settle(some)
            best = int(value.argmax())
            if value[best] > -np.inf and beats((float(value[best]), self._number(rows, some[best])), limit):
                break
            if limit == self._rest:
                return False
            if limit == self._behind:
                self._activate()
                rows = self._fresh()
            else:  # the bounds of other rows are too wide: they are settled, too
                more *= 2
                rows.settle(top_of(rows.upper, more)[0])
        self._pick(rows, some, limit)
        return True

    def _sweep(self, rows: Active) -> bool:
        """Pick one row after the other for a while; whether there was any."""
        limit = self._rest if beats(self._rest, self._behind) else self._behind
        found = rows.sweep(min(self._k - self.picks.count, self._while), limit, self.rows[rows.at])
        self.squared += found
        self._while, self._poor = min(2 * self._while, _LONGEST), False
        return len(found) > 0

    def _number(self, rows: Active, at: int | np.intp) -> int:
        return int(self.rows[rows.at[at]])

    def _block(self, rows: Active) -> tuple[Positions, Key]:
        """The active rows with the largest bounds, and the key that a row of them must beat."""
        some, behind = top_of(rows.upper, self._size)
        limits = [self._rest, self._behind]
        if behind >= 0:
            limits.append((float(rows.upper[behind]), self._number(rows, behind)))
        return some, max(limits, key=lambda key: (key[0], -key[1]))

    def _pick(self, rows: Active, some: Positions, limit: Key) -> None:
        """Pick among these rows, which are settled, as long as the farthest one beats the limit."""
        before, first = rows.spent, self.picks.count
        some = some[(rows.exact[some] >= limit[0]) & (rows.upper[some] > -np.inf)]
        more = True
        while more and len(some):
            value = rows.exact[some]
            more = self._leg(rows, rows.at[some], value, limit)
            rows.exact[some], rows.known[some], rows.upper[some] = value, self.picks.count, value
            some = some[value >= limit[0]]
        self._poor = self.picks.count - first < self._fewest
        if not self._poor:
            self._while = _WHILE
        alone, spent = _OUTSIDE * len(rows) + _CALL, rows.spent - before
        if spent > 2 * alone:  # half the rows cost about half as much for each pick, and a block twice as much
            self._size = max(_LEAST, int(self._size * max(alone / spent, 1 / 8)))
        elif 2 * spent < alone and not self._poor:
            self._size = min(2 * self._size, len(self.rows))
        if self.picks.count - self._then > _MANY:
            self._activate()

    def _leg(self, rows: Active, at: Positions, value: Floats, limit: Key) -> bool:
        """The same with the rows at these positions (q,) and their distances, which are updated. It stops early, and
        returns True, where it is not sure of the next pick, or where many of the rows are below the limit."""
        x, count, width = self.space.canonical(self.vectors[at]), self.picks.count, self.vectors.shape[1]
        if self._careful or len(at) > _TOGETHER:
            self._careful = max(0, self._careful - 1)
            more = self._carefully(x, at, value, limit)
            rows.spent += _PASSES * len(at) * width * float(self.picks.count - count)
            return more
        most, exact = self._k - count, self.picks.exact
        order, squared, sure = sure_picks(self.space, x, value, self.rows[at], limit, most, exact)
        for one in order:
            self.picks.add(int(at[one]), x[one])
        self.squared += squared
        rows.spent += len(at) * (len(at) * rows.double_cost + _PASSES * len(order))
        if not sure:
            self._doubts = 1 if len(order) > _LOOK else min(2 * max(1, self._doubts), _LOOK)
            self._careful = self._doubts
        return not sure

    def _carefully(self, x: Floats, at: Positions, value: Floats, limit: Key) -> bool:
        """The same, with the canonical distances of all rows to every pick."""
        difference, numbers, picks = np.empty_like(x), self.rows[at], self.picks
        for found in range(1, self._k - picks.count + 1):
            best = int(value.argmax())
            largest = float(value[best])
            if largest == -np.inf or not beats((largest, int(numbers[best])), limit):
                return False
            picks.add(int(at[best]), x[best])
            self.squared.append(largest)
            if largest > 0:  # otherwise all that are left are copies of centers
                np.subtract(x, x[best], out=difference)
                np.minimum(value, squared_norms(difference), out=value)
            value[best] = -np.inf
            if not found % _LOOK and 4 * np.count_nonzero(value >= limit[0]) < 3 * len(at):
                return True
        return False


def _largest(upper: Floats) -> float:
    """The largest finite bound; infinite if there is none, as before the first center. Rows beyond the range of float32
    are at infinity until their distance is computed."""
    largest = float(upper.max())
    if largest == np.inf:
        finite = upper[np.isfinite(upper)]
        return float(finite.max()) if len(finite) else largest
    return largest
