"""What chooses a run's seed set, and what a person should know of it before the run.

A seed set that is drawn at random is a split (`alray.data.splits`); the others are round 0 of PT4AL, or k-means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alray.config import RunConfig
from alray.selection.protocol import SelectionError, Strategy
from alray.selection.registry import build, build_for_segmentation
from alray.selection.strategies.k_means import KMeans
from alray.selection.strategies.pt4al import Pt4al

_MANY = 5_000  # centroids: beyond it k-means on one thread takes hours


def strategy_of(config: RunConfig) -> Strategy:
    """The strategy that the configuration names. Raises SelectionError."""
    return _build(config, config.strategy, config.strategy_options)


def cold_start(config: RunConfig, strategy: Strategy) -> Strategy | None:
    """What chooses the seed set, or None where it is drawn at random.

    It is the run's own strategy (with its options) where that is PT4AL, or k-means; split.seed_set_options go over
    them. Raises SelectionError for options that are not known.
    """
    how, options = config.split.seed_set_how, config.split.seed_set_options
    try:
        if how == "pretext":
            return _with(strategy, options) if isinstance(strategy, Pt4al) else _build(config, "pt4al", options)
        if how == "k_means":
            return _with(strategy, options) if isinstance(strategy, KMeans) else _build(config, "k_means", options)
    except SelectionError as error:
        raise SelectionError(f"split.seed_set_options: {error}") from None
    if options:
        raise SelectionError(
            f"split.seed_set_options: expected none for split.seed_set_how={how}, got {', '.join(options)}; pretext "
            "and k_means have some"
        )
    return None


def check_pool(strategy: Strategy, start: Strategy | None, pool: int) -> None:
    """Raises SelectionError where the pool (rows but the held-out ones) cannot be cut into as many batches."""
    for kind in (strategy, start):
        if isinstance(kind, Pt4al):
            kind.check_pool(pool)


def notes(config: RunConfig, strategy: Strategy, start: Strategy | None, pool: int) -> list[str]:
    """What is allowed but may not be meant."""
    found = []
    if isinstance(start, KMeans) and config.split.seed_set_size > _MANY:
        found.append(
            f"k_means: {config.split.seed_set_size:,} centroids are found by one thread (with more, picks could depend "
            "on their number): expect hours"
        )
    if isinstance(start, Pt4al):
        found += _beyond("the seed set", config.split.seed_set_size, start, pool)
    if isinstance(strategy, Pt4al) and config.rounds > 1:
        found += _beyond("the budget", config.budget, strategy, pool)
        found += _first_rounds(config, strategy, start)
    return found


def _first_rounds(config: RunConfig, strategy: Pt4al, start: Strategy | None) -> list[str]:
    if not isinstance(start, Pt4al):
        return [
            f"pt4al: the first query, after a seed set by {config.split.seed_set_how}, is round 0: strides of the "
            f"{strategy.cold_start} batch by pretext loss, the model is not asked (split.seed_set_how=pretext makes "
            "the seed set that round)"
        ]
    if start.batches != strategy.batches:
        return [f"pt4al: the seed set is of one of {start.batches} batches, the queries of {strategy.batches}"]
    return []


def _beyond(what: str, size: int, strategy: Pt4al, pool: int) -> list[str]:
    batch = pool // strategy.batches
    if size <= batch:
        return []
    return [
        f"pt4al: {what} of {size:,} is more than a batch has, {batch:,} ({pool:,} images in {strategy.batches} "
        "batches): what is missing comes from other batches"
    ]


def _build(config: RunConfig, name: str, options: Mapping[str, Any]) -> Strategy:
    return (build_for_segmentation if config.task == "segmentation" else build)(name, options)


def _with(strategy: Any, options: Mapping[str, Any]) -> Strategy:
    """A strategy's object with other options."""
    known = {field.name for field in dataclasses.fields(strategy)}
    for option in options:
        if option not in known:
            raise SelectionError(f"unknown option {option!r}; expected one of {', '.join(sorted(known))}")
    changed: Strategy = dataclasses.replace(strategy, **options)
    return changed
