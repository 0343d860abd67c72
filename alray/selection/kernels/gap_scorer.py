"""Confidence, margin and entropy of a shard's rows: an interval by float32 first, then exactly (contract C4).

A screen (`alray.selection.kernels.screen`) rules out most rows as soon as it is known what score is wanted, and bounds
the scores of the others. Where a row is too certain for it, three intervals follow, from cheap to good in the whole
range of logits:

- the gap g = z_(1) - z_(2) alone gives an upper end: no row with this gap scores more than one whose other classes are
  all as probable as the second;
- R = sum exp(z - z_(1)) over all classes but the largest gives both ends, unless R is so small that float32 loses it;
- `softmax.softened` gives both ends however certain the model is.

With few classes a block is worked on class by class, because NumPy reduces short rows slowly. Letters: m rows of a
block, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alray.features.arrays import LOGITS, Block, Rows
from alray.selection.kernels.lines import Lines
from alray.selection.kernels.logits import Approximate, Floats, Logits, Positions, Singles, U
from alray.selection.kernels.room import Room
from alray.selection.kernels.screen import BY_CLASS, Screen, Told, largest
from alray.selection.kernels.softmax import ROUNDING, Gaps, Soft, gaps, softened, softened_on_device

if TYPE_CHECKING:
    import torch


BLOCK = 1 << 21  # logits that are read together
SHARD = 1 << 20, 1 << 23  # rows, and logits, that are worth a shard: some hundredths of a second
_FAINT = 2.0**-80  # a smaller R may have lost digits to underflow in float32
_COMPARED = max(BY_CLASS, 64)  # logits are compared class by class with so many classes or fewer
_PART = 1 << 20  # logits that are compared so at once
_CACHED, _LONG = 1 << 18, 1 << 20  # numbers worked on at once where memory is fresh, class by class and row by row
_SAMPLE, _SAMPLED = 16, 400  # one row of so many, about so many of a part at most, tell whether gaps rule out most rows
_FEW = 4  # gaps have ruled out most rows of a part if at most one row of so many is left
_NO_ERROR = np.zeros(1)
_GRID = np.linspace(0, 1, 65)

Interval = tuple[Floats, Floats]


@dataclass(frozen=True, eq=False)
class Near:
    """What is told of the usable rows of a part: their logits z (m, c), eps (m,), or (1,) for all. gap: that of the
    rows that are told, if known. usable: their positions in the part, None: all; rows: how many the part has then."""

    z: Singles
    eps: Floats
    told: Told
    gap: Floats | None = None
    usable: Positions | None = None
    rows: int = 0


@dataclass(frozen=True, eq=False)
class GapScorer:
    """Scores rows by a value of their gaps, such as `Gaps.margin`.

    weighted: whether the value reads the weights of the gaps; gapped: whether it reads more of the gap than R.
    """

    logits: Logits
    value: Callable[[Gaps], Floats]
    screen: Screen
    weighted: bool = False
    gapped: bool = False
    _known: dict[float, float] = field(default_factory=dict)  # the widest gap for the latest `least`
    _room: Room = field(default_factory=Room)
    _helps: list[bool] = field(default_factory=lambda: [False])  # whether gaps ruled out most rows of the latest part

    def bounds(self, block: Block, least: float = -np.inf) -> Interval:
        """(low, high), each (m,), with low <= exact score <= high; -infinity is both where `least` is out of reach."""
        low, high = np.full(len(block), -np.inf), np.full(len(block), -np.inf)
        offers = self.offers()
        offers.add(Block(np.arange(len(block)), block.columns), least)
        at, *ends = offers.take(least)
        low[at], high[at] = ends
        return low, high

    def offers(self) -> GapOffers:
        """An empty collection of rows that may score what is wanted."""
        return GapOffers(self)

    def on_device(self, block: Block) -> Interval | None:
        """The intervals of all rows of a block, if a GPU computes them, in less time than sending the logits takes."""
        return self.logits.place.attempt(lambda device: self._on_device(block, device))

    def _on_device(self, block: Block, device: torch.device) -> Interval | None:
        from alray.selection.kernels.resident import usable_logits  # imports torch

        z = usable_logits(block[LOGITS], device)
        return None if z is None else self._interval(softened_on_device(z))

    def near(self, block: Block, least: float) -> Iterator[tuple[int, Near]]:
        """What is told of parts of a block at first, with the position of each part."""
        for start, part in self._parts(block):
            yield start, self._looked_at(part, least)

    def ends(self, z: Singles, eps: Floats, gap: Floats | None, least: float) -> tuple[Positions | slice, Interval]:
        """The rows of z (p, c) that may still score `least`, and the ends of their scores. gap: (p,), if it is
        known."""
        told = None
        if gap is not None and self.screen.gapped:
            told = self.screen.rows(z, eps, gap, least, self._room)
        if told is None:
            return slice(None), self._intervals(z, eps)
        rough = np.flatnonzero(told.rough)
        if len(rough):
            at = told.at[rough]
            told.low[rough], told.high[rough] = self._intervals(z[at], eps[at])
        return told.at, (told.low, told.high)

    def _parts(self, block: Block) -> Iterator[tuple[int, Block]]:
        """Parts of a block, with the position of each."""
        rows = len(block)
        if self.logits.weight is None:
            classes, plain = block[LOGITS].shape[1], block[LOGITS].dtype == np.float32
            most = max(8, (BLOCK if plain and classes > _COMPARED else _PART) // max(1, classes))
            rows = -(-len(block) // max(1, len(block) // most))  # parts of about the same length
        for start in range(0, len(block), max(1, rows)):
            yield start, block.take(slice(start, start + rows)) if rows < len(block) else block

    def _looked_at(self, part: Block, least: float) -> Near:
        z = self.logits.singles(part)
        told = None if z is None else self._at_once(z, least)
        if z is not None and told is not None:
            return Near(z, _NO_ERROR, told)
        if (plain := self.logits.usable(part)) is not None:
            return self._told(plain, _NO_ERROR, least, tried=z is not None)
        near = self.logits.approximate(part)
        if near.usable.all():
            return self._told(near.z, near.eps, least, tried=z is not None)
        at = np.flatnonzero(near.usable)
        found = self._told(near.z[at], near.eps[at], least)
        return replace(found, usable=at, rows=len(part))

    def exact(self, block: Block) -> Floats:
        """Scores (m,) in float64."""
        return self.value(gaps(self.logits.exact_rows(block), self.weighted))

    def _at_once(self, z: Singles, least: float) -> Told | None:
        """What the screen tells of logits that nobody has checked; None where it does not, as where some are not
        finite: a total would be NaN or infinite then, but that of exponentials alone if a logit is -infinity."""
        if self.screen.gapped or not len(z) or z.shape[1] == 1:
            return None
        if not self.screen.weighted and not z.min() > -np.inf:
            return None
        return self.screen.rows(z, _NO_ERROR, np.zeros(1), least, self._room)

    def _told(self, z: Singles, eps: Floats, least: float, tried: bool = False) -> Near:
        """What the screen tells of usable rows, or else those whose gaps are not too wide to score `least`. tried: the
        screen alone tells nothing."""
        if not len(z) or z.shape[1] == 1:  # with one class every score is -infinity
            ends = np.full(len(z), -np.inf)
            return Near(z, eps, Told(np.arange(len(z)), ends, ends, np.zeros(len(z), bool)))
        told = None if self.screen.gapped or tried else self.screen.rows(z, eps, np.zeros(1), least, self._room)
        if told is not None:
            return Near(z, eps, told)
        # Rounding to float32 keeps the order: a gap up to a limit is, rounded, at most the limit rounded.
        limit = ((self._widest(least, z.shape[1]) + 2 * eps) * (1 + 4 * U)).astype(np.float32)
        if self._helps[0] or not self._many(z, limit):
            first, second = self._two_largest(z)
            at = np.flatnonzero(first - second <= limit)
            self._helps[0] = len(at) * _FEW < len(z)
            if len(at) < len(z):
                return Near(z, eps, _nothing(at), first[at].astype(np.float64) - second[at])
        return Near(z, eps, _nothing(np.arange(len(z))))

    def _many(self, z: Singles, limit: Singles) -> bool:
        """Whether about half of the rows or more have gaps up to a limit, (1,) or (m,): then gaps are of no use."""
        step = max(_SAMPLE, len(z) // _SAMPLED)
        first, second = self._two_largest(z[::step])
        near = first - second <= (limit[::step] if len(limit) > 1 else limit)
        return bool(np.count_nonzero(near) * 2 * step >= len(z))

    def _two_largest(self, z: Singles) -> tuple[Singles, Singles]:
        """The largest logit and the second largest of each row, (m,), of at least two."""
        classes = z.shape[1]
        if classes <= _COMPARED:
            return self._room.two_largest(self._room.transposed(z))
        others = self._room.take("others", z.shape)
        np.copyto(others, z)
        flat, top = others.reshape(-1), np.arange(0, z.size, classes)
        top += z.argmax(axis=1)
        first = flat[top]
        flat[top] = -np.inf
        return first, largest(others, classes)

    def _intervals(self, z: Singles, eps: Floats) -> Interval:
        """The intervals of rows, of as many at once as stay in the cache."""
        step = _at_once(z.shape[1])
        if 4 * len(z) <= 5 * step:
            return self._of_some(z, eps)
        parts = [self._of_some(z[at : at + step], eps[at : at + step]) for at in range(0, len(z), step)]
        low, high = (np.concatenate(ends) for ends in zip(*parts, strict=True))
        return low, high

    def _of_some(self, z: Singles, eps: Floats) -> Interval:
        """The intervals of rows, by R where that tells them."""
        low, high, again = self._by_rest(Lines(z, self._room), eps)
        at = np.flatnonzero(again)
        if len(at):
            low[at], high[at] = self._everywhere(z[at], eps[at])
        return low, high

    def _widest(self, least: float, classes: int) -> float:
        """A gap with which no row scores `least`, nor with any larger one; rounded up."""
        if least not in self._known:
            self._known.clear()
            self._known[least] = self._searched(least, classes)
        return self._known[least]

    def _searched(self, least: float, classes: int) -> float:
        start, stop = 0.0, 2 * max(np.log(classes) - least, 0.0) + 10
        if not stop < np.inf:
            return np.inf
        for _ in range(3):
            gap = start + (stop - start) * _GRID
            could = self.value(Gaps(gap, np.full(len(gap), classes - 1.0), (classes - 1) * gap)) >= least
            last = int(np.flatnonzero(could).max(initial=0))
            start, stop = gap[last], gap[min(last + 1, len(gap) - 1)]
        return float(stop + ROUNDING * 4 * (1 + stop))

    def _by_rest(self, lines: Lines, eps: Floats) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Intervals from R, and where R is too small for them.

        Each exp is good to 110 u (its argument to u of at most 104, the function to 3 ulp), their sums to as many u as
        they have terms, as if logits moved by so much.
        """
        rest, weighted, gap = lines.sums(self.weighted, self.gapped)
        wide = 2 * eps + (4 * lines.terms + 800) * U + lines.classes * 2.0**-30 + 128 * ROUNDING
        with np.errstate(all="ignore"):
            score = self.value(Gaps(gap, rest * np.exp(gap) if self.gapped else rest, weighted))
            return score - wide, score + wide, rest < _FAINT

    def _everywhere(self, z: Singles, eps: Floats) -> Interval:
        return self._interval(softened(Approximate(z, eps, np.ones(len(z), bool))))

    def _interval(self, soft: Soft) -> Interval:
        return soft.interval(self.value(soft.gaps(self.weighted)))


