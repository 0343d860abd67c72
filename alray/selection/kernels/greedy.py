"""Farthest-first among rows that the driver holds, as long as they certainly beat all other rows (contract C4).

Rows of few columns have a way of their own, `alray.selection.kernels.thin`, and so have those of moderately many,
`alray.selection.kernels.settled`.

It works in blocks. The rows with the largest known distances form a block, whose distances are updated with the picks
made since they were measured. Inside the block a matrix of bounds shows what a pick changes. Where every pick changes
the distances of most rows, few picks come out of a block: then all rows are kept up to date for a while, see
`alray.selection.kernels.dense`. The way and the size of blocks follow from what a pick costs each of them in counted
operations, never from time, and change no pick. Letters: s rows held, p rows of a block, d width.
"""

from __future__ import annotations

import numpy as np

from alray.features.arrays import Array, Rows
from alray.selection.kernels.dense import dense, least_cost
from alray.selection.kernels.distance import Space
from alray.selection.kernels.held import Chosen, Held, certain
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.kernels.matrices import fetched
from alray.selection.kernels.settled import moderate, settled
from alray.selection.kernels.thin import few_columns, thin
from alray.selection.protocol import Key, beats

_LEAST, _BLOCK = 64, 1024  # rows of a block
_BLOCK_COST, _PICK_COST = 2e5, 1e4  # of a block, and of a pick inside it, in operations on single numbers
_PASSES = 6  # operations per row held that finding the farthest rows takes
_TRY, _WHILE = 16, 256  # picks with all rows up to date: first, and where that was the cheaper way
_ROWS_PER_PICK = 4  # of a block: so many per missing pick are enough
_WIDER = 2  # times the rows of a block are brought up to date, before the block is chosen among them
_TRIAL = 2  # blocks, before they are judged
_FIRST, _AT_ONCE = 32, 512  # rows decided together: first, and at most; the next picks are among them


def greedy(space: Space, held: Chosen, k: int, rest: Key, centers: Array | None = None) -> Chosen:
    """At most k picks among the held rows, farthest first; stops when the best of them does not beat `rest`.

    held.squared are canonical and up to date; ties go to the lower row. centers: stored vectors (m, d) that they do not
    account for; rows of more than moderately many columns come with none.
    """
    if few_columns(held.vectors.shape[1]):
        return thin(space, held, k, rest, centers)
    if centers is not None or moderate(held.vectors.shape[1], len(held.rows), k):
        return settled(space, held, k, rest, centers)
    rows = Held(space, held, k)
    rest = rest[0] / space.unit, rest[1]
    blocks, passes = _Blocks(rows), _Spent()
    while len(rows.picked) < min(k, len(rows)):
        before = len(rows.picked)
        if blocks.dear(min(2 * least_cost(rows), passes.each)):
            cost, more = dense(rows, min(k, before + (_WHILE if passes.each < np.inf else _TRY)), rest)
            passes.add(cost, len(rows.picked) - before)
            blocks.forget()
        else:
            size = min(blocks.size, max(_LEAST, _ROWS_PER_PICK * (k - before)))
            cost, more = _block(rows, size, k, rest)
            blocks.report(cost, len(rows.picked) - before)
        rows.spent += cost
        if not more:
            break
        if rows.undecided() or rows.coarse(float(rows.upper.max(initial=0.0))):
            rows.refine()
    return rows.chosen()


class _Spent:
    """What picks have cost lately."""

    def __init__(self) -> None:
        self._cost, self._picks = 0.0, 0.0

    def add(self, cost: float, picks: int) -> None:
        """Older costs count less and less."""
        self._cost, self._picks = 0.75 * self._cost + cost, 0.75 * self._picks + picks

    @property
    def each(self) -> float:
        """The cost of a pick, infinite if there were none."""
        return self._cost / self._picks if self._picks else np.inf


