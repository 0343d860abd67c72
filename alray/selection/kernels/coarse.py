"""A first look at squared distances through bfloat16 numbers, much faster where the processor multiplies them.

Rows x and centers c of float32 views are rounded to x' and c', which have 8 bits. How far that moves each of them is
computed. With r = |x - x'| + |c - c'|, and a little more for the rounding of the views themselves,

    | d(x, c) - d(x', c') | <= r.

One product gives v = t - d(x', c')^2 for a number t per row: |x'|^2 - t and |c'|^2 are columns of it, two bfloat16
numbers each. It is summed up in float32 in some order, as AMX, AVX-512 and oneDNN's kernels for them do, and then
rounded to bfloat16:

    | v - (t - d(x', c')^2) | <= 2^-8 |v| + e,
    e = (2.04 (d + 20) u + 2^-15) ((|x'| + |c'|)^2 + t) + tiny,    u = 2^-24.

The squared norms are float32 sums, too: half of the first term of e pays for them. Distances near t are known best; t
is the threshold that they are compared with. The bits of bfloat16 numbers are compared as integers, because that is
several times as fast. Letters: m rows, p centers of a block, w columns of its product, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from alray.features.arrays import Array
from alray.models.device import full_float32
from alray.models.pytorch import bfloat16_possible
from alray.selection.kernels.distance import LARGEST, Space
from alray.selection.kernels.logits import Floats, Positions, U
from alray.selection.kernels.matrices import WIDTH

_NARROW = 64  # centers of a product, or WIDTH: the shapes of products are few, because oneDNN prepares each of them
_TILES = (2048, 512, 128)  # rows of a product
_CACHED = 1 << 17  # numbers that are rounded at once: 512 KB
_COLUMNS = 32  # products are fastest for a multiple of so many columns
_NEVER = 2.0**100  # squared norm of a center that fills a block
_LARGEST = 2.0**62  # thresholds are not larger
_ROUNDING = 2.0**-8  # rounding to bfloat16 changes a number by no larger share
_forced: list[bool] = []


def available() -> bool:
    """Whether this processor multiplies bfloat16 numbers much faster than float32 ones, and PyTorch uses that."""
    if _forced:
        return _forced[-1]
    return _native()


@contextmanager
def forced(use: bool) -> Iterator[None]:
    """Context manager for tests: this process uses bfloat16, or does not, whatever the processor has. Without its
    instructions the products are made from float32 ones."""
    _forced.append(use)
    try:
        yield
    finally:
        _forced.pop()


def _native() -> bool:
    used = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled  # type: ignore[no-untyped-call]
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # without it nobody knows, and the answer is no
    return bool(used and has and has() and bfloat16_possible())


@dataclass(frozen=True, eq=False)
class Block:
    """Centers as columns of products (w, columns); largest: their largest norm; moved: the farthest that rounding moves
    one of them."""

    x: torch.Tensor
    largest: float
    moved: float


class Rounded:
    """Stored rows (m, d) as the space sees them, in bfloat16, with what the bounds need."""

    def __init__(self, space: Space, stored: Array) -> None:
        self._x, self._squares, self._moved = _rounded(space, stored, sum(_tiles(len(stored))))
        self._norm, self._width = np.sqrt(self._squares), stored.shape[1]
        self._x[: len(stored), self._width : self._width + 2] = 1.0
        self._t: float | None = None

    def __len__(self) -> int:
        return len(self._squares)

    @property
    def odd(self) -> npt.NDArray[np.bool_]:
        """Rows (m,) that are out of range, or not finite."""
        return np.isinf(self._moved)

    def keep(self, at: Positions) -> None:
        """Go on with these rows alone."""
        x = self._x.new_empty(sum(_tiles(len(at))), self._x.shape[1])
        torch.index_select(self._x, 0, torch.from_numpy(at), out=x[: len(at)])
        x[len(at) :] = 0.0
        self._x, self._squares, self._norm, self._moved = x, self._squares[at], self._norm[at], self._moved[at]

    def nearest(self, block: Block, least: float) -> tuple[Floats, Floats]:
        """Lower and upper bounds (m,) of the squared distances to the nearest center of a block, which are best near
        the squared distance `least`."""
        t = float(np.clip(least, 0.0, _LARGEST))
        if t != self._t:
            self._compare_with(np.full(len(self), t))
            self._t = t
        top = torch.empty(len(self), dtype=torch.int16)
        for start, v in self._products(block):
            part = top[start : start + len(v)]
            torch.amax(v, dim=1, out=part)
            if bool((part < 0).any()):  # of negative numbers, the integer of the largest one is the lowest
                part.copy_(torch.where(part < 0, v.amin(dim=1), part))
        value = np.asarray(top.view(torch.bfloat16).double().numpy())
        slack, r = _ROUNDING * np.abs(value) + self._error(block, t), self._apart(block)
        lower: Floats = np.maximum(np.sqrt(np.maximum(t - value - slack, 0.0)) - r, 0.0) ** 2
        upper: Floats = (np.sqrt(np.maximum(t - value + slack, 0.0)) + r) ** 2
        return lower, upper

    def near(self, block: Block, most: Floats) -> tuple[Positions, Positions]:
        """Pairs of rows and centers whose squared distance may be at most `most` (m,), positions of both."""
        most = np.where(np.isnan(most), np.inf, most)
        with np.errstate(over="ignore"):
            t = np.minimum((np.sqrt(np.maximum(most, 0.0)) + self._apart(block)) ** 2, _LARGEST)
        t = t + 2 * self._error(block, t)
        self._compare_with(t)
        self._t = None
        parts = [np.flatnonzero(v.numpy() >= 0) + start * len(block.x) for start, v in self._products(block)]
        there = np.concatenate([np.empty(0, np.intp), *parts])
        return there // len(block.x), there % len(block.x)

    def _apart(self, block: Block) -> Floats:
        """How far rounding may change distances, (m,)."""
        return (self._moved + block.moved + 4 * U * (self._norm + block.largest)) * (1 + 2.0**-20)

    def _error(self, block: Block, t: float | Floats) -> Floats:
        share = 2.04 * (self._width + 20) * U + 2.0**-15
        return np.asarray(share * ((self._norm + block.largest) ** 2 + t) + self._width * 2.0**-60)

    def _compare_with(self, t: Floats) -> None:
        self._x[: len(self), self._width + 2 : self._width + 4] = _in_two(self._squares - t)

    def _products(self, block: Block) -> Iterator[tuple[int, torch.Tensor]]:
        """v as integers (s, w), for some rows after the other, with the first of them. The next ones take their place,
        so that they stay in the cache."""
        sizes, start = _tiles(len(self)), 0
        found = self._x.new_empty(max(sizes, default=0), len(block.x))
        for size in sizes:
            part = slice(start, start + size)
            with full_float32():  # products of bfloat16 numbers are summed up in float32
                if _native():
                    torch.mm(self._x[part], block.x.T, out=found[:size])
                else:
                    found[:size] = self._x[part].float() @ block.x.T.float()
            yield start, found[: min(size, len(self) - start)].view(torch.int16)
            start += size


def block_of(space: Space, stored: Array) -> Block:
    """Stored centers (p, d)."""
    x, squares, moved = _rounded(space, stored, _NARROW if len(stored) <= _NARROW else WIDTH)
    p, width = stored.shape
    x *= 2.0
    x[:, width] = -_NEVER
    x[:p, width : width + 2] = -_in_two(squares)
    x[:, width + 2 : width + 4] = -1.0
    return Block(x, float(np.sqrt(squares.max())), float(moved.max()))


def _rounded(space: Space, stored: Array, rows: int) -> tuple[torch.Tensor, Floats, Floats]:
    """Stored rows (m, d) in bfloat16, with room for more rows and columns; their squared norms; how far rounding moved
    them: infinitely far where they are out of range."""
    m, width = stored.shape
    x = torch.empty(rows, -(-(width + 4) // _COLUMNS) * _COLUMNS, dtype=torch.bfloat16)
    x[:, width:], x[m:] = 0.0, 0.0
    squares, moved = np.empty(m), np.empty(m)
    step = max(1, _CACHED // width)
    for start in range(0, m, step):
        part = slice(start, min(start + step, m))
        whole = space.numbers(stored[part])
        x[part, :width] = torch.from_numpy(whole)
        back = x[part, :width].float().numpy()
        with np.errstate(all="ignore"):  # what overflows is not used
            squares[part] = np.einsum("md,md->m", back, back)
            back -= whole
            moved[part] = np.einsum("md,md->m", back, back)
    moved = np.sqrt(moved) * (1 + 1.02 * (width + 8) * U) + width * 2.0**-60
    usable = squares < LARGEST  # false for NaN, too
    if not usable.all():
        x[: len(usable)][torch.from_numpy(~usable)] = 0.0
        squares[~usable], moved[~usable] = 0.0, np.inf
    return x, squares, moved


def _in_two(value: Floats) -> torch.Tensor:
    """Numbers (m,) as sums of two bfloat16 numbers, (m, 2)."""
    whole = torch.from_numpy(value).float()
    first = whole.bfloat16()
    return torch.stack([first, (whole - first.float()).bfloat16()], dim=1)


def _tiles(count: int) -> list[int]:
    """The rows of the products that so many rows take, the last one filled up."""
    found: list[int] = []
    for tile, fill in zip(_TILES, (*_TILES[1:], _TILES[-1]), strict=True):
        whole, left = divmod(count, tile)
        more = int(left > tile - fill)
        found += [tile] * (whole + more)
        count = 0 if more else left
    return found
