"""What is known of one image in a finished round, and sentences on why it was picked or not.

A strategy tells its reasons in `Strategy.reasons`; here is what several strategies say. Letters: k picks, c classes, d
width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alray.features.arrays import (
    DISCRIMINATOR,
    EMBEDDING,
    EXTRACTED,
    LOGITS,
    ArraySource,
    Block,
    Rows,
    Shard,
    ShardSource,
)
from alray.selection.kernels.distance import Space
from alray.selection.kernels.logits import Floats, logits_of, needed
from alray.selection.protocol import HEAD, Context, Metric, Picks

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Case:
    """One image in one round.

    row: of the image. picks: of the round. context: what the strategy knew. offered: the rows that it could choose
    from, ascending. keys: gives the key of a row. classes: their names. columns: opens the features of ascending rows
    that the strategy read; None where they were deleted.
    """

    row: int
    picks: Picks
    context: Context
    offered: Rows
    keys: Callable[[int], str]
    classes: Sequence[str]
    columns: Callable[[Rows], ShardSource] | None = None

    @property
    def rank(self) -> int | None:
        """The place of the row among the picks, from 0; None if it was not picked."""
        at = np.flatnonzero(self.picks.rows == self.row)
        return int(at[0]) if len(at) else None

    @property
    def took_part(self) -> bool:
        """Whether the strategy could choose the row."""
        at = int(np.searchsorted(self.offered, self.row))
        return at < len(self.offered) and int(self.offered[at]) == self.row

    def class_name(self, number: int) -> str:
        """The name of a class."""
        return str(self.classes[number]) if number < len(self.classes) else f"class {number}"

    def shard(self, rows: Rows, needs: frozenset[str]) -> Shard | None:
        """These ascending rows with what a strategy needs; None where the run does not have it (any more)."""
        if not needs & (EXTRACTED | {DISCRIMINATOR}):
            return ArraySource(rows, {}).open()
        if self.columns is None or (HEAD in needs and self.context.head is None):
            return None
        shard = self.columns(rows).open()
        there = shard.segments[0].columns if shard.segments else {}
        if LOGITS in needs and LOGITS not in there and self.context.head is None:
            return None
        return needed(shard, needs)

    def block(self, needs: frozenset[str]) -> tuple[Shard, Block] | None:
        """The shard and the block of the row alone; None where the run does not have it, or where the row took no part
        in the round."""
        if not self.took_part:
            return None
        rows = np.array([self.row])
        shard = self.shard(rows, needs)
        return None if shard is None else (shard, shard.take(rows))

    def standing(self, score: float | None = None) -> list[str]:
        """Its place and score, compared with the last pick, for strategies whose picks are in the order of a score.

        score: of a row that was not picked, None where it is unknown.
        """
        if self.rank is not None:
            at_end = self.rank == len(self.picks) - 1
            return [*self.place(), *([] if at_end else [f"The last pick had {number(self.picks.scores[-1])}."])]
        if not self.took_part:
            return [self.absent]
        row, least = int(self.picks.rows[-1]), float(self.picks.scores[-1])
        last = f"the last of the {len(self.picks):,} picks, {self.keys(row)},"
        if score is None:
            return [f"T{last[1:]} had the score {number(least)}; the score of this image is not known."]
        equal = " Equal scores are ordered by a hash of the seed, the round and the row." if score == least else ""
        return [f"Its score was {number(score)}; {last} had {number(least)}.{equal}"]

    def place(self) -> list[str]:
        """Its place among the picks and its score; nothing if it was not picked."""
        if self.rank is None:
            return []
        score = number(self.picks.scores[self.rank])
        return [f"It was pick {self.rank + 1:,} of {len(self.picks):,}, with the score {score}."]

    @property
    def brief(self) -> str:
        """Its place among the picks in a few words."""
        return "" if self.rank is None else f"pick {self.rank + 1:,} of {len(self.picks):,}"

    @property
    def absent(self) -> str:
        """A sentence on a row that the strategy could not choose."""
        return "The strategy did not look at it in this round."


def number(value: float) -> str:
    """A score or distance for people."""
    return f"{float(value):.4g}"


def likeliest(case: Case) -> list[str]:
    """The two classes that the round's model gave the highest probabilities."""
    found = case.block(frozenset({LOGITS}))
    if found is None:
        return []
    z = logits_of(found[0], case.context).exact_rows(found[1])[0]
    p = np.exp(z - z.max())
    p /= p.sum()
    named = [f"{case.class_name(c)} ({p[c]:.1%})" for c in np.argsort(-z, kind="stable")[:2].tolist()]
    return [f"The likeliest classes by the model of this round were {' and '.join(named)}."]


def centers(case: Case, before: Rows, needs: frozenset[str]) -> Iterator[Shard]:
    """The labeled rows and the given picks, with what a strategy needs of them."""
    if case.context.labeled is not None:
        yield needed(case.context.labeled.open(), needs)
    picked = case.shard(np.sort(before), needs)
    if picked is not None:
        yield picked


def nearest(
    case: Case, before: Rows, needs: frozenset[str], squared: Callable[[Shard, Block], Floats]
) -> tuple[int, float] | None:
    """The nearest of the labeled rows and the given picks, and its squared distance; None where there is none.

    squared: gives the squared distances of the case's row to the rows of a block of a shard.
    """
    best = (np.inf, -1)
    for shard in centers(case, before, needs):
        for block in shard.blocks(_BLOCK):
            values = squared(shard, block)
            at = int(np.argmin(values))
            best = min(best, (float(values[at]), int(block.rows[at])))
    return (best[1], best[0]) if best[1] >= 0 else None


def nearest_center(case: Case, before: Rows, metric: Metric = "l2") -> tuple[int, float] | None:
    """The row of the nearest labeled row or given pick, and its distance; None where there is none, or no features."""
    needs = frozenset({EMBEDDING})
    mine = case.block(needs)
    if mine is None:
        return None
    x = mine[1][EMBEDDING]
    space = Space(metric, np.zeros(x.shape[1]))

    def squared(shard: Shard, block: Block) -> Floats:
        return space.pairs(x, block[EMBEDDING], np.zeros(len(block), np.intp), np.arange(len(block)))

    found = nearest(case, before, needs, squared)
    return None if found is None else (found[0], float(np.sqrt(found[1])))


def covered(case: Case, metric: Metric = "l2") -> list[str]:
    """Sentences of the strategies that take the farthest row first: what was nearest to the row at the time."""
    if not case.took_part:
        return [case.absent]
    rank = case.rank
    found = nearest_center(case, case.picks.rows[: len(case.picks) - 1 if rank is None else rank], metric)
    near = f"{case.keys(found[0])}, was at the distance {number(found[1])}" if found else ""
    if rank is None:
        last = f"{case.keys(int(case.picks.rows[-1]))}, with {number(case.picks.scores[-1])}"
        if not near:
            return case.standing()
        return [
            f"When the last pick was made, the nearest labeled or picked image, {near}. Picks are the farthest images, "
            f"and the last one, {last}, was at least as far."
        ]
    if not near:
        return case.place()
    return [*case.place(), f"The nearest image that was labeled or picked before it, {near}."]
