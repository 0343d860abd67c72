"""The seed set of a run: the rules by which it is drawn or chosen, and their effect on later rounds.

Only this module knows the values of split.seed_set_how. A seed set is either drawn at random (`alray.data.splits`) or
chosen by a strategy (a cold start), for which the features or losses that the strategy needs are computed first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from alray.config import RunConfig
from alray.data import splits
from alray.data.pool import Rows
from alray.selection.protocol import SelectionError, Strategy
from alray.selection.registry import changed
from alray.selection.use import Use
from alray.tasks import task_of

Draw = Callable[[Rows, npt.NDArray[Any], int, int, int], Rows]


@dataclass(frozen=True)
class _Rule:
    """One value of split.seed_set_how: a function that draws the seed set, or the strategy that chooses it."""

    draw: Draw | None = None
    reads_labels: bool = False  # whether `draw` reads the labels of all rows
    strategy: str = ""
    first_round: int = 0  # the round number that strategies get in the run's round 0
    given: bool = False  # whether the labels are those of the source


def _random(rows: Rows, labels: npt.NDArray[Any], size: int, seed: int, classes: int) -> Rows:
    return splits.draw_random(rows, size, seed, "seed_set")


def _given(rows: Rows, labels: npt.NDArray[Any], size: int, seed: int, classes: int) -> Rows:
    return rows[labels >= 0]


def _balanced(rows: Rows, labels: npt.NDArray[Any], size: int, seed: int, classes: int) -> Rows:
    return splits.draw_balanced(rows, labels, size, seed, "seed_set", classes)


_RULES: Mapping[str, _Rule] = {
    "random": _Rule(_random),
    "balanced": _Rule(_balanced, reads_labels=True),
    "given": _Rule(_given, given=True),
    "pretext": _Rule(strategy="pt4al", first_round=1),  # the seed set is PT4AL's round 0
    "k_means": _Rule(strategy="k_means"),
}


@dataclass(frozen=True)
class SeedSet:
    """The rule and the size of a run's seed set. chooser: the strategy that chooses it; None if it is drawn."""

    how: str
    size: int
    chooser: Strategy | None = None

    @classmethod
    def of(cls, config: RunConfig, strategy: Strategy, labeled: int | None = None) -> SeedSet:
        """The seed set of a configuration. strategy: the strategy of the rounds; labeled: the number of images of the
        pool that have a label in the source, None if it is not yet known. Raises SelectionError for bad options.

        The chooser is the run's own strategy with its options if that implements the rule, else the rule's strategy
        with default options. In both cases split.seed_set_options replace single options.
        """
        how, options = config.split.seed_set_how, config.split.seed_set_options
        if _RULES[how].given and labeled == 0:
            how = config.split.cold_start
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
                f"{chosen} have options"
            )
        size = labeled if rule.given and labeled is not None else config.split.seed_set_size
        return cls(how, size, chooser)

    @property
    def given(self) -> bool:
        """Whether its labels are those of the source, so that nobody is asked for them."""
        return _RULES[self.how].given

    @property
    def needs(self) -> frozenset[str]:
        """The names of what the chooser reads; empty if the seed set is drawn."""
        return self.chooser.needs_in(0) if self.chooser else frozenset()

    @property
    def reads_labels(self) -> bool:
        """Whether the labels of all images of the pool are read to draw it."""
        return _RULES[self.how].reads_labels

    def round_of(self, number: int) -> int:
        """The round number that a strategy gets in the run's round `number`, which starts at 0."""
        return number + _RULES[self.how].first_round

    def draw(self, rows: Rows, labels: npt.NDArray[Any], seed: int, classes: int) -> Rows:
        """Draw the seed set from rows (n,) with labels (n,), -1 where unknown. It is empty if a strategy chooses it."""
        rule = _RULES[self.how].draw
        return rule(rows, labels, self.size, seed, classes) if rule else rows[:0]

    def check_pool(self, pool: int) -> None:
        """Raise SelectionError if the chooser cannot choose from a pool of this many rows."""
        if self.chooser:
            self.chooser.check_pool(pool)

    def notes(self, pool: int) -> list[str]:
        """Sentences about settings of the seed set that are allowed but may be mistakes. pool: number of rows."""
        return self.chooser.notes(Use(self.size, pool)) if self.chooser else []


def strategy_of(config: RunConfig) -> Strategy:
    """Build the strategy that the configuration names. Raises SelectionError."""
    return _build(config, config.strategy, config.strategy_options)


def notes(config: RunConfig, strategy: Strategy, seed_set: SeedSet, pool: int) -> list[str]:
    """Sentences about settings of the seed set and of the rounds that are allowed but may be mistakes.

    pool: number of rows of the pool without the validation set.
    """
    found = seed_set.notes(pool)
    if config.rounds > 1:
        use = Use(config.budget, pool, seed_set.round_of(0), seed_set.how, seed_set.chooser)
        found += strategy.notes(use)
    return found


def _build(config: RunConfig, name: str, options: Mapping[str, Any]) -> Strategy:
    return task_of(config).strategy(name, options)
