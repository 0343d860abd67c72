"""Gradients in float32, and bounds of their canonical squared distances (`alray.selection.kernels.gradients`).

A gradient is u outer h. Here u is a float32 vector of moderate norm times a float64 number `scale`, because where the
model is certain, u is far below float32's range. The filter is the canonical formula with two float32 matrix products;
its error is at most

    2 (gamma_c + gamma_d) (1 + tiny) |g_i| |g_j| + 8 u (|g_i|^2 + |g_j|^2),   gamma_k = 1.01 (k + 8) 2^-24,

of every pair by itself, for any order of summation: norms differ by many powers of ten. If the canonical gradient is
known only up to a distance a (`away`), and v is the squared distance between what is known of both, the true one is
within 2 a sqrt(v) + a^2 of v, and sqrt(v) is at most |g_i| + |g_j|.

To compare the distances of one row with each other, less is needed. All of them hold the same canonical |g_i|^2, and
clipping them at 0 keeps their order; what remains is |g_j|^2 - 2 (u_i.u_j) (h_i.h_j), in which a counts with 2 a |g_j|
alone. So centers where the model is certain, whose |g_j| is tiny, are told apart although a is large beside it. Only
the rounding of canonical sums in float64, of at most 6 2^-53 (|g_i|^2 + |g_j|^2), depends on |g_i|^2 for each pair by
itself. Letters: m rows, p centers, c classes, d width.
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
_SMALLEST_ON_GPU = 2.0**-60  # products with smaller ones may fall below float32's range, where a GPU may return 0
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

    def in_range(self) -> bool:
        """Whether these, made of arrays, may be multiplied with each other on a GPU."""
        return in_range(squares_of(self.h))

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
        low, high = self.differences(centers)
        wide = self._wide_alone()
        low += beside((self.squares - wide)[:, None], low)
        high += beside((self.squares + wide)[:, None], high)
        return low, high

    def differences(self, centers: Rough) -> tuple[Matrix, Matrix]:
        """The same of the distances less the row's own canonical square, before they are clipped at 0: what the
        distances of one row are compared with each other by."""
        low = double(product(self.u, centers.u.T))
        low *= product(self.h, centers.h.T)
        low *= beside(-2 * self.scale[:, None], low)
        low *= beside(centers.scale, low)
        gamma = 1.01 * (self.u.shape[1] + self.h.shape[1] + 16) * U
        known, clear = np.isfinite(self.away), np.isfinite(centers.away)
        away = np.where(known, self.away, 0.0)
        norm, to = (np.sqrt(one.squares * (1 + one.slack)) for one in (self, centers))
        rounded, over = 2.0**-49 * (norm + away) ** 2 + 2 * NEGLIGIBLE, centers._wide()
        rounded[~known], over[~clear] = np.inf, np.inf
        eps = beside(((2.02 * gamma * norm + 2 * away) * (1 + 1e-9))[:, None], low) * beside(to, low)
        eps += beside(rounded[:, None], low)
        high = low + eps
        low -= eps
        low += beside(centers.squares - over, low)
        high += beside(centers.squares + over, low)
        return low, high

    def above(self) -> Floats:
        """Upper bounds of the rows' canonical squares (m,), to be added to upper bounds of `differences`."""
        return np.asarray(self.squares + self._wide_alone())

    def near(self, centers: Rough, most: Floats) -> Near:
        """What the bounds tell of the nearest of the centers, if distances of `most` (m,) or more are of no use."""
        return near(*self.bounds(centers), most)

    def nearest(self, centers: Rough, most: Floats) -> Near:
        """The same in `differences`: which centers may be the nearest of their row, if differences of `most` (m,) or
        more are of no use. It leaves fewer pairs, but says nothing of how near they are."""
        return near(*self.differences(centers), most)

    def _wide_alone(self) -> Floats:
        """What of the error of a distance depends on the row alone, (m,); infinite where nothing is known of it."""
        norm = np.sqrt(self.squares * (1 + self.slack))
        known = np.isfinite(self.away)
        away = np.where(known, self.away, 0.0)
        return np.where(known, self._wide() + (2 * norm + away) * away + 2 * NEGLIGIBLE, np.inf)

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
    """Whether float32 holds embeddings with these squared norms (m,), and on a GPU their products with each other and
    with all that `embeddings` holds."""
    return bool((((squares > _SMALLEST_ON_GPU) & (squares < _LARGEST)) | (squares == 0)).all())


def squares_of(rows: Singles) -> Floats:
    """The squared norms of rows (m, w), (m,), up to the relative error `SUMMED`, unless they underflow."""
    return row_products(rows, rows)
