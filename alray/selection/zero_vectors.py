"""Zero vectors under the cosine metric. They have no direction: their distance is 1 to every other vector and 0 to each
other, so k-center takes one of them late and k-means gives them to any centroid. That is said, with their number."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from alray.features.arrays import EMBEDDING, Shard
from alray.selection.protocol import Metric, Picks

COUNTER = "zero_vectors"
_BLOCK = 1 << 12  # rows looked at together

State = TypeVar("State")


def counted(state: State, shard: Shard, metric: Metric) -> State:
    """The state of a shard, which from now on counts its zero vectors if the metric is cosine. That reads all rows
    once."""
    if metric == "cosine":
        zeros = sum(int(np.count_nonzero(~block[EMBEDDING].any(axis=1))) for block in shard.blocks(_BLOCK))
        holder: Any = state
        holder.counters = {**getattr(state, "counters", {}), COUNTER: zeros}
    return state


def remarks(name: str, picks: Picks) -> list[str]:
    """A sentence on the zero vectors among the rows that a strategy chose from."""
    count = picks.account.get(COUNTER, 0)
    if not count:
        return []
    rows = "1 row is a zero vector, which has" if count == 1 else f"{count:,} rows are zero vectors, which have"
    return [
        f"{name}: metric cosine: {rows} no direction: the distance is 1 to every other row and 0 to another zero "
        "vector. They may be images that could not be embedded; --exclude leaves rows out"
    ]
