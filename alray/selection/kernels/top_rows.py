"""Score strategies: every shard's best rows, merged (contract C4). A shard holds numbers of the order of the budget.

top_b(A u B) = top_b(top_b(A) u top_b(B)). Where the exact score of a row is expensive, a cheap interval around it comes
first: a shard keeps the rows that could still be among the best, the driver merges the lower ends, and only rows whose
upper end reaches the budget's last place are scored exactly. Letters: n rows of the shard, m rows of a block, b budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from alray.features.arrays import LOGITS, Array, Block, Rows, Shard
from alray.selection.kernels.logits import block_rows, logits_of, needed
from alray.selection.protocol import Context, Picks, Scores, SelectionError, Shards, Strategy, Ties, best, merge

if TYPE_CHECKING:
    from alray.selection.case import Case


_MORE = 64  # rows that are kept beyond one and a half times the budget, before those that cannot be among the best go
_FIRST = 8  # the first block is cut in two; its first part has at least one of so many of its rows
_FEWER = 2  # scores are told once half as many rows wait as are kept: one half is 1 / _FEWER


class Scorer(Protocol):
    """Scores rows: an interval first, then exactly."""

    def bounds(self, block: Block, least: float = -np.inf) -> tuple[Scores, Scores]:
        """(low, high), each (m,), with low <= exact score <= high. Where they are equal they are the score. Rows that
        score under `least` are not wanted: it is enough that their upper end says so."""
        ...

    def exact(self, block: Block) -> Scores:
        """Scores (m,), each a float64 function of its row alone, whatever else is in the block."""
        ...


class Offers(Protocol):
    """Rows that may be among the best, collected over blocks. A scorer may have a method `offers` that returns an empty
    collection of its own, which it can look at together."""

    waiting: int
    """How many rows there are."""

    def add(self, block: Block, least: float) -> None:
        """Add those rows of a block that may score `least`."""
        ...

    def take(self, least: float) -> tuple[Rows, Scores, Scores]:
        """Those that may score `least`, and both ends of their scores; nothing is left."""
        ...


class ScoreStrategy(Strategy):
    """A strategy that gives every row a score and takes the highest scores. Only `score` must be written::

    @dataclass(frozen=True)
    class Gini(ScoreStrategy):
        needs = frozenset({"logits"})

        def score(self, block):
            z = block["logits"] - block["logits"].max(axis=1, keepdims=True)
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            return 1 - (p**2).sum(axis=1)
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})
    stored: ClassVar[int] = 1 << 18  # numbers per block of stored logits

    def score(self, block: Block) -> Scores:
        """block: `rows` (m,) and what the strategy needs as float64 columns -> (m,) float64, higher is taken first.

        A row's score must not depend on the other rows of the block (a matrix product's last bits do); NaN is refused.
        """
        raise NotImplementedError(f"{type(self).__name__}.score")

    def scorer(self, shard: Shard, context: Context) -> Scorer:
        """The scorer of this shard's rows. Override it to bound scores cheaply or to use the context."""
        return _Own(self, shard, context)

    def open(self, shard: Shard, context: Context) -> TopRows:
        """The shard-side state."""
        shard = needed(shard, self.needs)
        place = logits_of(shard, context).place if self.uses_gpu else None
        size = block_rows(shard, context, self.stored, place)
        return TopRows(shard, self.scorer(shard, context), context.ties, size)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """The `budget` rows with the highest scores, in order; equal ones by a hash of (seed, round, row)."""
        lows = np.concatenate(shards.map("propose", budget))
        least = np.partition(lows, len(lows) - budget)[len(lows) - budget]
        return Picks(*merge(shards.map("answer", budget, float(least)), budget, context.ties))

    def score_of(self, case: Case) -> float | None:
        """The exact score of the row, as the selection would compute it."""
        found = case.block(self.needs)
        return None if found is None else float(self.scorer(found[0], case.context).exact(found[1])[0])


@dataclass(frozen=True)
class _Found:
    rows: Rows
    low: Scores
    high: Scores

    def __getitem__(self, at: Array) -> _Found:
        return _Found(self.rows[at], self.low[at], self.high[at])


_NONE = _Found(np.empty(0, np.int64), np.empty(0), np.empty(0))


