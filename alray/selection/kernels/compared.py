"""Rows that are compared with centers block by block, in the cheapest precision that can tell their distances.

It is bfloat16 where `alray.selection.kernels.coarse` is of use, then float32, then float64.

Letters: m rows, p centers of a block, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array
from alray.selection.kernels.centers import Centers
from alray.selection.kernels.distance import Space, View, bias_of, error, rounded_up
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.kernels.matrices import Matrix, fetched, lowest, sent, twice_less_parts

if TYPE_CHECKING:
    from alray.selection.kernels.coarse import Rounded

_SHARE = 0.75  # for bfloat16, in which a product takes no longer than copying its rows
_TOO_WIDE = 0.05  # an error bound that is a larger share of the distances tells too little


@dataclass(frozen=True, eq=False)
class Nearest:
    """Bounds (m,) of the squared distances of rows to the nearest center of a block."""

    lower: Floats
    upper: Floats

    def vague(self, before: Floats, least: float) -> bool:
        """Whether the bounds of most rows are too wide to tell whether these centers are nearer than `before` (m,), or
        nearer than `least`; both squared."""
        with np.errstate(invalid="ignore"):
            wide = self.upper - self.lower
            if wide.max(initial=0.0) <= 2 * _TOO_WIDE * least:  # false for NaN
                return False
            known = wide <= 2 * _TOO_WIDE * np.maximum((self.lower + self.upper) / 2, least)
            known &= np.isfinite(self.upper)
        undecided = ~(self.lower > before) & ~(self.upper < least) & ~known
        return bool(2 * np.count_nonzero(undecided) > len(before))


class Compared:
    """Views of stored rows (m, d): float32 at first, float64 after `refine`. stored: gives the rows as stored.
    coarse: it compares in bfloat16 at first, float32 after `refine`, float64 after the next one, and needs no view."""

    def __init__(
        self,
        space: Space,
        centers: Centers,
        stored: Callable[[], Array],
        view: View | None = None,
        coarse: bool = False,
    ) -> None:
        self._space, self._centers, self._stored = space, centers, stored
        self._kept: Positions | None = None  # of the stored rows; None: all of them
        self._rounded = _rounded(space, stored()) if coarse else None
        self._seen = view if view or coarse else self._view_of_stored()

    @property
    def _view(self) -> View:
        assert self._seen is not None
        return self._seen

    def _view_of_stored(self, dtype: type = np.float32) -> View:
        stored = self._stored() if self._kept is None else self._stored()[self._kept]
        return self._space.view(stored, dtype).to(self._centers.device)

    @property
    def coarse(self) -> bool:
        """Whether it compares in bfloat16."""
        return self._rounded is not None

    @property
    def double(self) -> bool:
        """Whether it compares in float64."""
        return self._seen is not None and self._seen.double

    def refine(self) -> bool:
        """Compare more precisely from now on; False where it compares in float64 already."""
        if self.double:
            return False
        self._seen = self._view_of_stored(np.float32 if self.coarse else np.float64)
        self._rounded = None
        return True

    @property
    def odd(self) -> npt.NDArray[np.bool_]:
        """Rows (m,) that are out of range, or not finite."""
        return np.isinf(self._view.squares) if self._rounded is None else self._rounded.odd

    @property
    def share(self) -> float:
        """Where less than this share of the rows is of interest, it is cheaper to go on without the others."""
        return _SHARE if self.coarse else 1.0

    def keep(self, at: Positions) -> None:
        """Go on with these rows alone."""
        self._kept = at if self._kept is None else self._kept[at]
        if self._rounded is not None:
            self._rounded.keep(at)
        else:
            self._seen = self._view[at]

    def nearest(self, start: int, end: int, least: float) -> Nearest:
        """What is known of the nearest of the centers start:end; bfloat16 tells distances near the squared distance
        `least` best."""
        if self._rounded is not None:
            return Nearest(*self._rounded.nearest(self._centers.rounded(start, end), least))
        centers, eps = self._block(start, end)
        squared = self._view.squares.copy()
        for part, g in twice_less_parts(bias_of(centers), self._view.x, centers.x):
            squared[part] += lowest(g, 1)
        with np.errstate(invalid="ignore"):
            lower, upper = squared - eps, squared + eps
        lower[np.isinf(eps)], upper[np.isinf(eps)] = -np.inf, np.inf
        return Nearest(lower, upper)

    def candidates(self, most: Floats, start: int, end: int) -> tuple[Positions, Positions]:
        """Pairs of rows and of the centers start:end whose squared distance may be the row's smallest and at most
        `most` (m,)."""
        if self._rounded is not None:
            return self._rounded.near(self._centers.rounded(start, end), most)
        centers, eps = self._block(start, end)
        squares, found = self._view.squares, [np.empty(0, np.intp)]
        for part, g in twice_less_parts(bias_of(centers), self._view.x, centers.x):
            with np.errstate(invalid="ignore"):
                nearest_here = lowest(g, 1) + squares[part] + eps[part]
                limit = np.fmin(most[part], nearest_here) + eps[part] - squares[part]
            reach = rounded_up(limit, self.double)[:, None]
            there = fetched(g <= (reach if isinstance(g, np.ndarray) else sent(reach, g.device)))
            found.append(np.flatnonzero(there) + part.start * (end - start))
        i, j = np.divmod(np.concatenate(found), end - start)
        return i, j

    def two_nearest(self, at: Positions, start: int, end: int) -> tuple[Positions, Floats]:
        """Of some rows, which of the centers start:end may be the nearest, by its position among them, and lower bounds
        of the squared distances to the others; not in bfloat16."""
        view = self._view[at]
        centers, eps = self._block(start, end)
        center, others = np.empty(len(at), np.intp), view.squares - eps[at]
        for part, g in twice_less_parts(bias_of(centers), view.x, centers.x):
            center[part], second = two_nearest(g)
            others[part] += second
        return center, others

    def _block(self, start: int, end: int) -> tuple[View, Floats]:
        """The centers start:end, and eps (m,) of the rows' squared distances to them."""
        centers = self._centers.double(start, end) if self.double else self._centers.view[start:end]
        return centers, error(self._view, self._centers.largest_of(start, end), centers.step)


