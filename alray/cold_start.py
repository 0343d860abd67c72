"""The seed set of a run: how it is chosen, by which strategy, and what follows from that for the rounds after it.

This module alone knows the values of split.seed_set_how. A seed set is either drawn from the rows (`alray.data.splits`)
or chosen by a strategy, once the features or losses that the strategy needs are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from alray.config import RunConfig
from alray.data import splits
from alray.data.pool import Rows
from alray.selection.protocol import SelectionError, Strategy, Use
from alray.selection.registry import changed
from alray.tasks import task_of

Draw = Callable[[Rows, npt.NDArray[Any], int, int, int], Rows]


@dataclass(frozen=True)
class _Rule:
    """One value of split.seed_set_how: a function that draws the seed set, or the strategy that chooses it."""

    draw: Draw | None = None
    strategy: str = ""
    first_round: int = 0  # what strategies count as the run's first query


def _random(rows: Rows, labels: npt.NDArray[Any], size: int, seed: int, classes: int) -> Rows:
    return splits.draw_random(rows, size, seed, "seed_set")


def _balanced(rows: Rows, labels: npt.NDArray[Any], size: int, seed: int, classes: int) -> Rows:
    return splits.draw_balanced(rows, labels, size, seed, "seed_set", classes)


_RULES: Mapping[str, _Rule] = {
    "random": _Rule(_random),
    "balanced": _Rule(_balanced),
    "pretext": _Rule(strategy="pt4al", first_round=1),  # the seed set is PT4AL's round 0
    "k_means": _Rule(strategy="k_means"),
}


@dataclass(frozen=True)
class SeedSet:
    """How a run's first labels are chosen. chooser: the strategy that chooses them; None where they are drawn."""

    how: str
    size: int
    chooser: Strategy | None = None

    @classmethod
    def of(cls, config: RunConfig, strategy: Strategy) -> SeedSet:
        """The seed set of a configuration whose rounds choose by `strategy`. Raises SelectionError for bad options.

        The chooser is the run's own strategy with its options, where that can choose such a seed set; otherwise the
        rule's strategy with its defaults. In both cases split.seed_set_options replace single options.
        """
        how, options = config.split.seed_set_how, config.split.seed_set_options
        rule = _RULES[how]
        chooser = None
        if rule.strategy:
            try:
                own = strategy.seed_set_how == how
                chooser = changed(strategy, options) if own else _build(config, rule.strategy, options)
            except SelectionError as error:
                raise SelectionError(f"split.seed_set_options: {error}") from None
        elif options:
            chosen = " and ".join(name for name, other in _RULES.items() if other.strategy)
            raise SelectionError(
                f"split.seed_set_options: expected none for split.seed_set_how={how}, got {', '.join(options)}; "
                f"{chosen} have some"
            )
        return cls(how, config.split.seed_set_size, chooser)

    @property
    def needs(self) -> frozenset[str]:
        """What the chooser reads; nothing where the seed set is drawn."""
        return self.chooser.needs_in(0) if self.chooser else frozenset()

    def round_of(self, number: int) -> int:
        """The round that a strategy is in when the run is in its round `number`, from 0."""
        return number + _RULES[self.how].first_round

    def draw(self, rows: Rows, labels: npt.NDArray[Any], seed: int, classes: int) -> Rows:
        """The seed set among rows (n,) with labels (n,), -1 where unknown; empty where a strategy is to choose it."""
        rule = _RULES[self.how].draw
        return rule(rows, labels, self.size, seed, classes) if rule else rows[:0]

    def check_pool(self, pool: int) -> None:
        """Raises SelectionError where the chooser cannot be used on a pool of so many rows."""
        if self.chooser:
            self.chooser.check_pool(pool)

    def notes(self, pool: int) -> list[str]:
        """What is allowed but may not be meant, of the seed set."""
        return self.chooser.notes(Use(self.size, pool)) if self.chooser else []


def strategy_of(config: RunConfig) -> Strategy:
    """The strategy that the configuration names. Raises SelectionError."""
    return _build(config, config.strategy, config.strategy_options)


def notes(config: RunConfig, strategy: Strategy, seed_set: SeedSet, pool: int) -> list[str]:
    """What is allowed but may not be meant, of the seed set and of the queries. pool: rows that are not held out."""
    found = seed_set.notes(pool)
    if config.rounds > 1:
        use = Use(config.budget, pool, seed_set.round_of(0), seed_set.how, seed_set.chooser)
        found += strategy.notes(use)
    return found


def _build(config: RunConfig, name: str, options: Mapping[str, Any]) -> Strategy:
    return task_of(config).strategy(name, options)
