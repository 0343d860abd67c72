"""Rows of few columns in leaves of a tree, and their canonical distances to the nearest center.

The box around a leaf tells how near a center can be to any of its rows. Where that is no nearer than the rows' centers
are already, the rows are not looked at. Nothing here is estimated: distances are canonical, summed column after column
as in `distance.squared_norms`, and so are the bounds of a box, because rounding never turns the order of differences,
squares and sums around. Letters: n rows, p centers, g leaves of s rows, b branches of so many leaves, d width.
"""

from __future__ import annotations

import numpy as np

from alray.features.arrays import Array
from alray.selection.kernels.logits import Floats, Positions

_SIZE = 32  # rows of a leaf, at least: where there are more rows than that
_WAYS = 8  # leaves of a branch
_MANY = 64  # centers that are met at once: then one is met before the others
_NUMBERS = 1 << 14  # per temporary: they stay in cache


class Leaves:
    """Rows x (n, d), as the metric sees them, with squared distances (n,); infinite where no center is known yet.

    columns (d, g, s), squared (g, s), place (g, s): positions of the rows, ascending in each leaf; n and more where a
    leaf has less than s rows, and -inf is their squared distance.
    """

    def __init__(self, x: Floats, squared: Floats) -> None:
        columns = np.ascontiguousarray(x.T)
        self.place = np.sort(_cut(columns), axis=1)
        there = np.minimum(self.place, len(x) - 1)
        self.columns = columns.take(there, axis=1)
        self.squared = squared[there]
        self.squared[self.place >= len(x)] = -np.inf
        self.top = self.squared.max(axis=1)  # of each leaf
        self.pairs = 0  # rows times centers that were compared
        self._boxes = self.columns.min(axis=2), self.columns.max(axis=2)
        self._ways = _WAYS if len(self) % _WAYS == 0 else 1
        low, high = (box.reshape(len(box), -1, self._ways) for box in self._boxes)
        self._branches = low.min(axis=2), high.max(axis=2)

    def __len__(self) -> int:
        return len(self.top)

    def meet(self, centers: Floats) -> None:
        """Take centers (p, d) into account."""
        size = max(1, _NUMBERS * self._ways // len(self))
        if len(centers) > _MANY or not (self.top < np.inf).all():
            self._meet_near(centers, size)
        top = self.top.reshape(-1, self._ways).max(axis=1)
        for start in range(0, len(centers), size):
            part = centers[start : start + size]
            near = _nearest(*self._branches, part[:, :, None])
            branch, center = np.divmod(np.flatnonzero((near < top).T), len(part))
            step = max(1, _NUMBERS // self._ways)
            for first in range(0, len(branch), step):
                self._look(branch[first : first + step], part[center[first : first + step]])

    def _meet_near(self, centers: Floats, size: int) -> None:
        """Compare the rows of each branch with one center that is near to all of them: then many others are too far."""
        most = np.full(len(self) // self._ways, np.inf)
        best = np.zeros(len(most), np.intp)
        for start in range(0, len(centers), size):
            far = _farthest(*self._branches, centers[start : start + size, :, None])
            nearest = far.argmin(axis=0)
            value = far[nearest, np.arange(len(most))]
            best[value < most] = start + nearest[value < most]
            np.minimum(most, value, out=most)
        self._compare_all(np.arange(len(self)), centers[np.repeat(best, self._ways)].T)

    def _look(self, branch: Positions, centers: Floats) -> None:
        """Compare rows of branches, ascending, with one center each (q, d)."""
        leaf = (branch[:, None] * self._ways + np.arange(self._ways)).ravel()
        center = np.repeat(np.arange(len(branch)), self._ways)
        low, high = (box.take(leaf, axis=1) for box in self._boxes)
        columns = centers.T.take(center, axis=1)
        near = _nearest(low, high, columns)
        there = np.flatnonzero(near < self.top[leaf])
        if len(there):
            there = there[np.argsort(leaf[there], kind="stable")]
            self._compare_all(leaf[there], columns.take(there, axis=1))

    def _compare_all(self, leaf: Positions, centers: Floats) -> None:
        step = max(1, _NUMBERS // self.place.shape[1])
        for start in range(0, len(leaf), step):
            self._compare(leaf[start : start + step], centers[:, start : start + step])

    def _compare(self, leaf: Positions, centers: Floats) -> None:
        """Compare the rows of leaves, ascending, with one center each (d, q)."""
        total: Floats | None = None
        for column, center in zip(self.columns, centers, strict=True):
            difference = column.take(leaf, axis=0)
            difference -= center[:, None]
            total = _add_square(total, difference)
        assert total is not None
        self.pairs += total.size
        first = np.flatnonzero(np.append(True, leaf[1:] != leaf[:-1]))
        if len(first) < len(leaf):
            leaf, total = leaf[first], np.minimum.reduceat(total, first, axis=0)
        np.minimum(total, self.squared[leaf], out=total)
        self.squared[leaf], self.top[leaf] = total, total.max(axis=1)


def _nearest(low: Floats, high: Floats, centers: Floats) -> Floats:
    """How near a row in these boxes can be to centers, squared; columns are the first axis of boxes, and the first or
    second one of centers."""
    total: Floats | None = None
    for j in range(len(low)):
        center = centers[:, j] if centers.ndim == 3 else centers[j]
        inside = center - low[j]
        np.minimum(inside, high[j] - center, out=inside)
        np.minimum(inside, 0.0, out=inside)
        total = _add_square(total, inside)
    assert total is not None
    return total


def _farthest(low: Floats, high: Floats, centers: Floats) -> Floats:
    """How far a row in these boxes can be from centers (p, d, 1), squared."""
    total: Floats | None = None
    for j in range(len(low)):
        total = _add_square(total, np.maximum(centers[:, j] - low[j], high[j] - centers[:, j]))
    assert total is not None
    return total


def _add_square(total: Floats | None, difference: Array) -> Floats:
    difference *= difference
    if total is None:
        return difference
    total += difference
    return total


def _cut(columns: Floats) -> Positions:
    """Positions of n rows, columns (d, n), cut into equal parts again and again where they are spread widest: (g, s).
    Positions from n on stand for rows that are missing; they are where the last row is."""
    n = columns.shape[1]
    ways: list[int] = []
    while n >= 2 * _SIZE * int(np.prod(ways)):
        ways.append(min(_WAYS, 1 << int(np.log2(n / _SIZE / np.prod(ways)))))
    count = int(np.prod(ways))
    place = np.arange(count * -(-n // count)).reshape(1, -1)
    if place.size > n:
        columns = np.concatenate([columns, np.repeat(columns[:, -1:], place.size - n, axis=1)], axis=1)
    for parts in sorted(ways):
        value = columns.take(place, axis=1)
        widest = (value.max(axis=2) - value.min(axis=2)).argmax(axis=0)
        order = _order(value[widest, np.arange(len(place))])
        place = np.take_along_axis(place, order, axis=1).reshape(parts * len(place), -1)
    return place


def _order(value: Floats) -> Positions:
    """The order of each line of values (g, s) in float32, the first of equals first: three times as fast as a stable
    `np.argsort`, because numbers that hold the value and the position are sorted."""
    with np.errstate(over="ignore"):
        bits = value.astype(np.float32).view(np.int32).astype(np.int64)
    bits ^= (bits >> 63) & 0x7FFFFFFF  # of negative numbers, the larger ones come first
    bits = (bits << 32) | np.arange(value.shape[1])
    bits.sort(axis=1)
    return bits & 0xFFFFFFFF