def two_nearest(g: Matrix) -> tuple[Positions, Floats]:
    """Of each line of g (m, p), where its smallest number is, and the second smallest; g is changed."""
    if isinstance(g, np.ndarray):
        at = g.argmin(axis=1)
        g[np.arange(len(g)), at] = np.inf
        return at, lowest(g, 1).astype(np.float64)
    first = g.argmin(dim=1)
    g.scatter_(1, first[:, None], np.inf)
    return fetched(first), lowest(g, 1).astype(np.float64)


def _rounded(space: Space, stored: Array) -> Rounded:
    from alray.selection.kernels.coarse import Rounded  # imports torch

    return Rounded(space, stored)


def copies_of(at: Positions, squared: Floats, take: Callable[[Positions], Array]) -> Positions:
    """For each row the index of the lowest row with the same bits, (m,).

    at (m,): positions of the rows, ascending; squared (m,): their canonical distances, which copies share; take: gives
    the stored vectors of positions. Rows at distance 0 count as no copies.
    """
    first = np.arange(len(at))
    order = np.argsort(squared)  # equal ones in any order
    same = np.flatnonzero((squared[order][1:] == squared[order][:-1]) & (squared[order][1:] > 0))
    if not len(same):
        return first
    among = np.zeros(len(at), bool)
    among[order[same]] = among[order[same + 1]] = True
    tied = np.flatnonzero(among)
    words = _words(take(at[tied]))
    digest = _digest(words)
    by = np.lexsort((digest, squared[tied]))  # stable: the lowest row first
    equal = digest[by][1:] == digest[by][:-1]
    there = np.flatnonzero(equal)
    equal[there] = (words[by[there]] == words[by[there + 1]]).all(axis=1)
    begins = np.maximum.accumulate(np.where(np.append(True, ~equal), np.arange(len(by)), 0))
    first[tied[by]] = tied[by[begins]]
    return first


def first_of_copies(rows: Array) -> Positions:
    """The positions of those of stored rows (m, d) that are no copies of rows before them, ascending."""
    digest = _digest(_words(rows))
    order = np.argsort(digest)
    same = np.flatnonzero(digest[order][1:] == digest[order][:-1])
    alone = np.ones(len(rows), bool)
    alone[order[same]] = alone[order[same + 1]] = False
    tied = np.flatnonzero(~alone)
    lowest = copies_of(tied, np.ones(len(tied)), lambda at: rows[at])
    alone[tied[lowest == np.arange(len(tied))]] = True
    return np.flatnonzero(alone)


def _words(rows: Array) -> Array:
    rows = np.ascontiguousarray(rows)
    return rows.view(np.uint32 if rows.dtype.itemsize % 4 == 0 else np.uint16)


def _digest(words: Array) -> npt.NDArray[np.uint64]:
    """A number for each row (m, w): different rows have different ones, nearly always."""
    factors = np.random.default_rng(0).integers(1, 1 << 62, words.shape[1]).astype(np.uint64)
    found = np.empty(len(words), np.uint64)
    for start in range(0, len(words), 1024):
        found[start : start + 1024] = words[start : start + 1024].astype(np.uint64) @ factors
    return found
