"""The pool: which images can be chosen, and which labels are known (contract C7).

A `Pool` is immutable: `label` returns a new pool or raises an error. It holds one status byte and one int32 label per
catalog row, so 1.28 million rows take 6 MB, and every method is one vectorised pass.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]

ELSEWHERE, UNLABELED, LABELED, HELD_OUT = np.uint8(0), np.uint8(1), np.uint8(2), np.uint8(3)
_STATUS_NAMES = ("not in the pool (test set or left out)", "unlabeled", "already labeled", "held out for validation")


class PoolError(ValueError):
    """Rows or labels that a pool cannot take. The message names the first row and the reason."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The status and the known label of every catalog row.

    status (n,) uint8: one of ELSEWHERE, UNLABELED, LABELED, HELD_OUT per row; known (n,) int32: the label if it is
    known, else -1; num_classes: number c of classes.
    """

    status: npt.NDArray[np.uint8]
    known: Labels
    num_classes: int

    @classmethod
    def of(cls, catalog_size: int, rows: Rows, num_classes: int) -> Pool:
        """A pool of the given catalog rows without any labels. Raises PoolError for rows outside the catalog and for
        repeated rows."""
        status = np.zeros(catalog_size, np.uint8)
        _check_rows(rows, catalog_size)
        status[rows] = UNLABELED
        return cls(status, np.full(catalog_size, -1, np.int32), num_classes)

    def __len__(self) -> int:
        """The number of unlabeled and labeled rows, without the validation set."""
        return int(np.count_nonzero((self.status == UNLABELED) | (self.status == LABELED)))

    @property
    def unlabeled(self) -> Rows:
        """The unlabeled rows, (u,) int64 ascending."""
        return np.flatnonzero(self.status == UNLABELED)

    @property
    def labeled(self) -> Rows:
        """The labeled rows, (l,) int64 ascending."""
        return np.flatnonzero(self.status == LABELED)

    @property
    def held_out(self) -> Rows:
        """The rows of the validation set, (v,) int64 ascending."""
        return np.flatnonzero(self.status == HELD_OUT)

    def labels(self, rows: Rows) -> Labels:
        """The labels of the given rows, (k,) int32. Raises PoolError for a row whose label is not known."""
        labels = self.known[rows]
        if (labels < 0).any():
            raise PoolError(f"row {int(rows[int(np.argmax(labels < 0))])} has no label yet")
        return labels

    def counts(self) -> npt.NDArray[np.int64]:
        """The number of labeled images per class, (c,) int64."""
        return np.bincount(self.known[self.status == LABELED], minlength=self.num_classes).astype(np.int64)

    def label(self, rows: Rows, labels: npt.ArrayLike) -> Pool:
        """A new pool in which the given rows are labeled.

        rows (k,) int64; labels (k,) class numbers. Raises PoolError unless every row is unlabeled, no row is repeated
        and every label is the number of a class.
        """
        return self._with(rows, labels, LABELED)

    def hold_out(self, rows: Rows, labels: npt.ArrayLike) -> Pool:
        """A new pool in which the given rows, with their labels, are the validation set. Raises PoolError as `label`
        does."""
        return self._with(rows, labels, HELD_OUT)

    def correct(self, rows: Rows, labels: npt.ArrayLike) -> Pool:
        """A new pool in which rows that have a label, of the labeled or the validation set, have other labels. Raises
        PoolError as `label` does."""
        rows, given = np.asarray(rows), np.asarray(labels)
        _check_rows(rows, len(self.status))
        self.labels(rows)
        _check_classes(rows, given, self.num_classes)
        known = self.known.copy()
        known[rows] = given
        return dataclasses.replace(self, known=known)

    def remove(self, rows: Rows) -> Pool:
        """A new pool without the given rows, which cannot be used."""
        _check_rows(rows, len(self.status))
        status, known = self.status.copy(), self.known.copy()
        status[rows], known[rows] = ELSEWHERE, -1
        return dataclasses.replace(self, status=status, known=known)

    def with_classes(self, num_classes: int) -> Pool:
        """The same pool with more classes."""
        return dataclasses.replace(self, num_classes=num_classes)

    def _with(self, rows: Rows, labels: npt.ArrayLike, status: np.uint8) -> Pool:
        rows = np.asarray(rows)
        _check_rows(rows, len(self.status))
        given = np.asarray(labels)
        if given.shape != rows.shape:
            raise PoolError(f"expected {len(rows)} labels, one per row, got labels of shape {given.shape}")
        wrong = self.status[rows] != UNLABELED
        if wrong.any():
            first = int(rows[int(np.argmax(wrong))])
            raise PoolError(
                f"{int(wrong.sum())} of {len(rows)} rows cannot be labeled; "
                f"the first, row {first}, is {_STATUS_NAMES[int(self.status[first])]}"
            )
        _check_classes(rows, given, self.num_classes)
        new_status, new_known = self.status.copy(), self.known.copy()
        new_status[rows] = status
        new_known[rows] = given
        return dataclasses.replace(self, status=new_status, known=new_known)


def _check_rows(rows: Rows, catalog_size: int) -> None:
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise PoolError(f"expected rows as a list of integers, got {rows.dtype} of shape {rows.shape}")
    outside = (rows < 0) | (rows >= catalog_size)
    if outside.any():
        raise PoolError(f"row {int(rows[int(np.argmax(outside))])} is not in the catalog of {catalog_size} rows")
    ordered = np.sort(rows)
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        raise PoolError(f"row {int(ordered[1:][int(np.argmax(twice))])} is repeated")


def _check_classes(rows: Rows, labels: npt.NDArray[np.integer], num_classes: int) -> None:
    if labels.size and labels.dtype.kind not in "iu":
        raise PoolError(f"expected class numbers, got labels of type {labels.dtype}")
    unknown = (labels < 0) | (labels >= num_classes)
    if unknown.any():
        at = int(np.argmax(unknown))
        raise PoolError(f"row {int(rows[at])}: expected a label from 0 to {num_classes - 1}, got {labels[at]}")