class GapOffers:
    """Rows that may score what is wanted. The ends of their scores are told of many rows at once, from several blocks:
    after every short call a thread may have to wait for Python's lock."""

    def __init__(self, scorer: GapScorer) -> None:
        self._scorer = scorer
        self._clear()

    def _clear(self) -> None:
        self.waiting, self._numbers = 0, 0  # logits of rows whose scores are not told yet
        self._known: list[tuple[Rows, Floats, Floats]] = [(np.empty(0, np.int64), np.empty(0), np.empty(0))]
        self._left: dict[bool, list[tuple[Rows, Singles, Floats, Floats]]] = {True: [], False: []}  # by known gap

    def add(self, block: Block, least: float) -> None:
        """Look at the rows of a block."""
        if (ends := self._scorer.on_device(block)) is not None:
            self._tell(block.rows, *ends, least)
            return
        for start, near in self._scorer.near(block, least):
            rows = block.rows[start:]
            if near.usable is not None:  # nothing is known of the other rows
                other = np.setdiff1d(np.arange(near.rows), near.usable)
                self._tell(rows[other], np.full(len(other), -np.inf), np.full(len(other), np.inf), least)
                rows = rows[near.usable]
            told, eps = near.told, np.broadcast_to(near.eps, len(near.z))
            rough, sure = np.flatnonzero(told.rough), np.flatnonzero(~told.rough)
            self._tell(rows[told.at[sure]], told.low[sure], told.high[sure], least)
            if len(rough) and len(rough) == len(near.z):  # they are in the cache now
                at, ends = self._scorer.ends(near.z, eps, near.gap, least)
                self._tell(rows[told.at[at]], *ends, least)
            elif len(rough):
                at = told.at[rough]
                gap = np.empty(len(at)) if near.gap is None else near.gap
                self._left[near.gap is not None].append((rows[at], near.z[at], eps[at], gap))
                self.waiting += len(at)
                self._numbers += len(at) * near.z.shape[1]
                if self._numbers > BLOCK:
                    self._look(least)

    def _look(self, least: float) -> None:
        """Tell the ends of the scores that are not told yet, so that these rows' logits need not be held."""
        for known, left in self._left.items():
            if left:
                rows, z, eps, gap = left[0] if len(left) == 1 else (np.concatenate(c) for c in zip(*left, strict=True))
                left.clear()
                self.waiting -= len(rows)
                at, ends = self._scorer.ends(z, eps, gap if known else None, least)
                self._tell(rows[at], *ends, least)
        self._numbers = 0

    def _tell(self, rows: Rows, low: Floats, high: Floats, least: float) -> None:
        at = np.flatnonzero(high >= least)
        self._known.append((rows[at], low[at], high[at]))
        self.waiting += len(at)

    def take(self, least: float) -> tuple[Rows, Floats, Floats]:
        """All of these rows that may score `least`, and the ends of their scores; nothing is left."""
        self._look(least)
        rows, low, high = (np.concatenate(column) for column in zip(*self._known, strict=True))
        self._clear()
        at = np.flatnonzero(high >= least)
        return rows[at], low[at], high[at]


def _at_once(classes: int) -> int:
    """How many rows to work on at once."""
    return max(8, (_CACHED if classes <= BY_CLASS else _LONG) // max(1, classes))


def _nothing(at: Positions) -> Told:
    """Nothing is told of these rows but that they may score what is wanted."""
    return Told(at, np.full(len(at), -np.inf), np.full(len(at), np.inf), np.ones(len(at), bool))