class _Blocks:
    """How large blocks are, and whether their picks are dear."""

    def __init__(self, rows: Held) -> None:
        fixed = _PASSES * len(rows) + _BLOCK_COST  # a matrix that costs as much as the rest of a block is a start
        self._start = int(np.clip(np.sqrt(fixed / rows.pair_cost), min(_LEAST, _BLOCK), _BLOCK))
        self.size = self._start
        self._spent, self._count = _Spent(), 0

    def report(self, cost: float, picks: int) -> None:
        """What the last block has cost, and how many picks came out of it."""
        self._spent.add(cost, picks)
        self._count += 1
        if 8 * picks >= self.size:
            self.size = min(2 * self.size, _BLOCK, 4 * self._start)
        elif 64 * picks < self.size:
            self.size = max(self.size // 2, self._start // 2, 1)

    def dear(self, other: float) -> bool:
        """Whether a pick costs more than this, judged by a few blocks."""
        return self._count >= _TRIAL and self._spent.each > other

    def forget(self) -> None:
        """Judge anew: many rows are up to date now."""
        self._spent, self._count = _Spent(), 0


def _block(rows: Held, size: int, k: int, rest: Key) -> tuple[float, bool]:
    """Pick inside the block of the farthest rows; returns its cost, and False when the best row there does not beat
    `rest`."""
    wide, outside = _top(rows.upper, rows.rows, _WIDER * size)
    if not len(wide):
        return 0.0, False
    pairs = rows.refresh(wide)
    inside, behind = _top(rows.upper[wide], rows.rows[wide], size)
    at, limit = wide[inside], behind if beats(behind, outside) else outside
    best = int(at[int(np.argmax(rows.upper[at]))])
    if not beats(rows.key(best, float(rows.upper[best])), rest):
        return 0.0, False
    limit = limit if beats(limit, rest) else rest
    before = len(rows.picked)
    if rows.upper[best] <= 0:  # all that are left are copies of centers: the lowest row first
        for zero in at[: k - before]:
            if not beats(rows.key(int(zero), 0.0), limit):
                break
            rows.pick(int(zero))
        return 0.0, True
    cost = rows.pair_cost * (pairs + len(at) ** 2) + _PASSES * len(rows) + _BLOCK_COST
    _pick(rows, at, limit, k, cost)
    return cost + _PICK_COST * (len(rows.picked) - before), True


def _top(upper: Floats, numbers: Rows, size: int) -> tuple[Positions, Key]:
    """About `size` of the positions with the largest values, ascending, and the key of the first row behind them.
    Picked rows have the value -inf."""
    step = max(1, len(upper) // (32 * size))
    some = upper[::step]
    place = max(0, len(some) - size // step - 1)
    at = np.flatnonzero(upper >= max(np.partition(some, place)[place], np.finfo(np.float64).min))
    if len(at) > 2 * size:
        at = np.sort(at[np.argsort(-upper[at], kind="stable")[:size]])
    behind = upper.copy()
    behind[at] = -np.inf
    first = int(behind.argmax())
    return at, (float(behind[first]), int(numbers[first]))


def _pick(rows: Held, at: Positions, limit: Key, k: int, cost: float) -> None:
    g = fetched(rows.products(at, at))
    above, below, shares = rows.above[at], rows.below[at], 2 * rows.share[at]
    upper, lower, numbers, size = rows.upper[at], rows.lower[at], rows.rows[at], _FIRST
    while len(rows.picked) < k:
        best = int(np.argmax(upper))
        if upper[best] == -np.inf or not beats((float(upper[best]), int(numbers[best])), limit):
            break
        if not certain(upper, lower, numbers, best, limit):
            some = _farthest(upper, best, size)  # one may be so far that the others cannot be it
            size = min(4 * size, _AT_ONCE)
            upper[some] = lower[some] = rows.settle(at[some])
            if rows.undecided(cost):
                break
            continue
        size = _FIRST
        rows.pick(int(at[best]))
        upper[best] = lower[best] = -np.inf
        np.minimum(upper, g[best] + above, out=upper)
        if shares[best] < np.inf:
            np.minimum(lower, g[best] + below - shares[best], out=lower)
        else:
            lower[:] = -np.inf
    _save(rows, at, upper, lower)


def _farthest(upper: Floats, best: int, size: int) -> Positions:
    """The row `best` and about `size` others with the largest upper bounds."""
    if len(upper) <= size:
        return np.flatnonzero(upper > -np.inf)
    some = np.argpartition(upper, len(upper) - size)[len(upper) - size :]
    return np.append(some[(upper[some] > -np.inf) & (some != best)], best)


def _save(rows: Held, at: Positions, upper: Floats, lower: Floats) -> None:
    rows.upper[at], rows.lower[at] = upper, lower
    rows.seen[at] = len(rows.picked)