class TopRows:
    """One shard's rows that can be among the b best. Holds O(b) numbers; a repeated call gives the same answer.

    ties: the order of equal scores; size: rows worked on at once; slack: rows beyond the budget that it may keep for
    later because their intervals overlap; with more, it decides by exact scores.
    """

    def __init__(self, shard: Shard, scorer: Scorer, ties: Ties, size: int, slack: int = 1 << 13) -> None:
        self._shard, self._scorer, self._ties, self._size, self._slack = shard, scorer, ties, size, slack
        self._budget, self._found = -1, _NONE

    def propose(self, budget: int) -> Scores:
        """Lower ends of the scores of (at most) `budget` rows, the highest ones."""
        low = self._candidates(budget).low
        return low if len(low) <= budget else np.partition(low, len(low) - budget)[len(low) - budget :]

    def answer(self, budget: int, least: float) -> tuple[Rows, Scores]:
        """The best rows, at most `budget`, with their exact scores, among those that can score `least` or more."""
        found = self._candidates(budget)
        return best(*self._exact(found[found.high >= least]), budget, self._ties)

    def _candidates(self, budget: int) -> _Found:
        if self._budget == budget:
            return self._found
        parts, held, least = [_NONE], 0, -np.inf
        most = few = budget + budget // 2 + _MORE
        offers = self._offers()
        for block in self._blocks(2 * few):
            offers.add(block, least)
            if held + offers.waiting <= most or offers.waiting < few // _FEWER:
                continue
            parts.append(_Found(*offers.take(least)))
            held += len(parts[-1].rows)
            if held > most:
                found, least = self._sort_out(_join(parts), budget)
                parts, held = [found], len(found.rows)
                most = max(few, held + held // 2)
        parts.append(_Found(*offers.take(least)))
        self._found, self._budget = self._sort_out(_join(parts), budget)[0], budget
        return self._found

    def _blocks(self, few: int) -> Iterator[Block]:
        """All rows. Of the first block a part comes first, whose scores rule out most of the others."""
        first = max(few, self._size // _FIRST)
        for number, block in enumerate(self._shard.blocks(self._size)):
            if number or len(block) <= 2 * first:
                yield block
            else:
                yield block.take(slice(first))
                yield block.take(slice(first, None))

    def _offers(self) -> Offers:
        own: Callable[[], Offers] | None = getattr(self._scorer, "offers", None)
        return _Offers(self._scorer) if own is None else own()

    def _sort_out(self, found: _Found, budget: int) -> tuple[_Found, float]:
        """Drop rows that cannot be among the best; score exactly where intervals overlap too much to decide."""
        if len(found.rows) <= budget:
            return found, -np.inf
        least = np.partition(found.low, len(found.low) - budget)[len(found.low) - budget]
        found = found[found.high >= least]
        if len(found.rows) > budget + self._slack:
            rows, scores = best(*self._exact(found), budget, self._ties)
            found, least = _Found(rows, scores, scores), scores[-1]
        return found, float(least)

    def _exact(self, found: _Found) -> tuple[Rows, Scores]:
        known = found.low == found.high
        rows, scores = [found.rows[known]], [found.low[known]]
        unknown = np.sort(found.rows[~known])
        for start in range(0, len(unknown), self._size):
            block = self._shard.take(unknown[start : start + self._size])
            rows.append(block.rows)
            scores.append(self._scorer.exact(block))
        return np.concatenate(rows), np.concatenate(scores)


class _Offers:
    """Rows whose bounds are computed block by block."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._found = scorer, [_NONE]
        self.waiting = 0

    def add(self, block: Block, least: float) -> None:
        low, high = self._scorer.bounds(block, least)
        keep = np.flatnonzero(high >= least)
        self._found.append(_Found(block.rows[keep], low[keep], high[keep]))
        self.waiting += len(keep)

    def take(self, least: float) -> tuple[Rows, Scores, Scores]:
        found, self._found, self.waiting = _join(self._found), [_NONE], 0
        return found.rows, found.low, found.high


def _join(parts: list[_Found]) -> _Found:
    columns = ([getattr(part, name) for part in parts] for name in ("rows", "low", "high"))
    return _Found(*(np.concatenate(column) for column in columns))


class _Own:
    """The scorer of a strategy that only has `score`: its scores are exact without a bound before."""

    def __init__(self, strategy: ScoreStrategy, shard: Shard, context: Context) -> None:
        self._strategy = strategy
        self._logits = logits_of(shard, context) if LOGITS in strategy.needs else None

    def bounds(self, block: Block, least: float = -np.inf) -> tuple[Scores, Scores]:
        scores = self.exact(block)
        return scores, scores

    def exact(self, block: Block) -> Scores:
        given, name = np.asarray(self._strategy.score(self._view(block))), type(self._strategy).__name__
        if given.dtype.kind not in "iufb":
            raise SelectionError(f"{name}.score: expected numbers (m,), got {given.dtype} of shape {given.shape}")
        scores: Scores = given.astype(np.float64, copy=False)
        if scores.shape != (len(block),):
            raise SelectionError(f"{name}.score: expected shape ({len(block)},), got {scores.shape}")
        if np.isnan(scores).any():
            raise SelectionError(f"{name}.score: row {int(block.rows[int(np.argmax(np.isnan(scores)))])} scored NaN")
        return scores

    def _view(self, block: Block) -> Block:
        columns = {
            name: block[name].astype(np.float64) if block[name].dtype.kind == "f" else block[name]
            for name in self._strategy.needs
            if name in block.columns and name != LOGITS
        }
        if self._logits is not None:
            columns[LOGITS] = self._logits.exact_rows(block)
        return Block(block.rows, columns)
