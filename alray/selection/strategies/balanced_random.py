"""Balanced random: the same number of rows of every class, drawn uniformly inside a class.

It peeks at the labels of unlabeled rows: it is a bound to compare with, not a strategy to use.

Letters: n rows, k picks, c classes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alray.data.splits import water_fill
from alray.features.arrays import Rows, Shard
from alray.keyed import priorities, uniform
from alray.selection.case import Case
from alray.selection.options import with_options
from alray.selection.protocol import HIDDEN_LABELS, Context, Picks, SelectionError, Shards, Strategy


@with_options
class BalancedRandom(Strategy):
    """Peeks at the labels of the whole pool (Emam et al. 2021, their oracle baseline). Score: the hash priority.

    The quotas of the classes are as equal as the pool allows (water-filling); what remains of the budget goes to the
    largest classes, one row each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({HIDDEN_LABELS})

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

    def score_of(self, case: Case) -> float | None:
        """The hash priority of the row."""
        row = np.array([case.row])
        return float(uniform(case.context.seed, f"balanced_random/{case.context.round}", row)[0])

    def reasons(self, case: Case) -> list[str]:
        """Its priority, which counts inside its class."""
        return [
            *super().reasons(case),
            "The score is a hash of the seed, the round and the row. Every class takes its rows with the highest "
            "scores, as many as the other classes where it has enough.",
        ]


class RowsOnly:
    """The state of a shard whose row numbers are all that is needed."""

    def __init__(self, shard: Shard) -> None:
        self._rows = shard.rows()

    def all(self) -> Rows:
        """All rows."""
        return self._rows
