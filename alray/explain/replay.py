"""What a run knew at each of its steps, from its files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from alray.cold_start import SeedSet, strategy_of
from alray.data.catalog import Catalog
from alray.data.pool import Pool, Rows
from alray.features.arrays import DISCRIMINATOR, EXTRACTED, PRETEXT_LOSS, Array, ShardSource
from alray.features.table import FeatureTable
from alray.labeling import state
from alray.labeling.ledger import Ledger
from alray.labeling.replay import after, at_start, corrected, taking_part, without_drawn
from alray.labeling.turns import out_before, past_turn
from alray.pool_rows import labeled_in
from alray.reasons import short
from alray.rundir import Missing, RoundDir, RunDir, RunError
from alray.selection.case import Case
from alray.selection.pending import with_presumed
from alray.selection.protocol import LABELED, Context, Picks, SelectionError, Strategy
from alray.tasks import Task, task_of

Kind = Literal["start", "drawn", "said", "bought"]


@dataclass(frozen=True, eq=False)
class Step:
    """The pool after something happened. kind: start (the seed set), drawn (images for a test, before round `number`
    chose its batch), said (what people said before round `number`), or bought (the labels of round `number`)."""

    kind: Kind
    number: int
    pool: Pool


class Replay:
    """A run that is read again, step by step. Raises RunError if its catalog or its splits are gone."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.config = run, run.settings()
        try:
            self.catalog: Catalog = run.catalog()
            self.pool_rows = np.union1d(run.pool(), run.held_out()[0])
        except Missing as missing:
            raise RunError(f"{run.uri}: {missing}") from None
        self.task: Task = task_of(self.config)
        self.classes = state.classes(run)
        self.strategy: Strategy | None = None
        with suppress(SelectionError):  # an object of the user's own, which is not in the configuration
            self.strategy = strategy_of(self.config)

    def steps(self) -> Iterator[Step]:
        """Yield the pool after each step, in their order, up to the last labels."""
        ledger = Ledger(self.run.deliveries)
        pool = at_start(self.run, self.catalog, self.task, len(self.classes))
        yield Step("start", 0, pool)
        number = -1
        for number in self.run.rounds():
            out = self.run.round(number)
            pool = without_drawn(pool, self.run, number)
            yield Step("drawn", number, pool)
            if out.begun():
                said = ledger.answers(out.begun()["deliveries"])
                pool = corrected(pool, self.catalog, said, self.classes, out_before(self.run, number))
            yield Step("said", number, pool)
            if not out.labeled:
                break
            pool = after(pool, out)
            yield Step("bought", number, pool)
        yield Step("drawn", number + 1, without_drawn(pool, self.run, number + 1))

    def case(self, number: int, pool: Pool, row: int, with_features: bool = True) -> Case:
        """The row in the selection of a round's batch. pool: as the round began whose model chose it."""
        out, config, needs = self.run.round(number), self.config, self._needs(number)
        turn, presumed = past_turn(self.run, number)
        labeled, offered = taking_part(config, self.run, pool, turn)
        known = labeled if LABELED in needs else np.union1d(pool.labeled, turn.pending)
        pretext = self._pretext(pool) if PRETEXT_LOSS in needs else None
        features = self._features(out, needs) if with_features else None
        head = None
        with suppress(Missing):
            head = self.run.round(turn.model).head()
        context = Context(
            config.seed,
            self._seed_set.round_of(number),
            len(self.classes),
            None if head is None else (head.weight, head.bias),
            features(labeled) if features and LABELED in needs and needs & EXTRACTED else None,
            with_presumed(known, pool.known[known], turn.pending, presumed),
            pretext=pretext,
        )
        if self.strategy is not None and (pretext is not None or PRETEXT_LOSS not in needs):
            offered = self.strategy.window(context, offered, config.budget)
        return Case(
            row, Picks.from_table(out.picks()), context, offered, self.key, [*map(short, self.classes)], features
        )

    @property
    def reads_features(self) -> bool:
        """Whether the strategy reads features of images."""
        return self.strategy is not None and bool(self.strategy.needs & (EXTRACTED | {DISCRIMINATOR}))

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.catalog.keys(np.array([row]))[0].as_py())

    def _needs(self, number: int) -> frozenset[str]:
        if self.strategy is None:
            return frozenset()
        # `needs` beside `needs_in`: whether there are pretext losses and labeled rows does not depend on the round
        return self.strategy.needs_in(self._seed_set.round_of(number)) | (self.strategy.needs & {PRETEXT_LOSS, LABELED})

    @cached_property
    def _seed_set(self) -> SeedSet:
        config, strategy = self.config, self.strategy
        if strategy is None:
            return SeedSet(config.split.seed_set_how, config.split.seed_set_size)
        rows = self.pool_rows if config.split.val_size else self.run.pool()  # a given validation set is no part of it
        return SeedSet.of(config, strategy, labeled_in(config, self.task.source_labels(config, self.catalog), rows))

    def _features(self, out: RoundDir, needs: frozenset[str]) -> Callable[[Rows], ShardSource] | None:
        """What opens the features that the selection of a round read; None if there are none."""
        from alray.train.columns import kept_discriminator

        table: FeatureTable | None = None
        if DISCRIMINATOR in needs:
            table = kept_discriminator(out)
        elif needs & EXTRACTED:
            with suppress(Missing):
                table = out.selected_by()
        return None if table is None else table.source

    def _pretext(self, pool: Pool) -> tuple[Rows, Array] | None:
        losses = self._losses
        rows = np.union1d(pool.labeled, pool.unlabeled)
        return None if losses is None else (rows, losses[np.searchsorted(self.pool_rows, rows)])

    @cached_property
    def _losses(self) -> Array | None:
        from alray.train.columns import kept_pretext_loss

        return kept_pretext_loss(self.config, self.catalog, self.pool_rows)
