"""The logits of a shard's rows: stored, or made from the embedding and the head; fast to filter, exact to decide (C4).

The canonical logit of (row, class) is a float64 number: the stored one, or the float64 dot product of the stored
embedding and the class's weight, summed in an order that depends on d alone, plus the bias. `approximate` gives float32
logits by one matrix product and, per row, a bound on their distance to the canonical ones:

    eps = gamma (|x| max_c |w_c| + max_c |b_c|) + underflow,   gamma = k u / (1 - k u),   u = 2^-24,
    k = (columns per product) + (number of products) + 8

(Higham 2002, section 3.1, for any order of summation inside a product; the 8 pays for rounding the inputs, the bias and
the float64 value; cutting d into products of 256 columns makes the bound of wide embeddings several times tighter).
Letters: m rows of a block, d width of the embedding, c classes, p pairs (position in the block, class).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, LOGITS, Array, Block, Column, Rows, Shard
from alray.models.pytorch import imported_torch
from alray.selection.kernels.matrices import Place
from alray.selection.protocol import Context, NotFiniteError, SelectionError

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]

U = 2.0**-24  # unit roundoff of float32
LIMIT = 2.0**60  # float32 logits beyond it are not used: differences and quotients of smaller ones cannot overflow
_SQUARES = 2.0**118  # if squares have a smaller sum, no number reaches LIMIT
_CHUNK = 1024  # columns per partial sum: fixes the order of summation whatever NumPy's buffers do with long rows
_PRODUCT = 256  # columns per matrix product
_PAIRS = 1 << 18  # numbers per temporary of the canonical kernels: 2 MB
_STORED, _MADE = 1 << 18, 1 << 20  # numbers per float32 block: 1 MB stays in cache, 4 MB makes a good matrix product
_MOST_ROWS = 1 << 17  # of a block
_SHORT = 128  # columns of a short row
DENSE = 16  # from one pair in so many on, logits of whole rows cost less than those of the pairs
_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
_INFINITE = np.int16(0x7C00)  # the bits of a float16's exponent: all are set in infinity and NaN alone
_SIGN_AND_VALUE = np.int32(-0x70000001)  # three of the four copies of the sign are dropped
_BIAS = np.float32(2.0**112)  # exponents count from -127 in float32, and from -15 in float16


@dataclass(frozen=True)
class Approximate:
    """Float32 logits z (m, c) with |z - canonical| <= eps (m,); where `usable` (m,) is false, z and eps say nothing.

    eps is 0 or at least 2 u |z|, so that `float32(z - 3 eps) <= z - 2 eps`.
    """

    z: Singles
    eps: Floats
    usable: npt.NDArray[np.bool_]

    def __getitem__(self, at: slice | Positions) -> Approximate:
        return Approximate(self.z[at], self.eps[at], self.usable[at])


@dataclass(frozen=True, eq=False)
class Logits:
    """Where the logits of a shard come from: its column `logits`, or (weight (c, d), bias (c,)) in float64.

    place: where stored ones are worked on.
    """

    weight: Floats | None = None
    bias: Floats | None = None
    place: Place = field(default_factory=Place)

    def approximate(self, block: Block) -> Approximate:
        """Float32 logits of a block and their error bound."""
        if self.weight is None:
            return _stored(block[LOGITS])
        x = single(block[EMBEDDING])
        if x.shape[1] != self.weight.shape[1]:
            raise SelectionError(f"head: expected weight ({len(self.weight)}, {x.shape[1]}), got {self.weight.shape}")
        with np.errstate(all="ignore"):  # overflow and NaN are recognised by their bound
            z = np.broadcast_to(self._single_bias, (len(x), len(self._single_bias))).copy()
            for start in range(0, x.shape[1], _PRODUCT):
                part = slice(start, start + _PRODUCT)
                z += x[:, part] @ self._single_weight[:, part].T
            width, top = x.shape[1], self._largest_weight
            terms = min(width, _PRODUCT) + -(-width // _PRODUCT) + 8
            gamma = terms * U / (1 - terms * U)
            squares = np.einsum("md,md->m", x, x).astype(np.float64)
            # An upper bound, even where squares underflow:
            norm = np.sqrt(squares * (1 + 2 * (width + 8) * U) + width * 2.0**-124)
            eps = gamma * (norm * top + self._largest_bias) + (width + 8) * 2.0**-122 * (1 + norm) * (1 + top)
            usable = (norm + 1) * (top + 1) + self._largest_bias < LIMIT  # no partial sum overflows; false for NaN
        return Approximate(z, eps, usable)

    def singles(self, block: Block) -> Singles | None:
        """The logits of a block as they are stored, if that is in float32. They may be NaN or infinite."""
        stored = block[LOGITS] if self.weight is None else None
        return None if stored is None or stored.dtype != np.float32 else stored

    def usable(self, block: Block) -> Singles | None:
        """The logits of a block in float32, if they are stored without any loss and all of them are certainly
        usable."""
        return _plain(block[LOGITS]) if self.weight is None else None

    def exact(self, block: Block, at: Positions, classes: Positions) -> Floats:
        """Canonical logits of pairs: positions at (p,), classes (p,) -> (p,). Raises SelectionError naming the row."""
        if self.weight is None:
            values = block[LOGITS][at, classes].astype(np.float64)
        else:
            values = self._made(block[EMBEDDING], at, classes)
        _finite(values, block.rows, at)
        return values

    def exact_rows(self, block: Block) -> Floats:
        """Canonical logits of whole rows, (m, c). Raises SelectionError naming the row."""
        values = double(block[LOGITS]) if self.weight is None else self._made_rows(block[EMBEDDING])
        if not np.isfinite(values).all():
            _finite(values.ravel(), block.rows, np.repeat(np.arange(len(block)), values.shape[1]))
        return values

    def _made(self, x: Array, at: Positions, classes: Positions) -> Floats:
        assert self.weight is not None
        assert self.bias is not None
        if len(at) * DENSE > len(x) * len(self.weight):
            once, back = np.unique(at, return_inverse=True)
            return np.asarray(self._made_rows(x[once])[back, classes])
        values = np.empty(len(at))
        step = max(1, _PAIRS // max(1, x.shape[1]))
        for start in range(0, len(at), step):
            part = slice(start, start + step)
            values[part] = paired_dots(x[at[part]].astype(np.float64), self.weight[classes[part]])
        return values + self.bias[classes]

    def _made_rows(self, x: Array) -> Floats:
        assert self.weight is not None
        assert self.bias is not None
        first, again = distinct(x)
        return np.asarray((dots(x[first].astype(np.float64), self.weight) + self.bias)[again])

    @cached_property
    def _single_weight(self) -> Singles:
        with np.errstate(over="ignore"):
            return np.asarray(self.weight, np.float32)

    @cached_property
    def _single_bias(self) -> Singles:
        with np.errstate(over="ignore"):
            return np.asarray(self.bias, np.float32)

    @cached_property
    def _largest_weight(self) -> float:
        assert self.weight is not None
        with np.errstate(over="ignore"):
            squares = np.einsum("cd,cd->c", self.weight, self.weight).max(initial=0.0)
            return float(np.sqrt(squares * (1 + 1e-9)) + 2.0**-500)

    @cached_property
    def _largest_bias(self) -> float:
        return float(np.abs(np.asarray(self.bias)).max(initial=0.0))


def logits_of(shard: Shard, context: Context) -> Logits:
    """The logits of this shard: stored ones first. Raises SelectionError when there is nothing to make them from."""
    columns = columns_of(shard)
    if LOGITS in columns or not columns:
        return Logits(place=Place(len(shard) * row_width(columns) if sent_to_gpu(columns) else None))
    if EMBEDDING not in columns or context.head is None:
        raise SelectionError(f"expected logits, or embedding and head; got {', '.join(sorted(columns))} and no head")
    weight, bias = (np.ascontiguousarray(part, np.float64) for part in context.head)
    return Logits(weight, bias)


def row_width(columns: Mapping[str, Column]) -> int:
    """How many numbers a row has in all columns together. So many times the rows decides whether a GPU is worth its
    start, for the number of shards and for each of them alike."""
    return sum(column.shape[1] for column in columns.values() if column.ndim == 2)


def sent_to_gpu(columns: Mapping[str, Column]) -> bool:
    """Whether a GPU works on rows of these columns: where logits are stored, and float32 holds all numbers exactly."""
    return LOGITS in columns and all(column.dtype != np.float64 for column in columns.values() if column.ndim == 2)


def columns_of(shard: Shard) -> Mapping[str, Column]:
    """The columns of a shard, by name; none where it has no rows."""
    return shard.segments[0].columns if shard.segments else {}


def needed(shard: Shard, needs: frozenset[str]) -> Shard:
    """The shard with the columns that a strategy reads and no others, so that they are not read from disk."""
    names = {EMBEDDING if name == LOGITS and LOGITS not in columns_of(shard) else name for name in needs}
    return Shard(
        [
            replace(part, columns={name: column for name, column in part.columns.items() if name in names})
            for part in shard.segments
        ]
    )


def block_rows(shard: Shard, context: Context, stored: int = _STORED, place: Place | None = None) -> int:
    """How many rows to work on at once, so that a temporary stays at some megabytes. stored: numbers per block of
    logits that are not made here. place: where they are worked on."""
    widths = [column.shape[1] for column in columns_of(shard).values() if column.ndim == 2]
    classes = context.num_classes or (1 if context.head is None else len(context.head[1]))
    numbers = _MADE if EMBEDDING in columns_of(shard) else stored
    rows = int(np.clip(numbers // max([classes, *widths]), 64, _MOST_ROWS))
    return rows if place is None else max(rows, place.rows(max([classes, *widths])))


def dots(x: Floats, w: Floats) -> Floats:
    """x (m, d), w (c, d) float64 -> all dot products (m, c), each summed in the order of `paired_dots`."""
    total: Floats = np.einsum("md,cd->mc", x[:, :_CHUNK], w[:, :_CHUNK])
    for start in range(_CHUNK, x.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        total += np.einsum("md,cd->mc", x[:, part], w[:, part])
    return total


def paired_dots(x: Floats, w: Floats) -> Floats:
    """x, w (p, d) float64 -> (p,) dot products of their rows, in an order of summation that depends on d alone.

    Not a matrix product: BLAS sums in an order that depends on the shape of the whole.
    """
    total: Floats = np.einsum("pd,pd->p", x[:, :_CHUNK], w[:, :_CHUNK])
    for start in range(_CHUNK, x.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        total += np.einsum("pd,pd->p", x[:, part], w[:, part])
    return total


def distinct(array: Array) -> tuple[Positions, Positions]:
    """The first position of each distinct row of an array (m, w), and for every row which of them equals it, (m,).

    Rows are compared bit by bit. What is computed for each distinct row alone costs little where rows are copies.
    """
    whole = np.ascontiguousarray(array)
    rows = whole.view(np.dtype((np.void, whole.dtype.itemsize * whole.shape[1]))).ravel()
    _, first, again = np.unique(rows, return_index=True, return_inverse=True)
    return first, again


def single(array: Array) -> Singles:
    """A float32 copy or view."""
    if array.dtype == np.float16:
        if all_finite(array):
            return _of_finite_half(array)
        return np.take(_HALF, array.view(np.uint16), mode="clip")  # a table of all values; every index is inside
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def double(array: Array) -> Floats:
    """A float64 copy."""
    return (single(array) if array.dtype == np.float16 else array).astype(np.float64)


def all_finite(half: Array) -> bool:
    """Whether all of these float16 values are finite, told by their bits: five times as fast as `np.isfinite`."""
    bits = np.ascontiguousarray(half).view(np.int16)
    return bool((bits & _INFINITE).max(initial=0) < _INFINITE)


def check_finite(rows: Rows, stored: Array, column: str = "") -> None:
    """Raise NotFiniteError, which names the row, where a number of these rows (m,), stored (m, w), is not finite."""
    if not (all_finite(stored) if stored.dtype == np.float16 else np.isfinite(stored).all()):
        raise NotFiniteError(int(rows[int(np.argmin(np.isfinite(stored).all(axis=1)))]), column)


def _of_finite_half(half: Array) -> Singles:
    """float16 -> float32, exactly. PyTorch takes a sixth of NumPy's time; it is used where it is imported anyway.
    Elsewhere operations on integers take two thirds of NumPy's time."""
    half = np.ascontiguousarray(half)
    if torch := imported_torch():
        single = np.empty(half.shape, np.float32)
        torch.from_numpy(single).copy_(torch.from_numpy(half if half.flags.writeable else half.copy()))
        return single
    wide = half.view(np.int16).astype(np.int32)
    wide <<= np.int32(13)  # the ten bits of the mantissa and the five of the exponent to their places in a float32
    wide &= _SIGN_AND_VALUE
    found = wide.view(np.float32)
    found *= _BIAS
    return found


