"""The selection of a round: choose the rows to embed, collect what the strategy needs, and let it choose.

It also makes the cold start, a seed set that pretext losses or k-means choose before there is a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from alray.cluster import Joined
from alray.config import RunConfig
from alray.data.oracle import SEED_SET, Requests, ask
from alray.data.pool import Labels, Pool, Rows
from alray.features.arrays import (
    DISCRIMINATOR,
    EMBEDDING,
    EXTRACTED,
    PRETEXT_LOSS,
    Array,
    ArraySource,
    Integers,
    RowsSource,
    ShardSource,
    WithColumns,
    cut,
)
from alray.features.row_runs import RowRuns, narrow_rows
from alray.features.table import FeatureTable
from alray.joining import join
from alray.labeling.replay import taking_part
from alray.labeling.turns import Turn
from alray.models.head import Head
from alray.prepare import Prepared
from alray.progress import Stages
from alray.rundir import RoundDir
from alray.selection.pending import presumed, with_presumed
from alray.selection.protocol import LABELED, Context, Picks, Strategy
from alray.selection.select import select_from
from alray.train.columns import Columns
from alray.train.learner import Learner


class Query:
    """Makes the picks of every round. Holds what is expensive to start: a cluster, the learner, and networks besides
    the main one."""

    def __init__(self, ready: Prepared, stages: Stages) -> None:
        self.ready = ready
        joined = _joined(ready)
        self._joined = joined
        self.columns = Columns(ready.config, ready.catalog, joined, ready.pool_rows)
        if ready.trains_pretext:
            ready.run.pin_pretext(self.columns.pretext_mark(stages))
        self.learn: Learner = ready.learner(self.columns.with_backbone(stages), ready.catalog, joined)
        self.learn.begin(stages)

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return self.ready.config

    def take(self, ready: Prepared) -> None:
        """Go on with another state of the run: classes may have come."""
        self.ready = ready
        self.learn.catalog = self.columns.catalog = ready.catalog

    def rows_to_embed(self, pool: Pool, turns: Sequence[Turn], stages: Stages) -> Rows:
        """The rows to embed in a round, ascending: the test images whose embeddings are evaluated, and the rows that
        the strategy reads. turns: the selections of the round; a later one reads the picks of an earlier one."""
        rows, strategy = self.ready.task.embedded_test(self.ready.test_rows), self.ready.strategy
        needs = [strategy.needs_in(self._round(turn.batch)) for turn in turns]
        for at, turn in enumerate(turns):
            if frozenset().union(*needs[at:]) & EXTRACTED:
                labeled = pool.labeled if LABELED in strategy.needs else pool.labeled[:0]
                rows = np.union1d(rows, np.concatenate([self._offered(pool, turn, stages)[1], turn.pending, labeled]))
        return rows

    def picks(
        self, pool: Pool, table: FeatureTable | None, head: Head | None, turn: Turn, most: int, stages: Stages
    ) -> Picks:
        """The picks of a batch: read them if an earlier start made them, else choose and write them. most: how many
        labels may be bought."""
        out = self.ready.run.round(turn.batch)
        if out.chosen:
            return Picks.from_table(out.picks())
        config = self.config
        labeled, offered = self._offered(pool, turn, stages)
        more = self._measured(turn, pool, offered, out, stages)
        context = self._context(pool, head, turn, stages)
        classes = presumed(self.ready.strategy, turn.pending, partial(_source, table), context)
        context = self._with_labels(context, pool, labeled, table, turn, classes)
        budget = min(most, len(offered))  # images that people called unusable or skipped may be missing
        if most < config.budget:
            stages.print_line(f"the batch is cut from {config.budget:,} to {most:,}: stop.* allows no more labels")
        what = f"{budget:,} of {len(pool.unlabeled):,} by {config.strategy}, {self._shards} shard(s)"
        sources = self._sources(self.ready.strategy, offered, table, more, context)
        del offered, more  # the shards read their own rows: the driver needs no number of each row any more
        picks = self._choose(self.ready.strategy, budget, sources, context, what, stages)
        keys = self.ready.catalog.keys(picks.rows)
        account = {**picks.account, **turn.record(classes)}
        out.write_picks(picks.to_table().append_column("key", keys), account, table)
        return picks

    def seed_set(self, pool: Pool, stages: Stages) -> Pool:
        """The pool with the labels of the cold start. It is unchanged if the seed set was drawn or is labeled
        already."""
        ready, start, size = self.ready, self.ready.seed_set.chooser, self.ready.seed_set.size
        if start is None or len(pool.labeled):
            return pool
        needs, table = ready.seed_set.needs, None
        if EMBEDDING in needs:
            table = self.learn.start_features(pool.unlabeled, ready.run, stages)
        context = Context(self.config.seed, 0, len(ready.catalog.classes), pretext=self._pretext(needs, pool, stages))
        what = f"a seed set of {size:,} by {ready.seed_set.how}"
        sources = self._sources(start, pool.unlabeled, table, {}, context)
        picks = self._choose(start, size, sources, context, what, stages)
        asked = Requests.of(ready.catalog, picks.rows, score=picks.scores, batch=SEED_SET)
        closed = ready.desk.ask(asked, [SEED_SET] * len(asked))
        ready.run.batch(SEED_SET).write_left_out(closed.unusable, closed.skipped)
        found = picks.to_table().append_column("key", ready.catalog.keys(picks.rows))
        found = found.append_column("label", pa.array(closed.labels)).filter(pa.array(closed.labeled))
        ready.run.write_cold_start(found)
        return pool.label(closed.rows[closed.labeled], closed.labels[closed.labeled]).remove(closed.unusable)

    @property
    def _shards(self) -> int:
        if self.config.resources.select_workers == "ray":
            return self._joined.resources.select_shards
        asked = self.config.resources.select_shards
        return 1 if asked == "auto" else asked

    def _round(self, number: int) -> int:
        """The round number that the strategy gets: one more than the run's if the seed set was PT4AL's round 0."""
        return self.ready.seed_set.round_of(number)

    def _offered(self, pool: Pool, turn: Turn, stages: Stages) -> tuple[Rows, Rows]:
        """The labeled (or pending) and the unlabeled rows that take part in a selection, each ascending: what subset_*
        and the strategy's window leave."""
        config, strategy = self.config, self.ready.strategy
        labeled, unlabeled = taking_part(config, self.ready.run, pool, turn)
        pretext = self._pretext(strategy.needs, pool, stages)
        context = Context(self.config.seed, self._round(turn.batch), pretext=pretext)
        return labeled, strategy.window(context, unlabeled, config.budget + turn.unchosen)

    def _pretext(self, needs: frozenset[str], pool: Pool, stages: Stages) -> tuple[Integers, Array] | None:
        if PRETEXT_LOSS not in needs:
            return None
        rows = np.union1d(pool.labeled, pool.unlabeled)
        return narrow_rows(rows), self.columns.pretext_loss(rows, stages)

    def _peek(self, rows: Rows) -> Labels:
        """Labels that have not been bought, for strategies that are marked as peeking."""
        return ask(self.ready.oracle, Requests.of(self.ready.catalog, rows))

    def _measured(self, turn: Turn, pool: Pool, rows: Rows, out: RoundDir, stages: Stages) -> dict[str, Array]:
        if DISCRIMINATOR not in self.ready.strategy.needs:
            return {}
        labeled, others = np.union1d(pool.labeled, turn.pending), np.setdiff1d(pool.unlabeled, turn.pending)
        values = self.columns.discriminator(turn.batch, labeled, others, out, stages)
        return {DISCRIMINATOR: values[np.searchsorted(others, rows)]}

    def _context(self, pool: Pool, head: Head | None, turn: Turn, stages: Stages) -> Context:
        """What the strategy knows besides the features, without the labeled rows."""
        ready, strategy = self.ready, self.ready.strategy
        return Context(
            self.config.seed,
            self._round(turn.batch),
            len(ready.catalog.classes),
            None if head is None else (head.weight, head.bias),
            peek=self._peek if strategy.peeks() else None,
            pretext=self._pretext(strategy.needs, pool, stages),
        )

    def _with_labels(
        self, context: Context, pool: Pool, labeled: Rows, table: FeatureTable | None, turn: Turn, classes: Labels
    ) -> Context:
        """The context with the labeled rows that take part. classes (p,): as which pending rows are counted."""
        reads = LABELED in self.ready.strategy.needs
        rows = labeled if reads else np.union1d(pool.labeled, turn.pending)
        return replace(
            context,
            labeled=table.source(labeled) if table is not None and reads else None,
            known=with_presumed(rows, pool.known[rows], turn.pending, classes),
        )

    def _sources(
        self, strategy: Strategy, rows: Rows, table: FeatureTable | None, more: Mapping[str, Array], context: Context
    ) -> list[ShardSource]:
        """The rows (n,) to choose from, cut into shards. more: columns (n,) that are in no table."""
        parts = cut(len(rows), self._shards)
        if table is None or not strategy.needs_in(context.round) & EXTRACTED:
            return [
                RowsSource(RowRuns.of(rows[part]), {name: one[part] for name, one in more.items()}) for part in parts
            ]
        sources = table.shards(rows, self._shards)
        if not more:
            return list(sources)
        return [
            WithColumns(source, rows[part], {name: column[part] for name, column in more.items()})
            for source, part in zip(sources, parts, strict=True)
        ]

    def _choose(
        self,
        strategy: Strategy,
        budget: int,
        sources: Sequence[ShardSource],
        context: Context,
        what: str,
        stages: Stages,
    ) -> Picks:
        resources = self.config.resources
        with stages.stage("select", what), stages.bar("select", budget, "picks") as bar:
            seen = 0

            def watch(picks: int) -> None:
                nonlocal seen
                bar(picks - seen, "")
                seen = picks

            picks = select_from(
                sources,
                strategy,
                budget,
                context,
                workers=resources.select_workers,
                num_cpus=resources.cpus_per_shard,
                share=self._joined.share(stages.print_line),
                use_gpu=resources.select_workers == "ray" and self._joined.use_gpu,
                watch=watch,
            )
        for remark in strategy.remarks(picks):
            stages.print_line(f"select · {remark}")
        return picks


def _source(table: FeatureTable | None, rows: Rows) -> ShardSource:
    return ArraySource(rows, {}) if table is None else table.source(rows)


def _joined(ready: Prepared) -> Joined:
    """The run's cluster, which is joined at once if the run certainly needs it, else at its first use."""
    joined = join(ready, ready.run)
    if ready.learner.needs_cluster or ready.config.resources.select_workers == "ray":
        _ = joined.cluster
    return joined
