"""The command ``alray select``."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field

from alray.commands.command import Command
from alray.config import Pairs


class Select(Command):
    """Choose rows from embeddings or logits of your own; writes row and score (and key), in order of choice."""

    positional = ("strategy", "budget")
    usage = "alray select STRATEGY BUDGET --out FILE [--option value ...]"
    strategy: str
    """Name of the strategy, one of those that `alray strategies` lists."""
    budget: int
    """How many rows."""
    out: str
    """File to write: .csv or .parquet. It must not exist (see --overwrite)."""
    overwrite: bool = False
    """Replace the file if it exists."""
    strategy_options: Pairs = Field(default_factory=dict)
    """Options of the strategy, names and values: quota fill. `alray strategies` lists them."""
    embedding: str = ""
    """(n, d) array: .npy or Parquet."""
    embedding_scale: str = ""
    """The scale of an embedding that is stored as int8 or uint8, whose values are scale * stored: a number, or .npy
    with one for each column (d,). Without it the stored numbers are the values."""
    logits: str = ""
    """(n, c) array: .npy or Parquet. The softmax makes probabilities of logits. Of probabilities give the logarithms,
    which are logits, too."""
    logits_scale: str = ""
    """The scale of logits that are stored as int8 or uint8, in the same form."""
    pretext_loss: str = ""
    """(n,) losses of a pretext task, for pt4al: .npy or Parquet."""
    discriminator: str = ""
    """(n,) logits of looking labeled, for vaal: .npy or Parquet."""
    weight: str = ""
    """Head weight (c, d), .npy. Give its bias, too, if it has one: see --bias."""
    bias: str = ""
    """Head bias (c,), .npy. Without it the bias is zero, and the command says so."""
    labels: str = ""
    """Label of every row, .npy of integers: only labeled rows' are used, except by strategies that peek."""
    labeled: str = ""
    """Rows that are labeled: .npy of integers, text with a row number (or key) a line, or CSV or Parquet with a column
    row (or key)."""
    pending: str = ""
    """Rows whose labels are awaited, in the same form, such as the batch.csv of a run that waits for labels. They are
    never picked, and strategies that cover the rows treat them as labeled."""
    exclude: str = ""
    """Rows never to pick, in the same form."""
    catalog: str = ""
    """Directory of the catalog whose rows these are: picks get key and uri, and keys are understood."""
    keys: str = ""
    """The key of each row instead of a catalog: text with a key a line in the order of the rows, or CSV or Parquet with
    a column key."""
    round: int = 0
    """Round number; randomness depends on it."""
    seed: int = 0
    """Seed."""
    subset_labeled: int = 0
    """Labeled rows that take part; 0 and 0: all."""
    subset_unlabeled: int = 0
    """Unlabeled rows that take part."""
    num_shards: int = 0
    """Parts to cut the rows into; the picks do not depend on it. 0: one per CPU where there are many rows."""
    workers: Literal["process", "ray"] = "process"
    """Where the shards are worked on."""

    def work(self) -> None:
        """Choose, and write the picks."""
        from alray.selection.files import check_no_input, check_out, read_head, read_rows, write_picks
        from alray.selection.names import names_in, read_names
        from alray.selection.select import select

        check_out(self.out, self.overwrite)
        features = [self.embedding, self.logits, self.pretext_loss, self.discriminator, self.labels]
        lists = [self.labeled, self.pending, self.exclude, self.keys, self.weight, self.bias]
        check_no_input(self.out, [*features, *lists, self.embedding_scale, self.logits_scale])
        names = read_names(self.catalog, self.keys)
        for path in filter(None, features):
            names = names_in(path, names)
        picks = select(
            self.strategy, self.budget, strategy_options=self.strategy_options,
            embedding=self.embedding or None, logits=self.logits or None, head=read_head(self.weight, self.bias),
            embedding_scale=self.embedding_scale or None, logits_scale=self.logits_scale or None,
            labels=self.labels or None, pretext_loss=self.pretext_loss or None,
            discriminator=self.discriminator or None, labeled=read_rows(self.labeled, names),
            pending=read_rows(self.pending, names), exclude=read_rows(self.exclude, names),
            subset_labeled=self.subset_labeled, subset_unlabeled=self.subset_unlabeled, round=self.round,
            seed=self.seed, num_shards=self.num_shards, workers=self.workers,
            on_rows=None if names is None else names.check,
        )  # fmt: skip
        write_picks(picks, self.out, names)
        print(f"{len(picks.rows):,} rows: {self.out}")
        if names is not None and (held_out := names.held_out(picks.rows)):
            print(
                f"{held_out:,} of them are test or validation images in {names.where}: --exclude leaves rows out",
                file=sys.stderr,
            )
