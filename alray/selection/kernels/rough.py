"""Gradients in float32, and bounds of their canonical squared distances (`alray.selection.kernels.gradients`).

A gradient is u outer h. Here u is a float32 vector of moderate norm times a float64 number `scale`, because where the
model is certain, u is far below float32's range. The filter is the canonical formula with two float32 matrix products;
its error is at most

    2 (gamma_c + gamma_d) (1 + tiny) |g_i| |g_j| + 8 u (|g_i|^2 + |g_j|^2),   gamma_k = 1.01 (k + 8) 2^-24,

of every pair by itself, for any order of summation: norms differ by many powers of ten. If the canonical gradient is
known only up to a distance a (`away`), and v is the squared distance between what is known of both, the true one is
within 2 a sqrt(v) + a^2 of v, and sqrt(v) is at most |g_i| + |g_j|. Letters: m rows, p centers, c classes, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alray.features.arrays import Array
from alray.selection.kernels.logits import Floats, Positions, Singles, U, nonzero, single
from alray.selection.kernels.matrices import Device, Matrix, beside, double, fetched, lowest, product, sent, taken
from alray.selection.kernels.short_sums import TERMS, row_products

NEGLIGIBLE = 2.0**-900  # smaller squared distances are computed canonically: they are near the end of float64's range
_LARGEST, _SMALLEST = 2.0**120, 2.0**-80  # squared norms of h beyond them are summed in float64
SUMMED = 1.01 * (TERMS + 16) * U  # the relative error of `squares_of`


@dataclass(frozen=True, eq=False)
class Rough:
    """u (m, c) and h (m, d), which may be on a device; scale (m,); squares (m,): |g|^2 up to the relative error `slack`
    (m,); away (m,): how far the canonical gradient may be, infinite where nothing is known of it, and u and h are then
    zero."""

    u: Matrix
    h: Matrix
    scale: Floats
    squares: Floats
    slack: Floats
    away: Floats

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, at: slice | Positions) -> Rough:
        return Rough(*(taken(getattr(self, name), at) for name in _FIELDS))

    def put(self, at: Positions, other: Rough) -> None:
        """Replace the gradients at these positions."""
        for name in _FIELDS:
            mine = getattr(self, name)
            mine[beside(at, mine)] = beside(getattr(other, name), mine)

    def to(self, device: Device) -> Rough:
        """Made of arrays, on a device."""
        return self if device is None else replace(self, u=sent(self.u, device), h=sent(self.h, device))

    def unclear(self) -> Positions:
        """Where so little is known of a gradient that bounds of its distances say next to nothing."""
        return np.flatnonzero(self.away * 64 > np.sqrt(self.squares))

    def bounds(self, centers: Rough) -> tuple[Matrix, Matrix]:
        """Lower and upper bounds of the canonical squared distances (m, p) to centers whose `away` is 0, or infinite;
        on the device where both are.

        The lower bound may be negative; without any knowledge the bounds are infinite.
        """
        low = double(product(self.u, centers.u.T))
        low *= product(self.h, centers.h.T)
        low *= beside(-2 * self.scale[:, None], low)
        low *= beside(centers.scale, low)
        gamma = 1.01 * (self.u.shape[1] + self.h.shape[1] + 16) * U
        known, clear = np.isfinite(self.away), np.isfinite(centers.away)
        away = np.where(known, self.away, 0.0)
        norm, to = (np.sqrt(one.squares * (1 + one.slack)) for one in (self, centers))
        wide, over = self._wide() + (2 * norm + away) * away + 2 * NEGLIGIBLE, centers._wide()
        wide[~known], over[~clear] = np.inf, np.inf
        eps = beside(((2.02 * gamma * norm + 2 * away) * (1 + 1e-9))[:, None], low) * beside(to, low)
        high = low + eps
        low -= eps
        low += beside((self.squares - wide)[:, None], low)
        low += beside(centers.squares - over, low)
        high += beside((self.squares + wide)[:, None], low)
        high += beside(centers.squares + over, low)
        return low, high

    def near(self, centers: Rough, most: Floats) -> Near:
        """What the bounds tell of the nearest of the centers, if distances of `most` (m,) or more are of no use."""
        return near(*self.bounds(centers), most)

    def _wide(self) -> Floats:
        """What rounding and the error of the squares add to the error of a distance."""
        return np.asarray((8.2 * U + 2.0**-60 + self.slack) * self.squares * (1 + 1e-9))


@dataclass(frozen=True, eq=False)
class Near:
    """high (m,): an upper bound of the smallest distance of each row. Pairs (p,) that may have it: the rows `at`,
    ascending, the centers, and their lower bounds."""

    high: Floats
    at: Positions
    center: Positions
    low: Floats


def near(low: Matrix, high: Matrix, most: Floats) -> Near:
    """The same, of bounds (m, p)."""
    most = np.minimum(most, lowest(high, 1))
    reach = low <= beside(most[:, None], low)
    if isinstance(low, np.ndarray):
        at, center = nonzero(reach)
        return Near(most, at, center, low[at, center])
    pairs = reach.nonzero().T.contiguous()  # row by row
    at, center = fetched(pairs)
    return Near(most, at, center, fetched(low[pairs[0], pairs[1]]))


_FIELDS = ("u", "h", "scale", "squares", "slack", "away")


def embeddings(h: Array) -> tuple[Singles, Floats, Floats]:
    """Float32 embeddings (m, d) that may be written to, their squared norms (m,) up to `SUMMED`, and 0 (m,) where
    float32 holds them, infinite elsewhere: there they are made zero."""
    found = single(h)
    if np.shares_memory(found, h):
        found = found.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        squares = squares_of(found)
        odd = np.flatnonzero(~((squares > _SMALLEST) & (squares < _LARGEST)))
        squares[odd] = np.einsum("md,md->m", h[odd], h[odd], dtype=np.float64)
    unknown = np.zeros(len(h))
    out = odd[~((squares[odd] > 1 / _LARGEST) & (squares[odd] < _LARGEST) | (squares[odd] == 0))]
    unknown[out], found[out], squares[out] = np.inf, 0, 0
    return found, squares, unknown


def in_range(squares: Floats) -> bool:
    """Whether float32 holds embeddings with these squared norms (m,), as float64 sums, and products of them."""
    return bool((((squares > 1 / _LARGEST) & (squares < _LARGEST)) | (squares == 0)).all())


def squares_of(rows: Singles) -> Floats:
    """The squared norms of rows (m, w), (m,), up to the relative error `SUMMED`, unless they underflow."""
    return row_products(rows, rows)