def nonzero(mask: npt.NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """`np.nonzero` of a C-contiguous matrix with few true entries, ten times as fast."""
    at, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return at, column


def _plain(logits: Array) -> Singles | None:
    """Stored logits in float32, exactly; None where some may not be usable."""
    if logits.dtype == np.float16:
        return _of_finite_half(logits) if all_finite(logits) else None  # all of them are small
    if logits.dtype == np.float32 and logits.flags.c_contiguous:
        flat = logits.reshape(-1)
        with np.errstate(all="ignore"):
            return logits if float(flat @ flat) < _SQUARES else None  # false for NaN, too
    z = single(logits)
    small = logits.dtype != np.float64 and max(z.max(initial=-np.inf), -z.min(initial=np.inf)) < LIMIT
    return z if small else None


def _stored(logits: Array) -> Approximate:
    plain = _plain(logits)
    if plain is not None:
        return Approximate(plain, np.zeros(len(plain)), np.ones(len(plain), bool))
    z = single(logits)
    lines = z.T if z.shape[1] > _SHORT else np.ascontiguousarray(z.T)  # NumPy reduces short rows slowly
    largest = np.maximum(lines.max(axis=0, initial=-np.inf), -lines.min(axis=0, initial=np.inf))
    eps = np.zeros(len(z))
    if logits.dtype == np.float64:
        eps = 2 * U * largest.astype(np.float64) + 2.0**-125
    return Approximate(z, eps, largest < LIMIT)


def _finite(values: Floats, rows: Rows, at: Positions) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise NotFiniteError(int(rows[at[int(np.argmax(bad))]]))
