"""Gradient embeddings by their two factors, never multiplied out: g = (p - onehot(y)) outer h (BADGE, Ash et al. 2020).

With u = p - onehot(y) and |g|^2 = |u|^2 |h|^2,

    |g_i - g_j|^2 = |g_i|^2 + |g_j|^2 - 2 (u_i.u_j) (h_i.h_j).

Canonical is this in float64, clipped at 0, with dot products in an order that depends on the width alone. Bounds of it
come from float32 products (`alray.selection.kernels.rough`).

Letters: m rows, p pairs, c classes, d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from alray.features.arrays import EMBEDDING, LOGITS, Array, Block, Rows, cut
from alray.process import processors
from alray.selection.kernels.distance import squares_on_device
from alray.selection.kernels.helpers import helpers
from alray.selection.kernels.logits import Floats, Logits, Positions, U, check_finite, distinct, double, paired_dots
from alray.selection.kernels.matrices import sent
from alray.selection.kernels.rough import SUMMED, Rough, embeddings, in_range, squares_of
from alray.selection.kernels.softmax import UNDERFLOW, Soft, exponentials, filtered, softened_on_device, sums

if TYPE_CHECKING:
    import torch

_PAIRS = 1 << 18  # numbers per temporary of the canonical kernel: 2 MB
_APIECE = 64  # rows whose canonical gradients are worth a thread
_DEEPEST = -1000  # powers of two below it are not taken out of a vector: its gradient counts as 0


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

    def __reduce__(self) -> tuple[Any, ...]:
        return Gradients, (self.rows, self.u, self.h)  # what is computed from them is not sent to shards

    @cached_property
    def squares(self) -> Floats:
        """|g|^2, (m,) float64."""
        h = double(self.h)
        return np.asarray(paired_dots(self.u, self.u) * paired_dots(h, h), np.float64)

    @cached_property
    def rough(self) -> Rough:
        """The same in float32.

        The norm of the scaled u lies between 1 / (4 sqrt(c)) and 1, or is 0.
        """
        h, _, unknown = embeddings(self.h)
        power = np.frexp(np.abs(self.u).max(axis=1, initial=0.0))[1] + math.ceil(math.log2(max(1, self.u.shape[1])) / 2)
        power = np.maximum(power, _DEEPEST)
        u = (self.u * np.ldexp(1.0, -power)[:, None]).astype(np.float32)
        squares = np.where(unknown == 0, self.squares, 0.0)
        return Rough(u, h, np.ldexp(1.0, power), squares, np.zeros(len(h)), unknown)

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
            product *= paired_dots(double(self.h[i]), double(other.h[j]))
            found[part] = np.maximum(self.squares[i] + other.squares[j] - 2 * product, 0.0)
        return found


@dataclass(frozen=True)
class Factors:
    """Computes the gradients of a block. pooled: average them to at most this many classes and columns."""

    logits: Logits
    pooled: tuple[int, int] | None = None

    def of(self, block: Block) -> Gradients:
        """The canonical gradients of a block. Where a GPU is used a shard has the processors for itself, and several
        threads share its rows."""
        threads = min(processors(), len(block) // _APIECE)
        if threads < 2 or self.logits.place.device is None:
            return self._of(block)
        return concatenated(list(helpers().map(self._of, (block.take(part) for part in cut(len(block), threads)))))

    def _of(self, block: Block) -> Gradients:
        check_finite(block.rows, block[EMBEDDING], EMBEDDING)
        e, total = exponentials(z := self.logits.exact_rows(block))
        u = e / total[:, None]
        rows, top = np.arange(len(u)), z.argmax(axis=1)
        e[rows, top] = 0.0
        u[rows, top] = -sums(e) / total  # p - 1 without cancellation
        h = block[EMBEDDING]
        if self.pooled:
            # The mean of a rectangle of an outer product is the product of the two means.
            u, h = pooled(u, self.pooled[0]), pooled(double(h), self.pooled[1])
        return Gradients(block.rows, u, h)

    def rough(self, block: Block) -> Rough:
        """Float32 gradients of a block, from float32 logits.

        How far each u may be from the canonical one, in the 2-norm: the softmax's Jacobian has a norm of at most 1/2;
        the rest is rounding. Where another class may be the largest, u may have its -1 elsewhere; where nothing is
        known of the logits, nothing is known of u. For a tiny u there is a better bound: moving the logits by eps
        changes each exp, and 1 + R, by a factor of at most exp(2 eps), and so u, relatively, by at most
        exp(4 eps) - 1, up to rounding.
        """
        soft = filtered(self.logits, block)
        u = soft.e
        u[np.arange(len(u)), soft.top] = -soft.total  # exact: a float32 number
        u[~soft.usable] = 0.0
        squares = squares_of(u)
        scale, off = _scale_and_error(soft, squares)
        if self.pooled:
            wide = pooled(double(block[EMBEDDING]), self.pooled[1])
            found = Gradients(block.rows, pooled(u.astype(np.float64) * scale[:, None], self.pooled[0]), wide).rough
            norms = np.sqrt(np.einsum("md,md->m", wide, wide) * (1 + 1e-9))
            off = np.where(norms > 0, 1.5 * off, 0.0) * norms  # windows overlap by one column at most
            return replace(found, away=np.maximum(found.away, off))
        h, norms, unknown = embeddings(block[EMBEDDING])
        away = np.maximum(_away(off, norms, unknown), unknown)
        return Rough(u, h, scale, scale**2 * squares * norms, np.full(len(u), 2.1 * SUMMED), away)

    def rough_on_device(self, block: Block, device: torch.device) -> Rough | None:
        """The same on a device; None where it is not made there: of other types, of numbers that are not finite or out
        of range, or averaged."""
        from alray.selection.kernels.resident import float32_holds, singles, usable_logits  # imports torch

        if self.pooled or not float32_holds(block[EMBEDDING]):  # before anything is sent
            return None
        if (z := usable_logits(block[LOGITS], device)) is None:
            return None
        h = singles(block[EMBEDDING], device)
        if h is None or not in_range(norms := squares_on_device(h)):
            return None
        soft = softened_on_device(z)
        u = soft.e.scatter_(1, soft.top[:, None], sent(-soft.total.astype(np.float32), device)[:, None])
        squares = squares_on_device(u)
        scale, off = _scale_and_error(soft, squares)
        away = _away(off, norms, np.zeros(len(norms)))
        return Rough(u, h, scale, scale**2 * squares * norms, np.full(len(norms), 2.1 * SUMMED), away)


def _scale_and_error(soft: Soft, squares: Floats) -> tuple[Floats, Floats]:
    """Of float32 vectors u with these squared norms: their scale, and how far u may be from the canonical one."""
    c = soft.e.shape[1]
    with np.errstate(all="ignore"):
        second = np.exp(-soft.gap)
        scale = np.where(soft.usable, second / (1 + soft.gaps().rest), 0.0)
        norm = scale * np.sqrt(squares) * (1 + SUMMED)
        off = 0.5 * soft.eps * np.sqrt(c) + (4 * c + 1200) * U
        ratio = np.expm1(4 * soft.eps + (4 * c + 1200) * U) * norm * (1 + 1e-9)
        off = np.minimum(off, ratio + c * UNDERFLOW * second)
        off += 1.5 * ((soft.eps > 0) & (second >= np.exp(-2.1 * soft.eps) * (1 - 1000 * U)))
    return scale, np.where(soft.usable, off, np.inf)


def _away(off: Floats, norms: Floats, unknown: Floats) -> Floats:
    """How far gradients may be from the canonical ones, if u may be as far as `off` and h has these squared norms."""
    with np.errstate(invalid="ignore"):
        return np.where(norms > 0, off * np.sqrt(norms * (1 + SUMMED)) * (1 + 1e-9), unknown)


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
