"""BADGE (Ash et al. 2020): k-means++ seeding of gradient embeddings, exact, factorised, on the whole pool.

Every next row is drawn with probability proportional to its squared distance, in gradient space, to the nearest row
that is labeled or picked. Whole gradients are never computed (`alray.selection.kernels.gradients`). The draws are a
race of clocks (`alray.selection.kernels.race`), so that the picks are a function of data, seed and round alone.
Letters: k picks, s rings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from alray.features.arrays import EMBEDDING, LOGITS, Block, Rows, Shard
from alray.keyed import priorities
from alray.selection.case import Case, likeliest, nearest, number
from alray.selection.kernels.logits import Floats, logits_of, needed
from alray.selection.kernels.matrices import Place
from alray.selection.options import with_options
from alray.selection.protocol import LABELED, Context, Key, Picks, SelectionError, Shards, Strategy

if TYPE_CHECKING:
    from alray.selection.kernels.gradients import Factors, Gradients
    from alray.selection.kernels.race import Epoch, Race, Rings

_WINDOW = 4096  # the most rings that are looked at together
_PATIENCE, _AT_LEAST = 16, 4096  # a new epoch begins after more rings than so many per pick plus so many
_SLOWER = 64  # the expected number of rings per unit of time is at most divided by so much from window to window


@with_options
class Badge(Strategy):
    """Score: the squared distance in gradient space to the nearest center when picked (not in descending order).

    When all rows that are left lie on centers, the rest of the budget is drawn uniformly.
    """

    centers: Literal["labeled", "picks"] = "labeled"
    """labeled: the labeled rows are centers from the start, as in the BASE paper's code. picks: only picked rows are
    centers, as in the original."""
    first: Literal["largest_norm", "random"] = "largest_norm"
    """The first pick where there is no center yet: the row with the largest gradient (the original), or a random
    one."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS, EMBEDDING, LABELED})
    checks_values: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    def factors(self, shard: Shard, context: Context) -> Factors:
        """What makes the gradients of this shard's rows."""
        from alray.selection.kernels.gradients import Factors

        return Factors(logits_of(shard, context))

    def open(self, shard: Shard, context: Context) -> Race:
        """The shard-side state."""
        from alray.selection.kernels.race import Race

        labeled = context.labeled.open() if context.labeled and self.centers == "labeled" else Shard([])
        shard, labeled = needed(shard, self.needs), needed(labeled, self.needs)
        return Race(shard, labeled, self.factors(shard, context), context.seed)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows in the order of the draws."""
        return _Draws(self, shards, context).picks(budget)

    def reasons(self, case: Case) -> list[str]:
        """Its nearest center, and that chance decided."""
        if not case.took_part:
            return [case.absent]
        chance = (
            "Images are drawn by chance, in proportion to their squared distance in gradient space to the nearest "
            f"{'labeled or picked' if self.centers == 'labeled' else 'picked'} image."
        )
        steps = {"Before the first pick": case.picks.rows[:0], "After the last pick": case.picks.rows}
        if case.rank is not None:
            steps = {"Before it was picked": case.picks.rows[: case.rank]}
        said = [
            f"{when} the nearest was {case.keys(found[0])}, at {number(found[1])}."
            for when, rows in steps.items()
            if (found := self._nearest(case, rows))
        ]
        return [*case.place(), chance, *said, *likeliest(case)]

    def _nearest(self, case: Case, before: Rows) -> tuple[int, float] | None:
        """The nearest center and its squared distance, with these picks as centers."""
        mine = case.block(self.needs)
        if mine is None:
            return None
        if self.centers == "picks":
            case = replace(case, context=replace(case.context, labeled=None))
        gradient = self.factors(mine[0], case.context).of(mine[1])

        def squared(shard: Shard, block: Block) -> Floats:
            there = self.factors(shard, case.context).of(block)
            return gradient.pairs(there, np.zeros(len(block), np.intp), np.arange(len(block)))

        return nearest(case, before, self.needs, squared)


class _Draws:
    """The driver's side: it takes the rings in the order of time and accepts them or not."""

    def __init__(self, strategy: Badge, shards: Shards, context: Context) -> None:
        self._strategy, self._shards, self._context = strategy, shards, context
        self._scores: list[float] = []
        self._place = Place(0)  # of the windows: a GPU only if this process uses one already

    def picks(self, k: int) -> Picks:
        """k draws."""
        epoch = self._first()
        if len(epoch.picks) == k:  # a random row; to ask for rates is to look at all rows, and at what is not finite
            self._shards.map("rate", epoch)
        share = 0.5  # of recent rings that were accepted; only the size of a window depends on it and on the rate
        while len(epoch.picks) < k:
            rate = sum(self._shards.map("rate", epoch))
            if rate == 0:
                return self._uniformly(epoch.picks.rows, k)
            start, before, rings, limit = 0.0, len(epoch.picks), 0, False
            while len(epoch.picks) < k and not limit:
                missing = k - len(epoch.picks)
                window = min(max(64, 1.2 * missing / share), _WINDOW)
                end = start + window / rate
                if not np.isfinite(end) or end <= start:
                    raise SelectionError(
                        f"badge: gradients are too large or too small: their squared distances sum to {rate}"
                    )
                had = len(epoch.picks)
                epoch, seen, limit = self._accept(self._shards.map("rings", epoch, start, end), epoch, k, before, rings)
                share = max(0.001, min(1.0, 0.5 * share + 0.5 * (len(epoch.picks) - had) / max(1, seen)))
                start, rings = end, rings + seen
                rate = min(rate, max(rings, window / _SLOWER) / end)  # it was a bound
                if not seen and sum(self._shards.map("rate", epoch)) == 0:
                    return self._uniformly(epoch.picks.rows, k)
                self._shards.report_progress(len(epoch.picks))
            epoch = replace(epoch, number=epoch.number + 1, known=len(epoch.picks))
        return Picks(epoch.picks.rows, np.array(self._scores))

    def _accept(self, answers: list[Rings], epoch: Epoch, k: int, before: int, rings: int) -> tuple[Epoch, int, bool]:
        """The epoch with the window's picks, the number of rings, and whether there were too many rings for the picks.

        The last is decided ring by ring, so that it does not depend on the windows.
        """
        from alray.selection.kernels.gradients import concatenated
        from alray.selection.kernels.window import Window

        times = np.sort(np.concatenate([part.times for part in answers]))
        rows = np.concatenate([part.gradients.rows for part in answers])
        when, least, weight = (
            np.concatenate([getattr(part, name) for part in answers]) for name in ("when", "least", "weight")
        )
        order = np.lexsort((rows, when))
        gradients = concatenated([part.gradients for part in answers])[order]
        window = Window(gradients, least[order], weight[order], self._place)
        rank = rings + np.searchsorted(times, when[order], side="right")
        limit, known = False, len(epoch.picks)
        for ring, score in window.accepted():
            limit = bool(rank[ring] > self._patience(known - before + len(window.picked)))
            if limit or known + len(window.picked) == k:
                break
            self._scores.append(score)
        epoch = replace(epoch, picks=concatenated([epoch.picks, window.picks()]))
        over = limit or rings + len(times) > self._patience(len(epoch.picks) - before)
        return epoch, len(times), over

    @staticmethod
    def _patience(picks: int) -> int:
        return _PATIENCE * picks + _AT_LEAST

    def _first(self) -> Epoch:
        """The first center: a labeled row that a hash chooses, or else the first pick."""
        from alray.selection.kernels.race import Epoch

        labeled = self._labeled()
        if labeled is not None:
            return Epoch(self._context.seed, self._context.round, 0, labeled, labeled[:0], 0)
        if self._strategy.first == "random":
            rows = np.concatenate(self._shards.map("draw", self._stream("first"), np.empty(0, np.int64), 1))
            row = self._by_priority(rows, "first")[0]
        else:
            offers: list[Key] = [offer for offer in self._shards.map("largest") if offer is not None]
            row = max(offers, key=lambda offer: (offer[0], -offer[1]))[1]
        found = self._shards.map("gradients", np.array([row]))
        gradient = next(part for part in found if part is not None)
        self._scores.append(float(gradient.squares[0]))
        return Epoch(self._context.seed, self._context.round, 0, gradient, gradient, 1)

    def _labeled(self) -> Gradients | None:
        if self._strategy.centers == "picks" or self._context.labeled is None:
            return None
        shard = needed(self._context.labeled.open(), self._strategy.needs)
        rows = shard.rows()
        if not len(rows):
            return None
        row = rows[np.argmin(priorities(0, "badge/labeled", rows))]
        return self._strategy.factors(shard, self._context).of(shard.take(np.array([row])))

    def _uniformly(self, rows: Rows, k: int) -> Picks:
        missing = k - len(rows)
        found = np.concatenate(self._shards.map("draw", self._stream("rest"), rows, missing))
        rest = self._by_priority(found, "rest")[:missing]
        return Picks(np.concatenate([rows, rest]), np.append(self._scores, np.zeros(missing)))

    def _by_priority(self, rows: Rows, what: str) -> Rows:
        return rows[np.lexsort((rows, priorities(self._context.seed, self._stream(what), rows)))]

    def _stream(self, what: str) -> str:
        return f"badge/{self._context.round}/{what}"
