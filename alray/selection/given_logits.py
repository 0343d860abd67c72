"""Logits that users give: what is refused, and what is told, because it would choose rows by something else in silence.

Letters: n rows, c classes.
"""

from __future__ import annotations

import logging

import numpy as np

from alray.features.arrays import LOGITS, Array, Column, floating
from alray.selection.protocol import SelectionError

_LOOKED_AT = 1000  # rows at most
_SUM = 0.02  # float16 probabilities of many classes differ from the sum 1 by so much at most
_log = logging.getLogger(__name__)


def check_logits(logits: Column) -> None:
    """Raises SelectionError for logits (n, 1), whose rows are all equally certain. Warns where they look like
    probabilities: a softmax of these has another order of rows."""
    check_two_classes(LOGITS, logits.shape[1])
    if look_like_probabilities(floating(logits[:_LOOKED_AT])):
        _log.warning(
            "%s: each of the first %s rows has numbers from 0 to 1 with the sum 1, as probabilities have, and alray "
            "takes the softmax of them once more. If they are probabilities p, give their logarithms, "
            "np.log(np.maximum(p, 1e-30, dtype=np.float32)).",
            LOGITS, f"{min(len(logits), _LOOKED_AT):,}",
        )  # fmt: skip


def check_two_classes(name: str, classes: int) -> None:
    """Raises SelectionError where there is one class alone."""
    if classes == 1:
        raise SelectionError(
            f"{name}: expected at least 2 classes, got 1; where a network gives one number z for two classes, its "
            "logits are two columns: 0 and z"
        )


def look_like_probabilities(rows: Array) -> bool:
    """Whether all rows (n, c) are distributions, and at least one is not a single 1 among zeros, as labels are."""
    if not len(rows):
        return False
    values = rows.astype(np.float64)
    with np.errstate(invalid="ignore"):  # rows with infinity are refused where they are read
        inside = bool(((values >= 0) & (values <= 1)).all())
    return inside and bool((np.abs(values.sum(axis=1) - 1) <= _SUM).all() and (values.max(axis=1) < 1).any())
