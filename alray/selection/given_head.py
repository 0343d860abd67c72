"""The linear layer that users give to `alray.select`. Letters: d width of the embedding, c classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from alray.selection.protocol import SelectionError, WeightAndBias
from alray.selection.tables import refuse_masked


def read_head(head: Any) -> WeightAndBias:
    """(weight (c, d), bias (c,)), of whatever NumPy can read. Raises SelectionError."""
    if not isinstance(head, (tuple, list)) or len(head) != 2:
        raise SelectionError(f"head: expected (weight, bias), got {type(head).__name__}")
    for name, part in zip(("weight", "bias"), head, strict=True):
        refuse_masked(f"head: {name}", part)
    return check_head((np.asarray(head[0]), np.asarray(head[1])))


def check_head(head: WeightAndBias) -> WeightAndBias:
    """The head. Raises SelectionError where its parts do not fit together, or are not finite."""
    weight, bias = head
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not weight.size:
        raise SelectionError(f"head: expected weight (c, d) and bias (c,), got shapes {weight.shape} and {bias.shape}")
    for name, part in (("weight", weight), ("bias", bias)):
        if part.dtype.kind not in "iuf" or not np.isfinite(part).all():
            raise SelectionError(
                f"head: expected finite numbers in the {name}, got {part.dtype} with NaN, infinity or others"
            )
    return weight, bias
