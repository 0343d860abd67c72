"""The answer of a shard of a k-center that is asked for its farthest rows. Letters: s rows that it sends, d width."""

from __future__ import annotations

from dataclasses import dataclass

from alray.features.arrays import Array, Rows
from alray.selection.kernels.logits import Floats
from alray.selection.protocol import Key


@dataclass(frozen=True, eq=False)
class Far:
    """What a shard sends: rows (s,), their stored vectors (s, d), their canonical squared distances (s,), and the key
    (upper bound of the squared distance, row) of the farthest row that it does not send."""

    rows: Rows
    vectors: Array
    squared: Floats
    rest: Key
