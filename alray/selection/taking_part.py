"""Which of the given rows take part in `alray.select`, as one byte per row and the positions of the few labeled ones.

Letters: n rows, m labeled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array, Integers, Rows, positions_of
from alray.selection.inputs import GivenFeatures
from alray.selection.kernels.ranks import among
from alray.selection.protocol import SelectionError
from alray.selection.subset import subset
from alray.selection.tables import refuse_masked

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Parts:
    """keep (n,) bool: the rows to choose from; whole (n,) bool: the whole pool, of which PT4AL's batches are made; and
    ascending positions: labeled, of the labeled and pending rows that take part, all_labeled, of all of them, and
    pending."""

    keep: Mask
    whole: Mask
    labeled: Rows
    all_labeled: Rows
    pending: Rows

    @classmethod
    def of(cls, pool: GivenFeatures, keep: Mask, labeled: Rows, pending: Rows) -> Parts:
        """All rows take part. keep (n,) bool: the rows that may be picked; labeled, pending: ascending positions."""
        covered, whole = np.union1d(pending, labeled), keep.copy()
        whole[covered] = True
        return cls(keep, whole, covered, covered, pending)

    def drawn(self, pool: GivenFeatures, subset_labeled: int, subset_unlabeled: int, *draw: int) -> Parts:
        """What a subset leaves of them. draw: the budget, the seed and the round."""
        if not subset_labeled and not subset_unlabeled:
            return self
        known, free = (pool.rows[at].astype(np.int64) for at in (self.labeled, positions_of(self.keep)))
        labeled, unlabeled = subset(known, free, subset_labeled, subset_unlabeled, *draw)
        keep = np.zeros(len(self.keep), bool)
        keep[pool.places(unlabeled)] = True
        return replace(self, keep=keep, labeled=pool.places(labeled))

    def used(self, whole: bool) -> Mask:
        """The rows (n,) whose numbers are read. whole: those of the whole pool are."""
        used = self.whole.copy() if whole else self.keep.copy()
        used[self.labeled] = used[self.pending] = True
        return used


def _other(given: Array) -> str:
    """What was given instead of row numbers."""
    if given.dtype == bool:
        return f"a mask of shape {given.shape}; np.flatnonzero gives its row numbers"
    if given.ndim == 0 and (given.dtype.kind in "US" or hasattr(given.item(), "__fspath__")):
        return f"{given.item()!r}; only the command `alray select` reads rows from files"
    if given.ndim == 0 and isinstance(given.item(), set | frozenset):
        return "a set; sorted(...) makes a list of it"
    return f"{given.dtype} of shape {given.shape}"


def available(pool: GivenFeatures, **taken: Any) -> Mask:
    """The rows (n,) that may be picked. taken: the rows that may not, by the argument's name."""
    keep = np.ones(len(pool.rows), bool)
    for name, given in taken.items():
        if given is None:
            continue
        refuse_masked(name, given)
        try:
            wanted = np.asarray(given)
        except ValueError as error:
            raise SelectionError(f"{name}: expected row numbers (k,), got something else ({error})") from None
        if wanted.size == 0:
            continue
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise SelectionError(f"{name}: expected row numbers (k,), got {_other(wanted)}")
        once, times = np.unique(wanted, return_counts=True)
        if len(once) != len(wanted):
            mask = "; of a mask give np.flatnonzero(mask)" if len(wanted) == len(pool.rows) and once.max() == 1 else ""
            raise SelectionError(
                f"{name}: expected every row once, got {len(wanted) - len(once):,} repetitions, as of row "
                f"{once[np.argmax(times > 1)]}{mask}"
            )
        _check_there(name, wanted, pool)
        keep[pool.positions(wanted)] = False
    return keep


def _check_there(name: str, wanted: Integers, pool: GivenFeatures) -> None:
    ordered, rows = np.sort(wanted), pool.rows
    there = among(ordered, rows) if pool.numbered else (ordered >= 0) & (ordered < len(rows))
    if not there.all():
        missing = ordered[~there]
        row, last = int(wanted[np.isin(wanted, missing)][0]), int(rows.max(initial=-1))
        raise SelectionError(f"{name}: row {row} is not among the {len(rows):,} rows up to {last}")
