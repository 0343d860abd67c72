"""Random subsets of the labeled and unlabeled rows, as the BASE paper's code draws them for Core-Set and BADGE.

The option exists to reproduce published runs, and to run `balancing` on large pools; no other strategy needs it.
"""

from __future__ import annotations

import numpy as np

from alray.features.arrays import Rows
from alray.keyed import order
from alray.selection.protocol import SelectionError


def subset(
    labeled: Rows, unlabeled: Rows, subset_labeled: int, subset_unlabeled: int, budget: int, seed: int, round: int
) -> tuple[Rows, Rows]:
    """The labeled and unlabeled rows that take part, each ascending.

    At most subset_labeled labeled rows are drawn, and so many unlabeled ones that both together are subset_labeled +
    subset_unlabeled (or all there are). 0 and 0: all rows. Raises SelectionError where fewer unlabeled rows than the
    budget are drawn.
    """
    if not subset_labeled and not subset_unlabeled:
        return labeled, unlabeled
    if (subset_labeled < 1 and len(labeled)) or subset_unlabeled < 1:
        raise SelectionError(
            "subset: expected subset_labeled and subset_unlabeled of at least 1 (or 0 and 0: all rows), got "
            f"{subset_labeled} and {subset_unlabeled}"
        )
    known = np.sort(order(seed, f"subset/{round}/labeled", labeled)[:subset_labeled])
    size = subset_labeled + subset_unlabeled - len(known)
    pool = np.sort(order(seed, f"subset/{round}/unlabeled", unlabeled)[:size])
    if len(pool) < budget:
        raise SelectionError(f"subset_unlabeled: expected at least the budget of {budget:,} rows, got {len(pool):,}")
    return known, pool
