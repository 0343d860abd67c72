"""Sums of float32 numbers that round little: few numbers at a time in float32, and these sums in float64.

Letters: m rows, w columns.
"""

from __future__ import annotations

import numpy as np

from alray.selection.kernels.logits import Floats, Singles

TERMS = 256  # numbers per float32 sum


def row_sums(values: Singles, terms: int = TERMS) -> Floats:
    """The sums of rows (m, w), (m,), of at most `terms` numbers each in float32."""
    total, ones = np.zeros(len(values)), np.ones(min(terms, values.shape[1]), np.float32)
    for start in range(0, values.shape[1], terms):
        part = values[:, start : start + terms]
        total += part @ ones[: part.shape[1]]
    return total


def row_products(one: Singles, other: Singles, terms: int = TERMS) -> Floats:
    """The dot products of the rows of two matrices (m, w), (m,), in the same way."""
    total = np.zeros(len(one))
    for start in range(0, one.shape[1], terms):
        part = slice(start, start + terms)
        total += np.einsum("mw,mw->m", one[:, part], other[:, part])
    return total


def roundings(count: int, terms: int = TERMS) -> int:
    """How many times a sum of so many numbers rounds at most, in units of float32."""
    return min(count, terms) + -(-count // terms)
