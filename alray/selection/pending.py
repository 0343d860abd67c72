"""Rows that are pending: they were given out for labeling, and their labels are awaited (`alray select --pending`,
`labels.overlap`).

A pending row is never picked, and it is treated as labeled as far as that needs no label. What a strategy gets of it is
decided by what the strategy needs:

| a strategy that reads | gets of a pending row | strategies |
|---|---|---|
| "labeled" | its features, among those of labeled rows | k_center, robust_k_center, partitioned_*, badge, balancing |
| `Context.known` | its `presumed` class, among the labels | base with quota fill, balancing |
| "pretext_loss" | its loss: the batches are made of the whole pool | pt4al |
| "discriminator" | in a run, the networks learn it as a labeled image | vaal |
| none of these | nothing: scores do not depend on labeled rows | random, margin, mase, cluster_margin, k_means, ... |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alray.data.pool import Labels
from alray.features.arrays import LOGITS, Rows, ShardSource
from alray.selection.kernels.logits import block_rows, logits_of, needed
from alray.selection.protocol import Context, Strategy


def presumed(strategy: Strategy, rows: Rows, features: Callable[[Rows], ShardSource], context: Context) -> Labels:
    """The class as which a strategy counts each pending row, (p,) int32.

    rows (p,) ascending; features: opens the features of rows; context: with round, head and peek. A strategy that peeks
    gets the label; one that reads logits gets the class with the highest logit, the first of equal ones; others get -1,
    no class.
    """
    if context.peek is not None and len(rows):
        return np.asarray(context.peek(rows), np.int32)
    if LOGITS not in strategy.needs_in(context.round) or not len(rows):
        return np.full(len(rows), -1, np.int32)
    shard = needed(features(rows).open(), frozenset({LOGITS}))
    logits = logits_of(shard, context)
    best = [logits.exact_rows(block).argmax(axis=1) for block in shard.blocks(block_rows(shard, context))]
    return np.concatenate(best).astype(np.int32)


def with_presumed(rows: Rows, labels: npt.ArrayLike, pending: Rows, classes: Labels) -> Labels:
    """`Context.known`: the labels (m,) of rows (m,), in which pending rows (p,) ascending have these classes (p,)."""
    known, awaited = np.array(labels, np.int32), np.isin(rows, pending)
    known[awaited] = classes[np.searchsorted(pending, rows[awaited])]
    return known
