"""Gradient embeddings by their two factors, never multiplied out: g = (p - onehot(y)) outer h (BADGE, Ash et al. 2020).

With u = p - onehot(y) and |g|^2 = |u|^2 |h|^2,

    |g_i - g_j|^2 = |g_i|^2 + |g_j|^2 - 2 (u_i.u_j) (h_i.h_j).

Canonical is this in float64, clipped at 0, with dot products in an order that depends on the width alone. The filter is
the same with two float32 matrix products; its error is at most

    eps = 2 (gamma_c + gamma_d) (1 + tiny) |g_i| |g_j| + 8 u (|g_i|^2 + |g_j|^2),   gamma_k = 1.01 (k + 8) 2^-24,

of every pair by itself: norms differ by many powers of ten where the model is certain.

Where the model is certain, u is far below float32's range. The filter therefore multiplies each u by a power of two
that brings its norm near 1, and takes the powers back in float64.

Letters: m rows, p centers (or pairs), c classes, d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from alray.features.arrays import EMBEDDING, Array, Block, Rows
from alray.models.device import full_float32
from alray.selection.kernels.logits import Floats, Logits, Positions, U, distinct, paired_dots
from alray.selection.kernels.softmax import UNDERFLOW, exponentials, filtered, sums

_PAIRS = 1 << 18  # numbers per temporary of the canonical kernel: 2 MB
_LARGEST = 2.0**120
_NEGLIGIBLE = 2.0**-900  # smaller squared distances are computed canonically: they are near the end of float64's range


@dataclass(frozen=True, eq=False)
class Gradients:
    """rows (m,), u (m, c) float64, h (m, d) as stored."""

    rows: Rows
    u: Floats
    h: Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: slice | Positions) -> Gradients:
        return Gradients(self.rows[at], self.u[at], self.h[at])

    @cached_property
    def squares(self) -> Floats:
        """|g|^2, (m,) float64."""
        h = self.h.astype(np.float64)
        return np.asarray(paired_dots(self.u, self.u) * paired_dots(h, h), np.float64)

    @cached_property
    def views(self) -> tuple[torch.Tensor, torch.Tensor, Floats]:
        """u times a power of two and h, as float32, and the power to multiply the product by, (m,) float64.

        The norm of the scaled u lies between 1 / (4 sqrt(c)) and 1, or is 0. Rows of h that are out of range are zero,
        see `bounds`.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            h = self.h.astype(np.float32)
        h[~self._usable] = 0
        power = np.frexp(np.abs(self.u).max(axis=1, initial=0.0))[1] + math.ceil(math.log2(max(1, self.u.shape[1])) / 2)
        u = np.ldexp(self.u, -power[:, None]).astype(np.float32)
        return torch.from_numpy(u), torch.from_numpy(np.ascontiguousarray(h)), np.ldexp(1.0, power)

    @cached_property
    def _usable(self) -> Array:
        with np.errstate(over="ignore"):
            h = np.einsum("md,md->m", self.h, self.h, dtype=np.float64)
        return np.asarray(np.isfinite(h) & (h < _LARGEST) & ((h > 1 / _LARGEST) | (h == 0)))

    def distinct(self) -> Gradients:
        """Without copies, in the order of the first of each."""
        both = np.concatenate([self.u.view(np.uint8), np.ascontiguousarray(self.h).view(np.uint8)], axis=1)
        return self[np.sort(distinct(both)[0])]

    def pairs(self, other: Gradients, at: Positions, there: Positions) -> Floats:
        """Canonical squared distances of pairs (p,)."""
        found = np.empty(len(at))
        step = max(1, _PAIRS // max(1, self.u.shape[1] + self.h.shape[1]))
        for start in range(0, len(at), step):
            part = slice(start, start + step)
            i, j = at[part], there[part]
            product = paired_dots(self.u[i], other.u[j])
            product *= paired_dots(self.h[i].astype(np.float64), other.h[j].astype(np.float64))
            found[part] = np.maximum(self.squares[i] + other.squares[j] - 2 * product, 0.0)
        return found

    def bounds(self, centers: Gradients) -> tuple[Floats, Floats]:
        """Filtered squared distances and their errors, each (m, p); infinite error where the filter says nothing."""
        (u, h, power), (cu, ch, cpower) = self.views, centers.views
        with full_float32():
            product = ((u @ cu.T).double() * (h @ ch.T).double()).numpy()
        product *= power[:, None]
        product *= cpower
        both = self.squares[:, None] + centers.squares
        value = both - 2 * product
        gamma = 1.01 * (self.u.shape[1] + self.h.shape[1] + 16) * U
        eps: Floats = np.multiply.outer(2.02 * gamma * np.sqrt(self.squares), np.sqrt(centers.squares))
        eps += (8.2 * U + 2.0**-60) * both + _NEGLIGIBLE
        eps[~self._usable], eps[:, ~centers._usable] = np.inf, np.inf
        eps[~np.isfinite(eps)] = np.inf
        return value, eps


@dataclass(frozen=True)
class Factors:
    """Computes the gradients of a block. pooled: average them to at most this many classes and columns."""

    logits: Logits
    pooled: tuple[int, int] | None = None

    def of(self, block: Block) -> Gradients:
        """The canonical gradients of a block."""
        e, total = exponentials(z := self.logits.exact_rows(block))
        u = e / total[:, None]
        rows, top = np.arange(len(u)), z.argmax(axis=1)
        e[rows, top] = 0.0
        u[rows, top] = -sums(e) / total  # p - 1 without cancellation
        h = block[EMBEDDING]
        if self.pooled:
            # The mean of a rectangle of an outer product is the product of the two means.
            u, h = pooled(u, self.pooled[0]), pooled(h.astype(np.float64), self.pooled[1])
        return Gradients(block.rows, u, h)

    def rough(self, block: Block) -> tuple[Gradients, Floats]:
        """Gradients from float32 logits, and how far each u may be from the canonical one (m,), in the 2-norm.

        The softmax's Jacobian has a norm of at most 1/2; the rest is rounding. Where another class may be the largest,
        u may have its -1 elsewhere; where nothing is known of the logits, nothing is known of u. For a tiny u
        there is a better bound: moving the logits by eps changes each exp, and 1 + R, by a factor of at most
        exp(2 eps), and so u, relatively, by at most exp(4 eps) - 1, up to rounding.
        """
        soft = filtered(self.logits, block)
        c = soft.e.shape[1]
        with np.errstate(all="ignore"):
            second, rest = np.exp(-soft.gap), soft.gaps().rest
            u = soft.e * (second / (1 + rest))[:, None]
            u[np.arange(len(u)), soft.top] = -rest / (1 + rest)
            off = 0.5 * soft.eps * np.sqrt(c) + (4 * c + 1200) * U
            ratio = np.expm1(4 * soft.eps + (4 * c + 1200) * U) * np.sqrt(np.einsum("mc,mc->m", u, u)) * (1 + 1e-9)
            off = np.minimum(off, ratio + c * UNDERFLOW * second)
            off += 1.5 * (second >= np.exp(-2.1 * soft.eps) * (1 - 1000 * U))
        off = np.where(soft.usable, off, np.inf)
        u[~soft.usable] = 0.0
        h = block[EMBEDDING]
        if self.pooled:
            u, h = pooled(u, self.pooled[0]), pooled(h.astype(np.float64), self.pooled[1])
            off = 1.5 * off  # windows overlap by one column at most
        return Gradients(block.rows, u, h), off


def pooled(values: Floats, width: int) -> Floats:
    """Adaptive average pooling of columns (m, w) -> (m, min(width, w)), as torch.nn.functional.adaptive_avg_pool1d."""
    w = values.shape[1]
    if w <= width:
        return values
    edges = [(i * w // width, -(-(i + 1) * w // width)) for i in range(width)]
    return np.stack([values[:, a:b].sum(axis=1) / (b - a) for a, b in edges], axis=1)


def concatenated(parts: Sequence[Gradients]) -> Gradients:
    """Several blocks of gradients as one."""
    return Gradients(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "u", "h")))
