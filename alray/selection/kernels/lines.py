"""Sums over the classes of float32 logits: one line per class where there are few, because NumPy reduces short rows
slowly, else one per row. Letters: m rows, c classes.
"""

from __future__ import annotations

import numpy as np

from alray.selection.kernels.logits import Floats, Singles
from alray.selection.kernels.room import Room
from alray.selection.kernels.screen import BY_CLASS
from alray.selection.kernels.short_sums import roundings, row_products, row_sums


class Lines:
    """Float32 logits (m, c) with at least two classes: one line per class where there are few, else one per row."""

    def __init__(self, z: Singles, room: Room) -> None:
        self.classes: int = z.shape[1]
        self._by_class = self.classes <= BY_CLASS
        self._z = room.transposed(z) if self._by_class else z

    @property
    def terms(self) -> int:
        """With so many terms the float32 sums round."""
        return roundings(self.classes)

    def sums(self, weighted: bool, gapped: bool) -> tuple[Floats, Floats, Floats]:
        """R, sum exp(z - z_(1)) (z_(1) - z), and z_(1) - z_(2) to u, each (m,); of the last two what is asked for, else
        zeros."""
        return self._sums_by_class(weighted, gapped) if self._by_class else self._sums_by_row(weighted, gapped)

    def _sums_by_class(self, weighted: bool, gapped: bool) -> tuple[Floats, Floats, Floats]:
        below = self._z - self._z.max(axis=0)
        top = below == 0
        more = np.add.reduce(top, axis=0, dtype=np.uint8).astype(np.float64) - 1  # classes that share the largest logit
        np.copyto(below, -np.inf, where=top)
        gap = np.where(more > 0, 0.0, -below.max(axis=0)) if gapped else np.zeros(len(more))
        e = np.exp(below, out=None if weighted else below)
        if not weighted:
            return e.sum(axis=0) + more, np.zeros(len(more)), gap
        np.copyto(below, 0, where=top)
        return e.sum(axis=0) + more, -np.einsum("cm,cm->m", e, below).astype(np.float64), gap

    def _sums_by_row(self, weighted: bool, gapped: bool) -> tuple[Floats, Floats, Floats]:
        rows, top = np.arange(len(self._z)), self._z.argmax(axis=1)
        below = self._z - self._z[rows, top][:, None]
        below[rows, top] = -np.inf
        gap = -below.max(axis=1).astype(np.float64) if gapped else np.zeros(len(rows))
        e = np.exp(below, out=None if weighted else below)
        below[rows, top] = 0
        return row_sums(e), -row_products(e, below) if weighted else np.zeros(len(rows)), gap
