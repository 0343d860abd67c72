"""Sums of float32 numbers that round little: few numbers at a time in float32, and these sums in float64.

Letters: m rows, w columns.
"""

from __future__ import annotations

import numpy as np

from alray.selection.kernels.logits import Floats, Singles

TERMS = 256  # numbers per float32 sum


def row_sums(values: Singles) -> Floats:
    """The sums of rows (m, w), (m,), of at most `TERMS` numbers each in float32."""
    return _added([_summed(part) for part in _cut(values)])


def row_products(one: Singles, other: Singles) -> Floats:
    """The dot products of the rows of two matrices (m, w), (m,), in the same way."""
    both = zip(_cut(one), _cut(other), strict=True)
    return _added([np.einsum("mkw,mkw->mk", mine, others) for mine, others in both])


def roundings(count: int) -> int:
    """How many times a sum of so many numbers rounds at most, in units of float32."""
    return min(count, TERMS) + -(-count // TERMS)


def _cut(values: Singles) -> list[Singles]:
    """Views (m, k, at most `TERMS`) of the columns of a matrix (m, w): equal parts, a shorter last one if needed."""
    width = values.shape[1]
    each = -(-width // max(1, -(-width // TERMS))) or 1
    whole = width // each
    parts = [values[:, : whole * each].reshape(len(values), whole, each)]
    return parts if whole * each == width else [*parts, values[:, None, whole * each :]]


def _summed(part: Singles) -> Singles:
    """The sums over the last axis (m, k, w), by one product where the memory of all of it is contiguous."""
    rows, count, width = part.shape
    if part.flags.c_contiguous:
        return np.asarray(part.reshape(rows * count, width) @ np.ones(width, np.float32)).reshape(rows, count)
    return np.asarray(np.einsum("mkw->mk", part))


def _added(sums: list[Singles]) -> Floats:
    """Sums (m, k) of parts, added up in float64, (m,)."""
    parts = [part.astype(np.float64) for part in sums]
    return np.asarray(sum(part[:, 0] if part.shape[1] == 1 else part @ np.ones(part.shape[1]) for part in parts))
