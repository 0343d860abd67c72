"""BASE, balanced selection (Emam et al. 2021, section 3.2): for every class, the rows nearest to its decision boundary.

D(x, c) is the distance of row x to the boundary between its predicted class y and c; for c = y the distance to its
nearest boundary (the closed form of the paper's published code). Classes are served in order, each takes the q_c rows
with the smallest (D, hash of the row) that no earlier class took, q_c = b // C + [rank(c) < b mod C]. Every shard sends
its nearest rows per class; the driver decides which class takes which row, and asks for more only where a class has too
few left.

Letters: b budget, C classes, k classes that take at least one row.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from alray.features.arrays import LOGITS, Rows, Shard, concatenate
from alray.keyed import order
from alray.selection.case import Case, number
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.logits import DENSE, Floats, Positions, block_rows, logits_of, needed
from alray.selection.kernels.per_class import NONE, SAMPLE, Answer, Limits, PerClass, likely, merged, unlimited
from alray.selection.kernels.ranks import among
from alray.selection.options import with_options
from alray.selection.protocol import HEAD, Context, Picks, SelectionError, Shards, Strategy, Ties

_DEPTH, _MOST = 12, 24  # rows that are looked for per class: between so many times the quota,
_AT_LEAST = 24  # and at least so many
_DEEPER, _DEEPEST = 4, 64  # the next pass looks between so many times as far
_PASS = 1 << 11  # looking for one more row of a class costs as much as half of a pass over so many logits
_BLOCK = 1 << 20  # logits worked on at once
_START, _START_LOGITS = 128, 1 << 18  # rows that one shard looks at for all, or logits of them
_PAIRS = 1 << 22  # (class, row) pairs that all shards send at once: 100 MB


@with_options
class Base(Strategy):
    """Balanced selection. Score -D; the picks are in the order in which the classes were served."""

    class_order: Literal["index", "seeded"] = "index"
    """index: classes are served by their numbers, as published, so that the result depends on how classes are numbered.
    seeded: in a random order that depends on seed and round."""
    quota: Literal["equal", "fill"] = "equal"
    """equal: the same number of rows for every class (the paper). fill: first the classes with the fewest labels, until
    all classes have as many labels as the budget allows."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS, HEAD})
    shard_size: ClassVar[tuple[int, int]] = 250_000, 1 << 28
    # What every shard needs for itself costs a tenth of the work on so many rows.
    checks_values: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    def open(self, shard: Shard, context: Context) -> PerClass:
        """The shard-side state."""
        shard = needed(shard, self.needs)
        logits = logits_of(shard, context)
        size = block_rows(shard, context, _BLOCK, logits.place)
        return PerClass(shard, Boundaries(logits, context), context.ties, size)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, class by class."""
        assert context.head is not None
        return _Resolution(shards, context.ties, *self._served(budget, context), len(context.head[0])).picks()

    def _served(self, budget: int, context: Context) -> tuple[Positions, Positions]:
        """The classes that take rows, in the order in which they are served, and how many rows each takes."""
        assert context.head is not None
        classes = np.arange(len(context.head[0]))
        if self.class_order == "seeded":
            classes = order(context.seed, f"base/class_order/{context.round}", classes)
        quotas = self._quotas(budget, classes, context)
        served = quotas > 0
        return classes[served], quotas[served]

    def _quotas(self, budget: int, classes: Positions, context: Context) -> Positions:
        """How many rows each class takes, (C,) in the order in which classes are served."""
        if self.quota == "equal":
            return budget // len(classes) + (np.arange(len(classes)) < budget % len(classes))
        if context.known is None:
            raise SelectionError("base: quota fill needs the labels of the labeled rows, got none")
        have = np.bincount(context.known, minlength=len(classes))[classes]
        level = int(have.min())
        while (level + 1 - have).clip(0).sum() <= budget:
            level += 1
        quotas: Positions = (level - have).clip(0)
        quotas[np.flatnonzero(have <= level)[: budget - int(quotas.sum())]] += 1
        return quotas

    def reasons(self, case: Case) -> list[str]:
        """Which class took it, or what the classes took instead; its distances to the boundaries."""
        if not self._knows(case) or not case.took_part:
            return super().reasons(case)
        classes, quotas = self._served(len(case.picks), case.context)
        if case.rank is None:
            return _missed(case, classes, quotas)
        turn = _turn(case.rank, quotas)
        took, place = case.class_name(int(classes[turn])), case.rank - int(quotas[:turn].sum())
        return [
            *case.place(),
            f"It is number {place + 1:,} of the {int(quotas[turn]):,} images that the class {took} took as those "
            f"nearest to its boundary; {took} was served as class {turn + 1:,} of {len(classes):,}.",
            *_boundary(case, int(classes[turn]), f"the boundary of {took}"),
        ]

    def brief(self, case: Case) -> str:
        """Its place, and the class that took it."""
        if case.rank is None or not self._knows(case):
            return super().brief(case)
        classes, quotas = self._served(len(case.picks), case.context)
        return f"{super().brief(case)}, taken by {case.class_name(int(classes[_turn(case.rank, quotas)]))}"

    def _knows(self, case: Case) -> bool:
        """Whether it is known which class took which pick."""
        return case.context.head is not None and (self.quota == "equal" or case.context.known is not None)


def _turn(rank: int, quotas: Positions) -> int:
    """The place in the order of service of the class that took a pick."""
    return int(np.searchsorted(np.cumsum(quotas), rank, side="right"))


def _distances(case: Case) -> tuple[int, Floats] | None:
    """The predicted class of the row, and its distance for every class (C,)."""
    found = case.block(Base.needs)
    if found is None:
        return None
    boundaries = Boundaries(logits_of(found[0], case.context), case.context)
    y = boundaries.predicted(found[1], boundaries.logits.approximate(found[1]))
    return int(y[0]), boundaries.table(found[1], y)[0]


def _boundary(case: Case, took: int, what: str) -> list[str]:
    """The predicted class, and the boundary by which a class took the row."""
    found = _distances(case)
    if found is None:
        return []
    own, distances = found
    if took == own:
        others = distances.copy()
        others[own] = np.inf
        what = f"the nearest boundary, that to {case.class_name(int(np.argmin(others)))},"
    return [f"The model predicted {case.class_name(own)}; {what} was at the distance {number(distances[took])}."]


def _missed(case: Case, classes: Positions, quotas: Positions) -> list[str]:
    """For the class that came nearest to taking the row: its distance, and that of the last row that was taken."""
    found = _distances(case)
    if found is None:
        return case.standing()
    distances, last = found[1], np.cumsum(quotas) - 1
    beyond = distances[classes] + case.picks.scores[last]  # scores are negative distances
    least = int(np.argmin(beyond))
    took, by = int(classes[least]), int(case.picks.rows[last[least]])
    what = f"the boundary of {case.class_name(took)}"
    return [
        f"The class that came nearest to taking it was {case.class_name(took)}, which took {int(quotas[least]):,} "
        f"images up to the distance {number(-case.picks.scores[last[least]])} ({case.keys(by)}).",
        *_boundary(case, took, what),
    ]


class _Resolution:
    """The driver's side: the rows that the shards proposed for each class, and the rows that are taken already."""

    def __init__(self, shards: Shards, ties: Ties, classes: Positions, quotas: Positions, every: int) -> None:
        self._shards, self._ties, self._classes, self._quotas = shards, ties, classes, quotas
        self._proposed = [(NONE.rows, NONE.distances)] * len(classes)
        self._taken = np.empty(0, np.int64)
        counts = shards.map("count")
        self._parts, self._rows, self._every = len(counts), sum(counts), every
        self._worth = self._rows * every // _PASS
        most = int(quotas.max())
        self._depth = max(_AT_LEAST, min(max(_DEPTH * most, self._worth // len(classes)), _MOST * most))
        self._sure = -1  # the last class whose rows were looked for until there were enough

    def picks(self) -> Picks:
        chosen: list[tuple[Rows, Floats]] = []
        self._ask(np.arange(len(self._classes)))
        for rank, quota in enumerate(self._quotas.tolist()):
            while len(self._free(rank)[0]) < quota:
                assert self._sure != rank, "the shards hold at least as many rows as the budget"
                self._look_further(rank)
            rows, distances = self._free(rank)
            self._taken = np.sort(np.append(self._taken, rows[:quota]))
            chosen.append((rows[:quota], 0.0 - distances[:quota]))  # 0 - x: no negative zero
            self._shards.report_progress(len(self._taken))
        return Picks(np.concatenate([rows for rows, _ in chosen]), np.concatenate([scores for _, scores in chosen]))

    def _look_further(self, rank: int) -> None:
        """Ask for more rows of a class, and of the later classes that half of their rows were taken from, or that will
        have too few left at their turn if others go on to take them as they did so far.

        Where classes want the same rows, what one of them takes is missing for all others. Each pass looks further
        than the one before, so that their number grows with the logarithm of the budget; as far as that costs no more
        than the pass itself.
        """
        short = [rank]
        for other in range(rank + 1, len(self._classes)):
            all_, free = len(self._proposed[other][0]), len(self._free(other)[0])
            if 2 * free < all_ or (all_ - free) * other > (all_ - self._quotas[other]) * max(1, rank):
                short.append(other)
        self._depth = int(np.clip(self._worth // len(short), _DEEPER * self._depth, _DEEPEST * self._depth))
        self._ask(np.array(short))

    def _free(self, rank: int) -> tuple[Rows, Floats]:
        """The rows proposed for a class that no class took, nearest first, with their distances."""
        rows, distances = self._proposed[rank]
        free = ~among(rows, self._taken)
        return rows[free], distances[free]

    def _ask(self, ranks: Positions) -> None:
        """Ask the shards for the nearest rows that are not taken of these classes, or of the first of them where there
        are too many for one answer."""
        enough = np.cumsum(self._quotas[ranks[0] :])[ranks - ranks[0]]  # with so many rows no class runs dry
        depth, sure = np.minimum(self._depth, enough), self._depth >= _DEEPER * int(enough[-1])
        # A shard is asked for its share of them and some more, as rows are not dealt by chance.
        self._sure = int(ranks[0]) if sure else -1
        fits = max(1, np.searchsorted(np.cumsum(depth) * (self._parts if sure else 2), _PAIRS))
        ranks, depth, of = ranks[:fits], depth[:fits], 0 if sure else self._rows
        classes = self._classes[ranks]
        limits = self._limits(classes, depth) if of else unlimited(len(ranks))
        answers: list[Answer] = self._shards.map("nearest", classes, depth, self._taken, of, limits)
        nearest = merged(answers, depth, self._ties)
        edges = np.searchsorted(nearest.which, np.arange(len(ranks) + 1))
        for at, rank in enumerate(ranks.tolist()):
            part = slice(edges[at], edges[at + 1])
            self._proposed[rank] = nearest.rows[part], nearest.distances[part]

    def _limits(self, classes: Positions, depth: Positions) -> Limits:
        """Where about `depth` (k,) rows of each class (k,) are, from a sample of all shards' rows. Without it every
        shard would have to find out alone, from its own rows, at the cost of all of them."""
        few = likely(depth / SAMPLE)
        if self._rows <= 2 * few.max() * SAMPLE:
            return unlimited(len(classes))
        limits = self._first_limits(classes, depth)
        answers: list[Answer] = self._shards.map("sampled", classes, few, self._taken, self._rows, limits)
        return merged(answers, few, self._ties).last(limits, few, self._ties)

    def _first_limits(self, classes: Positions, depth: Positions) -> Limits:
        """Wider limits, from few rows that one shard looks at for all. Without them all distances of the first rows of
        every shard's sample would be computed."""
        size = min(max(_START, _START_LOGITS // self._every), self._rows // (4 * SAMPLE))
        few = likely(depth * size / self._rows)
        if size < 2 * DENSE * few.max():
            return unlimited(len(classes))
        block = concatenate([one for one in self._shards.map("some", size / self._rows) if len(one)])
        found: list[Limits | None] = self._shards.map("looked_at", block, classes, few, self._taken)
        return next(limits for limits in found if limits is not None)
