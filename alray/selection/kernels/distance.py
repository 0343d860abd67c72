"""Squared Euclidean distances: one canonical number per pair of rows, and a matrix product that bounds it (C4).

Canonical is the float64 sum over columns of squared float64 differences of the stored values (for the cosine metric: of
the values over their norm), in an order that depends on d alone: few columns are summed one after the other. Everything
fast works on *views*: float32 copies, shifted by the pool's mean and scaled by a power of two. For a row x and a center
c of such views

    g = |c|^2 - 2 x.c  in float32,    | g + |x|^2 - d2(x, c) | <= eps,
    eps = 2 gamma |x| c_max + 8 u (|x| + c_max)^2 + tiny,    gamma = 1.01 (d + 8) u,    u = 2^-24

for any order of summation (Higham 2002, section 3.1); the 8 u pays for |c|^2, the last addition and for rounding the
views themselves. Where norms are so much larger than distances that this says nothing, the same is done in float64.
Where all values are multiples of one step and small enough, products are exact and eps is 0: rows of small integers, or
of float16 far from zero, have many equal distances. Letters: m rows, p centers (or pairs), d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array
from alray.selection.kernels.logits import Floats, Positions, U, distinct, paired_dots, single
from alray.selection.kernels.matrices import Device, Matrix, fetched, joined, sent, taken, twice_less
from alray.selection.protocol import Metric

if TYPE_CHECKING:
    import torch

_PAIRS = 1 << 18  # numbers per temporary of the canonical kernel: 2 MB
COLUMNS = 4  # so few columns are summed one after the other
FEW = 4  # candidates per row that are computed at once; more are filtered in float64 before
LARGEST = 2.0**60  # squared norms of views beyond it are not used: products cannot overflow
_LARGEST_DOUBLE = 2.0**500
_SQUARED = 1 << 13  # rows whose squared norms are computed at once on a device
_FOR_STEP = 64  # rows of the sample that a step is looked for in


@dataclass(frozen=True, eq=False)
class Space:
    """How rows are seen: mean (d,) float64 and exponent of the views; neither changes a canonical distance."""

    metric: Metric
    mean: Floats
    exponent: int = 0
    step: float = 0.0  # the numbers of most views are multiples of it; 0: no such step is known
    fine_step: float = 0.0  # the same for float64 views, whose products are exact for smaller steps, too

    @classmethod
    def around(cls, metric: Metric, sample: Array) -> Space:
        """A space whose views are small numbers for rows like these, sample (s, d)."""
        x = _directions(sample) if metric == "cosine" else np.asarray(sample, np.float64)
        mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        largest = float(np.abs(x - mean).max(initial=0.0))
        exponent = int(np.frexp(largest)[1]) if np.isfinite(largest) and largest > 0 else 0
        exponent = int(np.clip(exponent, -120, 480))
        step = _step(x[:_FOR_STEP]) if metric == "l2" else 0.0
        most = 2 * largest * np.sqrt(x.shape[1])
        if not most <= 2.0**26 * step or not np.abs(mean).max() < 2.0**24 * step:
            return cls(metric, mean, exponent)  # products would round: a step is no use
        seen = step * 2.0**-exponent
        return cls(metric, np.rint(mean / step) * step, exponent, seen if most <= 2.0**12 * step else 0.0, seen)

    @property
    def unit(self) -> float:
        """Squared distances are those of the views times this power of two."""
        return float(2.0 ** (2 * self.exponent))

    def canonical(self, stored: Array) -> Floats:
        """Stored rows (m, d) as the metric sees them, in float64."""
        return _directions(stored) if self.metric == "cosine" else np.asarray(stored, np.float64)

    def numbers(self, stored: Array, dtype: type = np.float32) -> Array:
        """The numbers (m, d) of a view; some may be infinite or NaN."""
        with np.errstate(all="ignore"):
            if self.metric == "l2" and stored.dtype in (np.float16, np.float32) and dtype == np.float32:
                x: Array = single(stored)
                if stored.dtype == np.float16:  # a copy
                    x -= self._single_mean
                else:
                    x = x - self._single_mean
                if self.exponent:
                    x *= np.float32(2.0**-self.exponent)
                return x
            x = (self.canonical(stored) - self._single_mean) * 2.0**-self.exponent
            return x.astype(np.float32) if dtype == np.float32 else x

    def view(self, stored: Array, dtype: type = np.float32) -> View:
        """The view of stored rows (m, d), float32 or float64."""
        x = self.numbers(stored, dtype)
        with np.errstate(all="ignore"):  # what overflows is recognised by its norm
            squares = np.einsum("md,md->m", x, x, dtype=np.float64)
        usable = squares < (LARGEST if dtype == np.float32 else _LARGEST_DOUBLE)  # false for NaN, too
        if not usable.all():
            x[~usable] = 0.0
            squares[~usable] = np.inf
        step = self.step if dtype == np.float32 else self.fine_step
        return View(np.ascontiguousarray(x), squares, self._steps(stored, step))

    def sees_on_device(self, dtype: np.dtype[Any]) -> bool:
        """Whether `view_on_device` takes stored rows of this type."""
        return self.metric == "l2" and dtype in (np.float16, np.float32)

    def view_on_device(self, stored: torch.Tensor) -> View:
        """The float32 view of stored rows (m, d) that are on a device, made there. It has the same bits as `view`;
        squares differ by rounding in float64."""
        whole, step = stored.float(), 0.0
        if self.step:
            multiples = whole * (2.0**-self.exponent / self.step)
            step = self.step if multiples.equal(multiples.round()) else 0.0
        x = whole - sent(self._single_mean, stored.device)
        x *= 2.0**-self.exponent
        squares = squares_on_device(x)
        usable = squares < LARGEST
        if not usable.all():
            x[sent(~usable, x.device)] = 0.0
            squares[~usable] = np.inf
        return View(x, squares, step)

    def _steps(self, stored: Array, step: float) -> float:
        """This step, if the views of all stored numbers are multiples of it, otherwise 0. It looks at what is stored,
        because a view may have been rounded to a multiple."""
        if not step:
            return 0.0
        whole = single(stored) if stored.dtype == np.float16 else stored
        with np.errstate(over="ignore"):
            multiples = whole * whole.dtype.type(2.0**-self.exponent / step)
        return step if np.array_equal(multiples, np.rint(multiples)) else 0.0

    def pairs(self, x: Array, c: Array, at: Positions, center: Positions) -> Floats:
        """Canonical squared distances of pairs of stored rows x[at], c[center] -> (p,) float64."""
        found = np.empty(len(at))
        step = max(1, _PAIRS // max(1, x.shape[1]))
        for start in range(0, len(at), step):
            part = slice(start, start + step)
            difference = self.canonical(x[at[part]]) - self.canonical(c[center[part]])
            found[part] = squared_norms(difference)
        return found

    @cached_property
    def _single_mean(self) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            mean = self.mean.astype(np.float32)
        return np.where(np.isfinite(mean), mean, np.float32(0))


@dataclass(frozen=True, eq=False)
class View:
    """Rows as the filter sees them: x (m, d) float32 or float64; squares (m,) float64, infinite where a row is out of
    range; step: all numbers are multiples of it, 0 where that is not known."""

    x: Matrix
    squares: Floats
    step: float = 0.0

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, at: slice | Positions) -> View:
        return View(taken(self.x, at), self.squares[at], self.step)

    @property
    def double(self) -> bool:
        """Whether the numbers are float64."""
        return bool(self.x.dtype.itemsize == 8)

    @property
    def largest(self) -> float:
        """The largest norm."""
        return float(np.sqrt(self.squares.max(initial=0.0)))

    def to(self, device: Device) -> View:
        """A view that was made of arrays, on a device."""
        return View(sent(self.x, device), self.squares, self.step)


def squared_norms(x: Floats) -> Floats:
    """Of rows (m, d) float64, (m,): few columns are summed one after the other."""
    if x.shape[1] > COLUMNS:
        return paired_dots(x, x)
    total: Floats = np.zeros(len(x))
    for column in x.T:
        total += column * column
    return total


def lengths(stored: Array) -> Floats:
    """Squared norms of stored rows (m, d), (m,)."""
    x = np.asarray(stored, np.float64)
    return paired_dots(x, x)


def squares_on_device(x: torch.Tensor) -> Floats:
    """Squared norms of float32 rows (m, d) that are on a device, (m,): only float64 rounds them."""
    parts = [fetched(x[at : at + _SQUARED].double().square_().sum(dim=1)) for at in range(0, len(x), _SQUARED)]
    return np.concatenate([np.empty(0), *parts])


def bound(squares: Floats, largest: float, width: int) -> Floats:
    """eps (m,) of rows with these squared norms against centers with norms up to `largest`."""
    norm = np.sqrt(squares)
    gamma = 1.01 * (width + 8) * U
    with np.errstate(invalid="ignore"):
        eps: Floats = 2.02 * gamma * norm * largest + 8.2 * U * (norm + largest) ** 2 + width * 2.0**-120
    return np.where(np.isfinite(eps), eps, np.inf)


def error(rows: View, largest: float, step: float) -> Floats:
    """eps (m,) of a view's rows against centers of the same precision, with norms up to `largest` and this step. It
    also pays for adding |x|^2 in the precision of the view."""
    norm, width = np.sqrt(rows.squares), rows.x.shape[1]
    with np.errstate(invalid="ignore"):
        if not rows.double:
            eps = bound(rows.squares, largest, width) + 4 * U * (norm + largest) ** 2
        else:
            eps = 4 * (width + 16) * 2.0**-53 * (norm + largest) ** 2 + width * 2.0**-1000
    eps = np.where(np.isfinite(eps), eps, np.inf)
    if rows.step and step == rows.step:
        digits = 53 if rows.double else 24
        eps[(norm + largest) ** 2 <= 2.0**digits * step**2] = 0.0  # all sums are integers that this precision holds
    return eps


def shares(view: View) -> Floats:
    """Shares (m,) of a view's rows in the error bound of a pair of them: the bound is at most the sum of the two, also
    where |c|^2, with the center's share added to it, is one of the terms of the product.

    Because |x| |c| <= (|x|^2 + |c|^2) / 2 and (|x| + |c|)^2 <= 2 (|x|^2 + |c|^2). Where products of rows of small norm
    are exact, the other row pays for both.
    """
    squares, width = view.squares, view.x.shape[1]
    if not view.double:
        unit, digits = (2.1 * width + 48) * U, 24
    else:
        unit, digits = (10 * width + 160) * 2.0**-53, 53
    share: Floats = unit * squares + width * (2.0**-120 if digits == 24 else 2.0**-1000)
    if view.step:
        share = np.where(squares <= 2.0 ** (digits - 2) * view.step**2, 0.0, 2 * share)
    return share


def products(x: Matrix, centers: View) -> Matrix:
    """g (m, p) in the precision of x; squared distances of views are g + |x|^2 up to `bound`."""
    return twice_less(bias_of(centers), x, centers.x)


def bias_of(centers: View) -> Floats:
    """What `products` adds: |c|^2, (1, p), of those beyond the range the largest that is used."""
    return np.minimum(centers.squares, _LARGEST_DOUBLE if centers.double else LARGEST)[None]


def double_bounds(space: Space, x: Array, centers: Array) -> tuple[Floats, Floats]:
    """Squared distances of stored rows x (m, d) and centers (p, d) by a float64 product: (value - eps, value + eps),
    each (m, p), around the canonical ones.

    The rounding of the product, of the shift by the mean and of the canonical sum itself are each below
    (d + 16) 2^-53 (|x| + |c|)^2 with the norms of the shifted rows.
    """
    rows, others = space.canonical(x) - space.mean, space.canonical(centers) - space.mean
    squares, there = paired_dots(rows, rows), paired_dots(others, others)
    value = squares[:, None] + there - 2 * (rows @ others.T)
    width = x.shape[1]
    eps = 4 * (width + 16) * 2.0**-53 * (np.sqrt(squares)[:, None] + np.sqrt(there)) ** 2 + width * 2.0**-1000
    return value - eps, value + eps


def nearest(space: Space, x: Array, centers: Array) -> Positions:
    """The canonically nearest of stored centers (p, d) for stored rows x (m, d), the first of equals; (m,).

    Copies among the rows and among the centers are compared once.
    """
    first, again = distinct(x)
    kept = np.sort(distinct(centers)[0])
    found: Positions = kept[_nearest(space, x[first], centers[kept])][again]
    return found


def _nearest(space: Space, x: Array, centers: Array) -> Positions:
    view, other = space.view(x), space.view(centers)
    value = products(view.x, other).astype(np.float64)
    eps = bound(view.squares, other.largest, x.shape[1])[:, None]
    with np.errstate(invalid="ignore"):
        near = ~(value - eps > (value + eps).min(axis=1, keepdims=True))
    if np.count_nonzero(near) > FEW * len(x):
        low, high = double_bounds(space, x, centers)
        near = low <= high.min(axis=1, keepdims=True)
    at, center = np.nonzero(near)
    squared = np.full(value.shape, np.inf)
    alone = near.sum(axis=1)[at] == 1
    squared[at[alone], center[alone]] = 0.0  # nobody else can be as near
    squared[at[~alone], center[~alone]] = space.pairs(x, centers, at[~alone], center[~alone])
    return np.asarray(squared.argmin(axis=1))


def join(first: View, second: View) -> View:
    """Rows of both."""
    step = first.step if first.step == second.step else 0.0
    return View(joined([first.x, second.x]), np.concatenate([first.squares, second.squares]), step)


def _step(x: Floats) -> float:
    """The largest power of two of which all of these numbers (m, d) are multiples; 0 if all are 0."""
    mantissa, exponent = np.frexp(x[x != 0])
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.ldexp((whole & -whole).astype(np.float64), exponent - 53)
    return float(lowest.min(initial=np.inf)) if len(lowest) else 0.0


def _directions(x: Array) -> Floats:
    """Rows over their norms, float64; a row of zeros stays zero."""
    rows = np.array(x, np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    rows /= np.where(largest > 0, largest, 1.0)  # no overflow, no underflow in the squares
    norm = np.sqrt(paired_dots(rows, rows))[:, None]
    rows /= np.where(norm > 0, norm, 1.0)
    return rows


def rounded_up(limit: Floats, double: bool) -> Array:
    """Limits (m,) of products in the precision of these, float64 or float32, and never lower; NaN is no limit."""
    limit = np.where(np.isnan(limit), np.inf, limit)
    if double:
        return limit
    with np.errstate(over="ignore"):
        return np.nextafter(limit.astype(np.float32), np.float32(np.inf))
