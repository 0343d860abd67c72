"""Selection: on shards of features (`select_from`), or on features that users give (`select`, contract C9).

Letters: n rows, k picks, d width of the embedding, c classes.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alray.features.arrays import (
    DISCRIMINATOR,
    EMBEDDING,
    LOGITS,
    PRETEXT_LOSS,
    Array,
    Integers,
    ShardSource,
    narrow_values,
    positions_of,
)
from alray.models.no_gpu import gpu_allowed
from alray.reservation import ANYBODY, Share
from alray.selection.given_head import check_head, read_head
from alray.selection.given_logits import check_logits, check_two_classes
from alray.selection.in_process import usual_shards
from alray.selection.inputs import GivenFeatures, check_values, gather
from alray.selection.kernels.logits import row_width, sent_to_gpu
from alray.selection.own import check_picks, check_strategy
from alray.selection.pending import presumed, with_presumed
from alray.selection.protocol import (
    HEAD,
    HIDDEN_LABELS,
    LABELED,
    Context,
    NotFiniteError,
    Picks,
    SelectionError,
    Strategy,
    WeightAndBias,
)
from alray.selection.registry import build, name_of
from alray.selection.scales import read_scales
from alray.selection.shards import WORKERS, Metered, open_shards, share_of_cpus
from alray.selection.taking_part import Parts, available

_log = logging.getLogger(__name__)
_CLASSES = 1 << 20  # a label beyond it is taken for a mistake
Workers = Literal["process", "ray"]


def select_from(
    sources: Sequence[ShardSource],
    strategy: Strategy,
    budget: int,
    context: Context,
    *,
    workers: Workers = "process",
    num_cpus: float = 1,
    share: Share = ANYBODY,
    use_gpu: bool = False,
    watch: Callable[[int], None] = lambda picks: None,
) -> Picks:
    """Choose `budget` rows from shards of features; the picks do not depend on how the rows are cut into shards.

    workers: "process", threads of this process, or "ray", one actor with num_cpus CPUs per shard.
    share: who asks for the CPUs; use_gpu: whether actors may have GPUs. watch is called from time to time with the
    number of picks so far. Raises SelectionError when the shards hold too few rows or lack what the strategy needs,
    ClusterError if there was no room.
    """
    _check_integer("budget", budget, 1)
    _check_workers(workers)
    if HEAD in strategy.needs and context.head is None:
        raise SelectionError(f"{name_of(strategy)} needs the head's weight and bias, got none")
    if context.head is not None:
        check_head(context.head)
    if PRETEXT_LOSS in strategy.needs and context.pretext is None:
        raise SelectionError(f"{name_of(strategy)} needs the pool's pretext losses, got none")
    strategy.check_round(context.round)
    with open_shards(workers, sources, strategy, context, num_cpus, share, use_gpu) as shards:
        available = sum(shards.sizes())
        _check_available(budget, available)
        strategy.check(budget, available)
        # k-center looks for one pick more, to know its distance.
        metered = Metered(shards, lambda picks: watch(min(picks, budget)))
        picks = check_picks(name_of(strategy), strategy.select(metered, budget, shards.context), budget, sources)
        picks = replace(picks, account={**metered.account(), **picks.account})
    return picks


def select(
    strategy: str | Strategy,
    budget: int,
    *,
    strategy_options: Mapping[str, Any] | None = None,
    embedding: Any = None,
    logits: Any = None,
    head: WeightAndBias | None = None,
    pretext_loss: Any = None,
    discriminator: Any = None,
    embedding_scale: Any = None,
    logits_scale: Any = None,
    labels: Any = None,
    labeled: Sequence[int] | npt.NDArray[Any] | None = (),
    pending: Sequence[int] | npt.NDArray[Any] | None = (),
    exclude: Sequence[int] | npt.NDArray[Any] | None = (),
    subset_labeled: int = 0,
    subset_unlabeled: int = 0,
    round: int = 0,
    seed: int = 0,
    num_shards: int = 0,
    workers: Workers = "process",
    on_rows: Callable[[Integers, bool], None] | None = None,
) -> Picks:
    """Choose `budget` rows from features that were made elsewhere.

    strategy: a name in STRATEGIES, with options by name, or a configured object. embedding (n, d), logits (n, c) of at
    least two classes, pretext_loss (n,), discriminator (n,) (logits of looking labeled), labels (n,): arrays; Arrow
    tables and columns, data frames; paths of .npy, .npz or Parquet; a Ray Dataset. In a table the column has the
    argument's name, or else one of its usual names (`alray.data.sources.columns`), or it is the only one that fits,
    which is logged. embedding_scale, logits_scale: of arrays that are stored as int8 or uint8, whose values are scale *
    stored in float32: a number or one for each column, (d,) or (c,); a path of .npy; None: 1. Such arrays stay as they
    are stored, one byte a number, and a .npy stays in its file. The labels of labeled rows are known to every
    strategy; the other labels are read only by strategies that are marked as peeking. head: (weight (c, d), bias (c,)),
    logits = embedding @ weight.T + bias; used for logits where none are given. A row is its position, unless the
    table, Parquet file or Dataset has a column `row`. labeled, pending, exclude: rows never to pick; None: none.
    pending: rows whose labels are awaited; they are treated as labeled, but their labels are not read, see
    `alray.selection.pending`.
    subset_labeled, subset_unlabeled: see `alray.selection.subset`; 0 and 0: all rows. Only seed and round decide what
    is random; num_shards (0: one per CPU for large pools) and workers ("process" or "ray") never change a pick. To Ray
    actors a .npy file is sent by its path, which every node must reach, and everything else once per shard. on_rows:
    called before any work with all row numbers (n,) ascending, and whether a column has given them; it may raise an
    error.

    Returns Picks: rows (k,) int64 in order of choice, scores (k,) float64, higher is taken first. Raises SelectionError
    before any work when something is missing, has another shape, is not finite, or the budget is not available.
    """
    strategy = _strategy(strategy, strategy_options)
    for name, value, least in (
        ("budget", budget, 1), ("num_shards", num_shards, 0), ("round", round, 0), ("seed", seed, 0),
        ("subset_labeled", subset_labeled, 0), ("subset_unlabeled", subset_unlabeled, 0),
    ):  # fmt: skip
        _check_integer(name, value, least)
    _check_workers(workers)
    given = {
        EMBEDDING: embedding, LOGITS: logits, PRETEXT_LOSS: pretext_loss, DISCRIMINATOR: discriminator,
        HIDDEN_LABELS: labels,
    }  # fmt: skip
    head = None if head is None else read_head(head)
    strategy.check_round(round)
    present = {name: value for name, value in given.items() if value is not None}
    pool = _pool(strategy, strategy.needs_in(round), present, head, {EMBEDDING: embedding_scale, LOGITS: logits_scale})
    if on_rows is not None:
        on_rows(pool.rows, pool.numbered)
    free = available(pool, labeled=labeled, pending=pending, exclude=exclude)
    _check_available(budget, int(np.count_nonzero(free)))
    known, out = pool.positions(labeled), np.setdiff1d(pool.positions(pending), pool.positions(labeled))
    parts = Parts.of(pool, free, known, out).drawn(pool, subset_labeled, subset_unlabeled, budget, seed, round)
    del free
    used = parts.used(PRETEXT_LOSS in pool.columns)
    _check_columns(strategy, pool, used)
    read = LOGITS if LOGITS in pool.columns else EMBEDDING
    num_classes = _check_labels(strategy, pool, used, np.setdiff1d(parts.labeled, out), head)
    context = _knowing(Context(seed, round, num_classes, head), strategy, pool, parts)
    num_shards = num_shards or _usual_shards(strategy, pool, parts, workers)
    sources = pool.shards(positions_of(parts.keep), num_shards)
    del pool, parts, used  # the strategy's work needs none of these numbers per row
    cpus = share_of_cpus(num_shards) if workers == "ray" else 1  # more shards than whole CPUs would wait for ever
    try:
        picks = select_from(sources, strategy, budget, context, workers=workers, num_cpus=cpus, use_gpu=gpu_allowed())
        return _told(strategy, picks)
    except NotFiniteError as error:
        raise SelectionError(error.told(read)) from None


def _told(strategy: Strategy, picks: Picks) -> Picks:
    for remark in strategy.remarks(picks):
        _log.warning("%s", remark)
    return picks


def _usual_shards(strategy: Strategy, pool: GivenFeatures, parts: Parts, workers: Workers) -> int:
    if workers != "process":
        return 1
    rows, width = int(np.count_nonzero(parts.keep)), row_width(pool.columns)
    return usual_shards(rows, width, strategy, sent_to_gpu(pool.columns))


def _check_columns(strategy: Strategy, pool: GivenFeatures, used: Array) -> None:
    """Check the values of the columns that the shards do not check while they read them. Of float64 it is checked
    beforehand in any case that values can be squared."""
    for name, column in pool.columns.items():
        if not (strategy.checks_values and column.dtype in (np.float16, np.float32)):
            check_values(name, pool.rows, column, used)


def _check_integer(name: str, value: Any, least: int) -> None:
    try:
        good = not isinstance(value, (bool, np.bool_)) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise SelectionError(f"{name}: expected an integer of at least {least}, got {value!r}")


def _strategy(strategy: Any, options: Mapping[str, Any] | None) -> Strategy:
    if isinstance(strategy, str):
        return build(strategy, options)
    if options:
        raise SelectionError("strategy_options: expected none beside a configured object")
    return check_strategy(strategy)


def _check_workers(workers: str) -> None:
    if workers not in WORKERS:
        raise SelectionError(f"workers: expected one of {', '.join(WORKERS)}, got {workers!r}")


def _check_available(budget: int, available: int) -> None:
    if not available:
        raise SelectionError("budget: expected rows to choose from; all rows are labeled, pending or excluded")
    if budget > available:
        raise SelectionError(f"budget: expected at most {available:,}, the rows that are available, got {budget:,}")


def _pool(
    strategy: Strategy,
    needs: Set[str],
    given: Mapping[str, Any],
    head: WeightAndBias | None,
    scales: Mapping[str, Any],
) -> GivenFeatures:
    """The given features, read and checked to fit together; only the columns that the strategy reads."""
    if not given:
        raise SelectionError(
            f"give at least one of {EMBEDDING}, {LOGITS}, {PRETEXT_LOSS}: which rows there are is unknown"
        )
    read = read_scales(scales, given)
    _check_needs(strategy, needs, given, head)
    pool = gather(given, read)
    if not len(pool.rows):
        raise SelectionError(f"{', '.join(given)}: expected at least one row, got none")
    for name, axis in ((LOGITS, 0), (EMBEDDING, 1)):
        if head is not None and name in given and pool.columns[name].shape[1] != head[0].shape[axis]:
            raise SelectionError(f"head: weight {head[0].shape} does not fit {name} {pool.columns[name].shape}")
    # Logits are made from the embedding only where none are given.
    names = {EMBEDDING if need == LOGITS and LOGITS not in given else need for need in needs}
    if LOGITS in names:
        check_logits(pool.columns[LOGITS])
    if head is not None and needs & {LOGITS, HEAD}:
        check_two_classes("head", len(head[1]))
    return GivenFeatures(
        pool.rows,
        {name: column for name, column in pool.columns.items() if name in names | {HIDDEN_LABELS}},
        pool.numbered,
    )


def _check_needs(strategy: Strategy, needs: Set[str], given: Mapping[str, Any], head: WeightAndBias | None) -> None:
    name = name_of(strategy)
    for need in sorted(needs):
        if need == HEAD and head is None:
            raise SelectionError(f"{name} needs the head's weight and bias, got none")
        if need == LOGITS and LOGITS not in given and (EMBEDDING not in given or head is None):
            raise SelectionError(f"{name} needs logits, or embedding and head; got {', '.join(given)}")
        if need not in (HEAD, LOGITS, LABELED) and need not in given:
            raise SelectionError(f"{name} needs {need}; got {', '.join(given)}")


def _knowing(context: Context, strategy: Strategy, pool: GivenFeatures, parts: Parts) -> Context:
    """The context with what is known of labeled and pending rows, labels and pretext losses.

    Where the strategy reads the labeled rows' features, the labels are those of the labeled rows that take part;
    otherwise those of all labeled rows. Pending rows are among both.
    """
    if PRETEXT_LOSS in pool.columns:
        context = replace(context, pretext=_losses(pool, parts.whole))
    if LABELED in strategy.needs:
        context = replace(context, labeled=pool.shards(parts.labeled, 1)[0])
    if HIDDEN_LABELS not in pool.columns:
        return context
    labels, places = pool.vector(HIDDEN_LABELS), pool.places
    if strategy.peeks():
        context = replace(context, peek=lambda rows: labels[places(rows)])
    at = parts.labeled if LABELED in strategy.needs else parts.all_labeled
    rows, pending = (pool.rows[places].astype(np.int64) for places in (at, parts.pending))
    classes = presumed(strategy, pending, lambda rows: pool.shards(parts.pending, 1)[0], context)
    return replace(context, known=with_presumed(rows, labels[at], pending, classes))


def _losses(pool: GivenFeatures, whole: npt.NDArray[np.bool_]) -> tuple[Integers, Array]:
    """The rows of the pool and their pretext losses, in few bytes each."""
    losses = pool.vector(PRETEXT_LOSS)
    if whole.all():
        return pool.rows, narrow_values(losses)
    return pool.rows[whole], narrow_values(losses[whole])


def _check_labels(
    strategy: Strategy, pool: GivenFeatures, used: Any, known: Integers, head: WeightAndBias | None
) -> int | None:
    """The number of classes. Raises SelectionError for labels that are no class, among those that the strategy reads:
    the labels of labeled rows, and of all rows where it peeks."""
    classes = pool.columns[LOGITS].shape[1] if LOGITS in pool.columns else None if head is None else len(head[1])
    if HIDDEN_LABELS not in pool.columns:
        return classes
    labels = pool.vector(HIDDEN_LABELS)
    peeks = strategy.peeks()
    at = np.flatnonzero(used) if peeks else known
    most = _CLASSES if classes is None else classes
    bad = (labels[at] < 0) | (labels[at] >= most)
    if bad.any():
        row = at[int(np.argmax(bad))]
        raise SelectionError(f"labels: expected 0 to {most - 1:,}, row {int(pool.rows[row])} has {int(labels[row])}")
    return int(labels[at].max(initial=-1)) + 1 if peeks and classes is None else classes
