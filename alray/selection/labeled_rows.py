"""The labeled rows of a selection, which every shard reads: they are gathered once and given to all shards as arrays.

Labeled rows lie all over a feature table. Each shard reads those in the files that it opens for its own rows, so that
no process opens the whole table. Letters: m labeled rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alray.features import arrays
from alray.features.arrays import ArraySource, ShardSource, gathered
from alray.features.table import TableSource
from alray.selection.kernels.logits import needed
from alray.selection.protocol import LABELED, Strategy


def dealt(labeled: ShardSource, sources: Sequence[ShardSource]) -> list[ShardSource]:
    """The labeled rows as one source for each shard: of a feature table, those in the files that the shard opens
    itself, and files that no shard opens in turn. Empty where the rows are not in the files of the shards."""
    if not isinstance(labeled, TableSource):
        return []
    owner: dict[int, int] = {}
    for number, source in enumerate(sources):
        if not isinstance(source, TableSource) or source.uri != labeled.uri:
            return []
        for part, _ in source.parts:
            owner.setdefault(part, number)
    for at, (part, _) in enumerate(labeled.parts):
        owner.setdefault(part, at % len(sources))
    return [
        TableSource(labeled.uri, [one for one in labeled.parts if owner[one[0]] == number], labeled.columns)
        for number in range(len(sources))
    ]


def read(source: ShardSource, strategy: Strategy) -> ArraySource:
    """The rows of a source, read into memory with the columns that the strategy reads."""
    shard = source.open()
    return gathered(needed(shard, strategy.needs) if LABELED in strategy.needs else shard)


def joined(parts: Sequence[ArraySource]) -> ArraySource:
    """All labeled rows, ascending, of the parts that the shards have read."""
    there = [part for part in parts if len(part.rows)] or parts[:1]
    rows = np.concatenate([part.rows for part in there])
    columns = {name: arrays.joined([part.columns[name] for part in there]) for name in there[0].columns}
    if (np.diff(rows) < 0).any():
        order = np.argsort(rows)
        rows, columns = rows[order], {name: column[order] for name, column in columns.items()}
    return ArraySource(rows, columns)
