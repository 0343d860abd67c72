"""Balanced random: the same number of every class, uniformly inside a class. It peeks: a bound, not a strategy to use.

Letters: n rows, k picks, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alray.data.splits import water_fill
from alray.features.arrays import Rows, Shard
from alray.keyed import priorities, uniform
from alray.selection.protocol import LABELS, Context, Picks, SelectionError, Shards


@dataclass(frozen=True)
class BalancedRandom:
    """Peeks at the labels of the whole pool (Emam et al. 2021, their oracle baseline). Score: the hash priority.

    Quotas by water-filling: as equal as the pool allows; what remains goes to the largest classes, one each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LABELS})

    def open(self, shard: Shard, context: Context) -> RowsOnly:
        """The shard-side state."""
        return RowsOnly(shard)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, by priority."""
        if context.peek is None:
            raise SelectionError("balanced_random peeks at labels: it needs an oracle, got none")
        rows = np.concatenate(shards.map("all"))
        labels = np.asarray(context.peek(rows))
        quotas = water_fill(np.bincount(labels, minlength=context.num_classes or 0), budget)
        stream = f"balanced_random/{context.round}"
        hashes = priorities(context.seed, stream, rows)
        order = np.lexsort((rows, ~hashes, labels))
        rank = np.arange(len(rows)) - np.searchsorted(labels[order], labels[order])
        at = order[rank < quotas[labels[order]]]
        at = at[np.lexsort((rows[at], ~hashes[at]))]
        return Picks(rows[at], uniform(context.seed, stream, rows[at]))


class RowsOnly:
    """The state of a shard of which only the row numbers count."""

    def __init__(self, shard: Shard) -> None:
        self._rows = shard.rows()

    def all(self) -> Rows:
        """All rows."""
        return self._rows
