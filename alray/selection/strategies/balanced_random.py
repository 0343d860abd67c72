"""Balanced random: the same number of rows of every class, drawn uniformly inside a class.

It peeks at the labels of unlabeled rows: it is a bound to compare with, not a strategy to use.

Letters: n rows, k picks, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from alray.data.splits import water_fill
from alray.features.arrays import Rows, Shard
from alray.keyed import priorities, uniform
from alray.selection.case import Case
from alray.selection.options import with_options
from alray.selection.protocol import HIDDEN_LABELS, Context, Picks, SelectionError, Shards, Strategy

_PAGE = 1 << 15  # rows that a shard sends at once


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
        peek, stream = context.peek, f"balanced_random/{context.round}"
        labels = [np.asarray(peek(rows), np.int32) for rows in _pages(shards)]
        counts = [np.bincount(part, minlength=context.num_classes or 0) for part in labels]
        quotas = water_fill(_sum(counts), budget)
        held = _Held(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int32))
        for rows, part in zip(_pages(shards), labels, strict=True):
            hashes = priorities(context.seed, stream, rows)
            held = held.with_more(rows, hashes, part).best(quotas)
        at = np.lexsort((held.rows, ~held.hashes))
        return Picks(held.rows[at], uniform(context.seed, stream, held.rows[at]))

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


@dataclass(frozen=True, eq=False)
class _Held:
    """Rows, their hash priorities and their labels."""

    rows: Rows
    hashes: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int32]

    def with_more(self, rows: Rows, hashes: npt.NDArray[np.uint64], labels: npt.NDArray[np.int32]) -> _Held:
        """These and further rows."""
        return _Held(np.append(self.rows, rows), np.append(self.hashes, hashes), np.append(self.labels, labels))

    def best(self, quotas: npt.NDArray[np.int64]) -> _Held:
        """Of every class, at most as many rows as its quota, those with the highest priorities."""
        order = np.lexsort((self.rows, ~self.hashes, self.labels))
        rank = np.arange(len(order)) - np.searchsorted(self.labels[order], self.labels[order])
        at = order[rank < quotas[self.labels[order]]]
        return _Held(self.rows[at], self.hashes[at], self.labels[at])


def _pages(shards: Shards) -> Iterator[Rows]:
    """All rows, some of every shard at a time."""
    number = 0
    while len(rows := np.concatenate(shards.map("page", number))):
        yield rows
        number += 1


def _sum(counts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """The sum of numbers per class, of which some have fewer classes."""
    total = np.zeros(max(map(len, counts)), np.int64)
    for one in counts:
        total[: len(one)] += one
    return total


class RowsOnly:
    """The state of a shard whose row numbers are all that is needed."""

    def __init__(self, shard: Shard) -> None:
        self._rows = shard.rows()

    def page(self, number: int) -> Rows:
        """A page of the rows; empty behind the last."""
        return self._rows[number * _PAGE : (number + 1) * _PAGE]
