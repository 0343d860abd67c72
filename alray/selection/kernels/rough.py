"""Gradients in float32, and bounds of their canonical squared distances (`alray.selection.kernels.gradients`).

A gradient is u outer h. Here u is a float32 vector of moderate norm times a float64 number `scale`, because where the
model is certain, u is far below float32's range. The filter is the canonical formula with two float32 matrix products;
its error is at most

    2 (gamma_c + gamma_d) (1 + tiny) |g_i| |g_j| + 8 u (|g_i|^2 + |g_j|^2),   gamma_k = 1.01 (k + 8) 2^-24,

of every pair by itself: norms differ by many powers of ten. If the canonical gradient is known only up to a distance a
(`away`), and v is the squared distance between what is known of both, the true one is within 2 a sqrt(v) + a^2 of v,
and sqrt(v) is at most |g_i| + |g_j|. Letters: m rows, p centers, c classes, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alray.features.arrays import Array
from alray.selection.kernels.logits import Floats, Positions, Singles, U, single
from alray.selection.kernels.matrices import product
from alray.selection.kernels.short_sums import TERMS, row_products

NEGLIGIBLE = 2.0**-900  # smaller squared distances are computed canonically: they are near the end of float64's range
_LARGEST, _SMALLEST = 2.0**120, 2.0**-80  # squared norms of h beyond them are summed in float64
SUMMED = 1.01 * (TERMS + 16) * U  # the relative error of `squares_of`


@dataclass(frozen=True, eq=False)
class Rough:
    """u (m, c) and h (m, d); scale (m,); squares (m,): |g|^2 up to the relative error `slack` (m,); away (m,): how far
    the canonical gradient may be, infinite where nothing is known of it, and u and h are then zero."""

    u: Singles
    h: Singles
    scale: Floats
    squares: Floats
    slack: Floats
    away: Floats

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, at: slice | Array) -> Rough:
        return Rough(*(getattr(self, name)[at] for name in _FIELDS))

    def put(self, at: Positions, other: Rough) -> None:
        """Replace the gradients at these positions."""
        for name in _FIELDS:
            getattr(self, name)[at] = getattr(other, name)

    def unclear(self) -> Positions:
        """Where so little is known of a gradient that bounds of its distances say next to nothing."""
        return np.flatnonzero(self.away * 64 > np.sqrt(self.squares))

    def bounds(self, centers: Rough) -> tuple[Floats, Floats]:
        """Lower and upper bounds of the canonical squared distances (m, p) to centers whose `away` is 0, or infinite.

        The lower bound may be negative; without any knowledge the bounds are infinite.
        """
        low: Floats = product(self.u, centers.u.T).astype(np.float64)
        low *= product(self.h, centers.h.T)
        low *= -2 * self.scale[:, None]
        low *= centers.scale
        gamma = 1.01 * (self.u.shape[1] + self.h.shape[1] + 16) * U
        known, clear = np.isfinite(self.away), np.isfinite(centers.away)
        away = np.where(known, self.away, 0.0)
        norm, to = (np.sqrt(one.squares * (1 + one.slack)) for one in (self, centers))
        wide, over = self._wide() + (2 * norm + away) * away + 2 * NEGLIGIBLE, centers._wide()
        wide[~known], over[~clear] = np.inf, np.inf
        eps: Floats = np.multiply.outer((2.02 * gamma * norm + 2 * away) * (1 + 1e-9), to)
        high = low + eps
        low -= eps
        low += (self.squares - wide)[:, None]
        low += centers.squares - over
        high += (self.squares + wide)[:, None]
        high += centers.squares + over
        return low, high

    def _wide(self) -> Floats:
        """What rounding and the error of the squares add to the error of a distance."""
        return np.asarray((8.2 * U + 2.0**-60 + self.slack) * self.squares * (1 + 1e-9))


_FIELDS = ("u", "h", "scale", "squares", "slack", "away")


def joined(parts: Sequence[Rough]) -> Rough:
    """Several as one."""
    return Rough(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


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


def squares_of(rows: Singles) -> Floats:
    """The squared norms of rows (m, w), (m,), up to the relative error `SUMMED`, unless they underflow."""
    return row_products(rows, rows)
