"""PT4AL (Yi et al. 2022): pretext losses order the pool into batches; each round looks at the next batch.

The pool's rows are sorted by their pretext loss, hardest first (as numbers; equal losses by a hash of (seed, row), the
same in all rounds; the published code sorts text), and cut into I equal batches, the first ones a row longer where they
do not divide. Round 0 comes before there is any model and takes every (n/K)-th row of the hardest batch. Round i takes
the K rows of batch i of which the model of round i - 1 is least sure. Round 0 is meant to choose the seed set
(split.seed_set_how=pretext). After any other seed set the first query is still round 0, by pretext loss alone. Letters:
n rows of the pool, I batches, K budget, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from alray.features.arrays import LOGITS, PRETEXT_LOSS, Block, Rows, Shard, cut
from alray.selection.case import Case, likeliest, number
from alray.selection.kernels.logits import Floats, Logits, Positions, block_rows, logits_of, needed, paired_dots
from alray.selection.kernels.ranks import Ranked, among
from alray.selection.kernels.softmax import gaps
from alray.selection.options import Count, Flag, with_options
from alray.selection.protocol import Context, Picks, SelectionError, Shards, Strategy, Ties
from alray.selection.use import Use

Scored = tuple[Rows, Floats, Positions]  # rows, uncertainties, predicted classes


@with_options
class Pt4al(Strategy):
    """Score: the uncertainty, that of `Confidence` or of `Entropy`; in round 0 the pretext loss.

    A batch with too few rows left is filled up from the following ones, and after the last from earlier ones. Training
    each round from the previous weights, as the paper does, is an option of the training (train.warm_start).
    """

    batches: Count = 10
    """I, the number of batches, which is also the number of rounds that there can be."""
    uncertainty: Literal["confidence", "entropy"] = "confidence"
    """confidence: by max p (the paper). entropy: of p, which the published code has but does not use."""
    normalise_logits: Flag = False
    """true: divide logits by their norm before the softmax, as the published code does by accident. Images then differ
    only by the angle of their logits."""
    class_balanced: Flag = False
    """true: take the same number of rows per predicted class and fill up with the least sure ones, which the published
    code has but does not use. The rows of one batch are unbalanced, because their losses are alike."""
    cold_start: Literal["hardest", "middle"] = "hardest"
    """The batch of round 0: the hardest (the paper), or the middle one (the published cold start, whose batch happens
    to be balanced). As published, it moves round 0 alone: round i looks at batch i, so that the middle batch is looked
    at twice, and the hardest only if rest is carry."""
    rest: Literal["drop", "carry"] = "drop"
    """What happens to the rows of a batch that were not taken. drop: they are never looked at again (the paper). carry:
    they compete in all later rounds."""

    needs: ClassVar[frozenset[str]] = frozenset({PRETEXT_LOSS, LOGITS})
    seed_set_how: ClassVar[str] = "pretext"

    def needs_in(self, round: int) -> frozenset[str]:
        """In round 0 there is no model yet: only the pretext losses are needed."""
        return self.needs - {LOGITS} if round == 0 else self.needs

    def check_pool(self, rows: int) -> None:
        """Raises SelectionError for a pool that cannot be cut into so many batches."""
        if self.batches > rows:
            raise SelectionError(
                f"pt4al: batches: expected at most {rows:,}, one row of the pool in each, got {self.batches:,}"
            )

    def check_round(self, round: int) -> None:
        """Raises SelectionError for a round that has no batch."""
        if round >= self.batches:
            raise SelectionError(
                f"pt4al: round {round}, but there are {self.batches} batches, one for each round from 0: expected more "
                "batches, or fewer rounds"
            )

    def notes(self, use: Use) -> list[str]:
        """Notes where it takes more rows than a batch has, and where its round 0 is not the seed set."""
        batch, found = use.pool // self.batches, []
        if use.size > batch:
            found.append(
                f"pt4al: {use.what} of {use.size:,} is more than a batch has, {batch:,} ({use.pool:,} images in "
                f"{self.batches} batches): what is missing comes from other batches"
            )
        if use.seed_set_how and use.seed_set_how != self.seed_set_how:
            found.append(
                f"pt4al: the first query, after a seed set by {use.seed_set_how}, is round 0: strides of the "
                f"{self.cold_start} batch by pretext loss, the model is not asked (split.seed_set_how=pretext makes "
                "the seed set that round)"
            )
        if isinstance(use.seed_set_by, type(self)) and use.seed_set_by.batches != self.batches:
            found.append(
                f"pt4al: the seed set is of one of {use.seed_set_by.batches} batches, the queries of {self.batches}"
            )
        return found

    def window(self, context: Context, available: Rows, budget: int) -> Rows:
        """The rows of this round's batch, and of as many further batches as the budget takes."""
        found: list[Rows] = []
        ranked = self._ranked(context)
        for ranks in self._parts(len(ranked), context.round):
            part = ranked.between(*ranks)
            found.append(part[among(part, available)])
            if sum(map(len, found)) >= budget:
                break
        return np.sort(np.concatenate(found))

    def open(self, shard: Shard, context: Context) -> Uncertain:
        """The shard-side state."""
        return Uncertain(needed(shard, self.needs_in(context.round)), context, self.uncertainty, self.normalise_logits)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows of this round's batch."""
        self.check_round(context.round)
        ranked = self._ranked(context)
        self.check_pool(len(ranked))
        rows, scores = np.empty(0, np.int64), np.empty(0)
        for ranks in self._parts(len(ranked), context.round):
            part, missing = ranked.between(*ranks), budget - len(rows)
            if context.round == 0:
                more = self._spread(np.concatenate(shards.map("among", part)), missing, ranked)
            else:
                more = self._least_sure(part, missing, shards, context)
            rows, scores = np.append(rows, more[0]), np.append(scores, more[1])
            if len(rows) == budget:
                break
        return Picks(rows, scores)

    def _parts(self, n: int, round: int) -> Iterator[tuple[int, int]]:
        """Disjoint ranges of ranks, from the hardest row on, in the order in which they are used."""
        batches, now = [(part.start, part.stop) for part in cut(n, self.batches)], self._now(round)
        before = batches[:now]
        if self.rest == "carry" and round:
            yield 0, batches[now][1]
            before = []
        else:
            yield batches[now]
        yield from batches[now + 1 :]
        yield from before

    def _now(self, round: int) -> int:
        """The number of the batch that a round looks at first."""
        return round if round or self.cold_start == "hardest" else self.batches // 2

    def _ranked(self, context: Context) -> Ranked:
        """The whole pool, hardest first."""
        assert context.pretext is not None  # `needs` was checked when the context was made
        return Ranked(*context.pretext, Ties(context.seed))  # of round 0 always: rows must not change their batch

    def score_of(self, case: Case) -> float | None:
        """How unsure the model is of the row."""
        found = case.block(self.needs_in(case.context.round) - {PRETEXT_LOSS})
        if found is None or case.context.round == 0:
            return None
        return float(self.open(found[0], case.context).score(np.array([case.row]))[1][0])

    def reasons(self, case: Case) -> list[str]:
        """Its batch by pretext loss, and how unsure the model was of it."""
        chosen = super().reasons(case)
        if case.context.round == 0 and case.took_part:
            how = "This round takes images at equal steps in the order of the losses."
            chosen = [*case.place(), how]
        by_class = ["Every predicted class takes equally many, the least sure images first."]
        chosen += by_class if self.class_balanced and case.context.round and case.took_part else []
        if case.context.pretext is None:
            return [*chosen, *likeliest(case)]
        rows, losses = case.context.pretext
        at = np.flatnonzero(rows == case.row)
        if not len(at):
            return chosen
        now, place = self._now(case.context.round), self._ranked(case.context).rank(int(at[0]))
        mine = next(n for n, batch in enumerate(cut(len(rows), self.batches)) if place < batch.stop)
        carried = " and what earlier batches have left" if self.rest == "carry" and now else ""
        return [
            f"Its pretext loss is {number(losses[at[0]])}, number {place + 1:,} of {len(rows):,} from the hardest, "
            f"which is in batch {mine + 1:,} of {self.batches:,}; this round begins with batch {now + 1:,}{carried}.",
            *chosen,
            *(likeliest(case) if case.context.round else []),
        ]

    def _spread(self, here: Rows, most: int, ranked: Ranked) -> tuple[Rows, Floats]:
        """At most so many of these rows, at equal steps in the order of the losses."""
        if not len(here):
            return here, np.empty(0)
        losses = ranked.values[np.searchsorted(ranked.rows, here)].astype(np.float64)
        k = min(most, len(here))
        at = ranked.ties.order(here, -losses)[:: len(here) // k][:k]
        return here[at], losses[at]

    def _least_sure(self, part: Rows, most: int, shards: Shards, context: Context) -> tuple[Rows, Floats]:
        """At most so many of these rows that the shards have, those that the model is least sure of."""
        parts: list[Scored] = shards.map("score", part)
        rows, scores, classes = (np.concatenate([part[i] for part in parts]) for i in range(3))
        order, k = context.ties.order(rows, -scores), min(most, len(rows))
        if self.class_balanced and k:
            at = order[np.sort(_quota(classes[order], k, context.num_classes or int(classes.max()) + 1))]
        else:
            at = order[:k]
        return rows[at], scores[at]


def _quota(classes: Positions, k: int, c: int) -> Positions:
    """k positions among rows that are sorted least sure first, of the given predicted classes: the first k//c rows of
    every class (one more of the first k % c classes), filled up with the first of the other rows."""
    order = np.argsort(classes, kind="stable")
    ordered = classes[order]
    rank = np.empty(len(classes), np.int64)
    rank[order] = np.arange(len(classes)) - np.searchsorted(ordered, ordered)
    within = rank < (k // c + (classes < k % c))
    return np.concatenate([np.flatnonzero(within), np.flatnonzero(~within)])[:k]


class Uncertain:
    """The state of one shard: it tells which rows it has, and how unsure the model is of some of them."""

    def __init__(self, shard: Shard, context: Context, uncertainty: str, normalise: bool) -> None:
        self._shard, self._context = shard, context
        self._uncertainty, self._normalise = uncertainty, normalise

    def among(self, wanted: Rows) -> Rows:
        """Those of the wanted rows (ascending) that are in this shard, ascending."""
        rows = self._shard.rows()
        return rows[among(rows, wanted)]

    def score(self, wanted: Rows) -> Scored:
        """Rows, uncertainties and predicted classes of those of the wanted rows (ascending) that are in this shard."""
        logits = self.logits()
        found: list[Scored] = [(np.empty(0, np.int64), np.empty(0), np.empty(0, np.intp))]
        for block in self._shard.blocks(block_rows(self._shard, self._context)):
            mask = among(block.rows, wanted)
            if mask.any():
                some = Block(block.rows[mask], {name: column[mask] for name, column in block.columns.items()})
                found.append((some.rows, *self.uncertainties(logits, some)))
        return (
            np.concatenate([part[0] for part in found]),
            np.concatenate([part[1] for part in found]),
            np.concatenate([part[2] for part in found]),
        )

    def logits(self) -> Logits:
        """The source of the logits: the shard's column, or embedding and head."""
        return logits_of(self._shard, self._context)

    def uncertainties(self, logits: Logits, block: Block) -> tuple[Floats, Positions]:
        """Uncertainties (m,) and predicted classes (m,)."""
        z = logits.exact_rows(block)
        if self._normalise:
            norm = np.sqrt(paired_dots(z, z))[:, None]
            z = z / np.where(norm > 0, norm, 1.0)
        if self._uncertainty == "entropy":
            return gaps(z).entropy(), z.argmax(axis=1)
        return gaps(z).odds(), z.argmax(axis=1)
