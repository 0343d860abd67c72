"""What is checked of a strategy, which users may have written themselves: its class before any work, and its picks.

A row that was not offered would be labeled twice, or is no image at all. Letters: k picks.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from alray.features.arrays import ShardSource
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.protocol import Picks, SelectionError, Strategy


def check_strategy(strategy: Any) -> Strategy:
    """The object. Raises SelectionError where it is no strategy, or where its class lacks something."""
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        name = strategy.__name__
        raise SelectionError(f"strategy: expected an object, got the class {name}; call it, as in {name}()")
    if not isinstance(strategy, Strategy):
        raise SelectionError(
            f"strategy: expected a name or a configured object of a subclass of alray.Strategy, got {strategy!r}"
        )
    kind = type(strategy)
    if not isinstance(strategy.needs, Set) or not all(isinstance(need, str) for need in strategy.needs):
        raise SelectionError(
            f'{kind.__name__}.needs: expected a set of names, as in frozenset({{"logits"}}), got {strategy.needs!r}'
        )
    if not _is_size(strategy.shard_size):
        raise SelectionError(
            f"{kind.__name__}.shard_size: expected two integers of at least 1, (rows, numbers), got "
            f"{strategy.shard_size!r}"
        )
    if isinstance(strategy, ScoreStrategy) and all(
        getattr(kind, hook) is getattr(ScoreStrategy, hook) for hook in ("score", "scorer", "open", "select")
    ):
        raise SelectionError(
            f"{kind.__name__}: expected a method score(self, block), which gives the scores (m,) of the m rows of a "
            "block, got none"
        )
    return strategy


def _is_size(value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    try:
        return all(not isinstance(part, bool) and operator.index(part) >= 1 for part in value)
    except TypeError:
        return False


def check_picks(name: str, picks: Any, budget: int, sources: Sequence[ShardSource]) -> Picks:
    """The picks of a strategy. Raises SelectionError where they are not `budget` of the rows of these sources, or where
    a score is NaN."""
    if not isinstance(picks, Picks):
        raise SelectionError(f"{name}.select: expected an object of alray.Picks, got {type(picks).__name__}")
    if len(picks) != budget:
        raise SelectionError(f"{name}: expected {budget:,} picks, got {len(picks):,}")
    missing = ~_offered(picks.rows, sources)
    if missing.any():
        raise SelectionError(
            f"{name}: picked row {picks.rows[int(np.argmax(missing))]}, which it could not choose: such a row is not "
            "in the pool, or it is labeled, pending or excluded, or does not take part"
        )
    if np.isnan(picks.scores).any():
        raise SelectionError(f"{name}: row {picks.rows[int(np.argmax(np.isnan(picks.scores)))]} has the score NaN")
    return picks


def _offered(rows: Any, sources: Sequence[ShardSource]) -> Any:
    """Which of these rows (k,) are in a source, (k,) bool. The sources know it, so that no shard is asked."""
    order = np.argsort(rows)
    ascending, found = rows[order], np.zeros(len(rows), bool)
    for source in sources:
        for runs in source.row_parts():
            if len(runs.firsts):
                near = slice(*np.searchsorted(ascending, [int(runs.firsts[0]), runs.last + 1]))
                found[order[near]] |= runs.has(ascending[near])
    return found
