"""Partitioned strategies, as in the BASE paper's ImageNet runs: approximate, kept to reproduce published baselines.

The pool and the labeled rows are shuffled and split, each on its own, into near-equal parts. A strategy runs in every
part, with a share of the budget and of the labeled rows. The exact strategies cost no more (see benchmarks).
Letters: n rows, k picks, P parts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, LOGITS, Rows, Shard, ShardSource, cut
from alray.features.row_runs import RowRuns
from alray.keyed import priorities
from alray.selection.case import Case
from alray.selection.kernels.ranks import DIGIT, Hashes, among, digits
from alray.selection.options import Count, Flag, with_options
from alray.selection.protocol import LABELED, Context, Metric, Picks, Shards, Strategy
from alray.selection.strategies.badge import Badge
from alray.selection.strategies.k_center import KCenter
from alray.selection.zero_vectors import counted, remarks

if TYPE_CHECKING:
    from alray.selection.kernels.sieve import Sieve

_BLOCK = 1 << 16  # rows hashed together
Limits = tuple[int, ...]  # hash priorities at which parts begin, the first 0


class _Partitioned(Strategy):
    """Cuts the rows into parts, runs the inner strategy in each part, and joins the picks."""

    parts: int

    @abstractmethod
    def _inner(self) -> Strategy:
        """The strategy that runs in each part."""

    def open(self, shard: Shard, context: Context) -> PartStates:
        """The shard-side state."""
        return PartStates(shard, self._inner(), context)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, part by part."""
        parts = min(self.parts, budget)
        limits = _limits_of(shards, parts)
        known = context.labeled.open().rows() if context.labeled else np.empty(0, np.int64)
        labeled = _limits(known, parts, _stream(context, "labeled"), context.seed)
        found = []
        for number, share in enumerate(cut(budget, parts)):
            one = _OnePart(shards, number, limits, labeled, share.start)
            inner = replace(context, labeled=_part_source(context, labeled, number))
            found.append(self._inner().select(one, share.stop - share.start, inner))
        return Picks(np.concatenate([p.rows for p in found]), np.concatenate([p.scores for p in found]))

    def reasons(self, case: Case) -> list[str]:
        """Its part, and the reasons of the inner strategy there."""
        if not case.took_part:
            return [case.absent]
        context, parts = case.context, min(self.parts, len(case.picks))
        stream = _stream(context, "pool")
        limits = _limits(case.offered, parts, stream, context.seed)
        row = np.array([case.row])
        number = next(n for n in range(parts) if _inside(row, n, limits, stream, context.seed)[0])
        known = context.labeled.open().rows() if context.labeled else np.empty(0, np.int64)
        labeled = _limits(known, parts, _stream(context, "labeled"), context.seed)
        share = cut(len(case.picks), parts)[number]
        inner = replace(
            case,
            picks=Picks(case.picks.rows[share], case.picks.scores[share]),
            context=replace(context, labeled=_part_source(context, labeled, number)),
            offered=case.offered[_inside(case.offered, number, limits, stream, context.seed)],
        )
        said = f"It is in part {number + 1:,} of {parts:,}. Each part chooses by itself; the numbers are those of it."
        return [said, *self._inner().reasons(inner)]


@with_options
class PartitionedKCenter(_Partitioned):
    """k-center greedy in each of `parts` parts. Score: the distance when picked, within the part."""

    parts: Count = 10
    """How many parts the pool and the labeled rows are cut into."""
    metric: Metric = "l2"
    """l2: distance of the embeddings; cosine: distance of the normalised embeddings."""
    first: Literal["largest_norm", "random"] = "random"
    """The first pick of a part where nothing is labeled: the row with the largest embedding, or a random one."""

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING, LABELED})
    uses_gpu: ClassVar[bool] = True

    def _inner(self) -> Strategy:
        return _KCenterInPart(self.metric, self.first)

    def open(self, shard: Shard, context: Context) -> PartStates:
        """The shard-side state."""
        return counted(super().open(shard, context), shard, self.metric)

    def remarks(self, picks: Picks) -> list[str]:
        """How many zero vectors there are for the cosine metric."""
        return remarks("partitioned_k_center", picks)


@with_options
class _KCenterInPart(KCenter):
    def open(self, shard: Shard, context: Context) -> Sieve:
        return self._state(shard, context)


@with_options
class PartitionedBadge(_Partitioned):
    """BADGE in each of `parts` parts. Score: the squared distance in gradient space when picked, within the part."""

    parts: Count = 10
    """How many parts the pool and the labeled rows are cut into."""
    pooled: Flag = True
    """true: gradients are averaged over neighbouring classes and columns, as in the BASE paper's code, to min(16, c) x
    floor(512 / min(16, c)) numbers. false: whole gradients."""
    centers: Literal["labeled", "picks"] = "labeled"
    """labeled: the labeled rows are centers from the start. picks: only picked rows are centers."""
    first: Literal["largest_norm", "random"] = "random"
    """The first pick of a part where there is no center yet: the row with the largest gradient, or a random one."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS, EMBEDDING, LABELED})

    def _inner(self) -> Strategy:
        return _PooledBadge(self.centers, self.first) if self.pooled else Badge(self.centers, self.first)


@with_options
class _PooledBadge(Badge):
    def factors(self, shard: Shard, context: Context) -> Any:
        factors = super().factors(shard, context)
        classes = context.num_classes or (1 if context.head is None else len(context.head[1]))
        classes = min(16, classes)
        return replace(factors, pooled=(classes, 512 // classes))


class PartStates:
    """The state of the part of a shard that is being worked on; made again for every other part or cut."""

    def __init__(self, shard: Shard, strategy: Strategy, context: Context) -> None:
        self._shard, self._strategy, self._context = shard, strategy, context
        self._states: dict[tuple[int, Limits, Limits], Any] = {}
        self._parts: tuple[Limits, npt.NDArray[np.unsignedinteger]] | None = None  # each row's part, for these limits

    def digits(self) -> npt.NDArray[np.int64]:
        """How many rows have each of the first 16 bits of a hash priority."""
        counts = np.zeros(1 << DIGIT, np.int64)
        for block in self._hashes():
            counts += digits(block, 64 - DIGIT)
        return counts

    def hashes(self, first: npt.NDArray[np.int64]) -> Hashes:
        """The hash priorities with these first 16 bits (ascending)."""
        kept = [block[among((block >> np.uint64(64 - DIGIT)).astype(np.int64), first)] for block in self._hashes()]
        return np.concatenate([np.empty(0, np.uint64), *kept])

    def _hashes(self) -> Iterator[Hashes]:
        rows = self._shard.rows()
        for start in range(0, len(rows), _BLOCK):
            yield priorities(self._context.seed, _stream(self._context, "pool"), rows[start : start + _BLOCK])

    def _parts_of(self, limits: Limits) -> npt.NDArray[np.unsignedinteger]:
        """Which part each row is in, (n,). All rows are hashed once, and not for every part."""
        if self._parts is None or self._parts[0] != limits:
            starts = np.array([limit for limit in limits[1:] if limit < 2**64], np.uint64)  # ascending
            kind = np.min_scalar_type(len(limits))
            parts = [np.searchsorted(starts, block, side="right").astype(kind) for block in self._hashes()]
            self._parts = limits, np.concatenate([np.empty(0, kind), *parts])
        return self._parts[1]

    def call(self, number: int, limits: Limits, labeled: Limits, method: str, *args: Any) -> Any:
        """Call a method of the state of one part."""
        key = (number, limits, labeled)
        if key not in self._states:
            inside = self._parts_of(limits) == number
            context = replace(self._context, labeled=_part_source(self._context, labeled, number))
            self._states = {key: self._strategy.open(_restricted(self._shard, inside), context)}
        return getattr(self._states[key], method)(*args)


@dataclass
class _OnePart:
    """The shards as the inner strategy sees them."""

    shards: Shards
    number: int
    limits: Limits
    labeled: Limits
    picks: int  # made in earlier parts

    def map(self, method: str, *args: Any) -> list[Any]:
        return self.shards.map("call", self.number, self.limits, self.labeled, method, *args)

    def report_progress(self, picks: int) -> None:
        self.shards.report_progress(self.picks + picks)


@dataclass(frozen=True)
class _PartSource:
    """The rows of a source that are in one part."""

    source: ShardSource
    number: int
    limits: Limits
    stream: str
    seed: int

    def open(self) -> Shard:
        shard = self.source.open()
        return _restricted(shard, _inside(shard.rows(), self.number, self.limits, self.stream, self.seed))

    def row_parts(self) -> Iterable[RowRuns]:
        return [segment.rows for segment in self.open().segments]


def _part_source(context: Context, limits: Limits, number: int) -> ShardSource | None:
    if context.labeled is None:
        return None
    return _PartSource(context.labeled, number, limits, _stream(context, "labeled"), context.seed)


def _stream(context: Context, what: str) -> str:
    return f"partitioned/{context.round}/{what}"


def _limits(rows: Rows, parts: int, stream: str, seed: int) -> Limits:
    """The hash priorities at which the parts begin, so that parts are near-equal, the first ones longer."""
    ordered = np.sort(priorities(seed, stream, rows))
    starts = [part.start for part in cut(len(rows), parts)]
    return tuple(0 if not i else int(ordered[s]) if s < len(rows) else 2**64 for i, s in enumerate(starts))


def _limits_of(shards: Shards, parts: int) -> Limits:
    """The same for all rows of the shards, of which only few hash priorities are asked for: those that begin with the
    same bits as a limit."""
    counts = np.sum(shards.map("digits"), axis=0)
    upto = np.cumsum(counts)
    starts = [part.start for part in cut(int(upto[-1]), parts)]
    first = np.minimum(np.searchsorted(upto, starts, side="right"), len(counts) - 1)  # of a part without rows: any
    hashes = np.sort(np.concatenate(shards.map("hashes", np.unique(first))))
    limits = []
    for start, digit in zip(starts, first.tolist(), strict=True):
        at = int(np.searchsorted(hashes, np.uint64(digit << (64 - DIGIT)))) + start - int(upto[digit] - counts[digit])
        limits.append(0 if start == 0 else int(hashes[at]) if start < upto[-1] else 2**64)
    return tuple(limits)


def _inside(rows: Rows, number: int, limits: Limits, stream: str, seed: int) -> np.ndarray:
    hashes = priorities(seed, stream, rows)
    low, high = limits[number], limits[number + 1] if number + 1 < len(limits) else 2**64
    inside = np.ones(len(rows), bool) if low < 2**64 else np.zeros(len(rows), bool)
    if 0 < low < 2**64:
        inside &= hashes >= np.uint64(low)
    return inside if high == 2**64 else inside & (hashes < np.uint64(high))


def _restricted(shard: Shard, inside: np.ndarray) -> Shard:
    segments, start = [], 0
    for segment in shard.segments:
        at = np.flatnonzero(inside[start : start + len(segment.rows)])
        positions = RowRuns.of(at if segment.positions is None else segment.positions.at(at))
        segments.append(replace(segment, rows=RowRuns.of(segment.rows.at(at)), positions=positions))
        start += len(segment.rows)
    return Shard(segments)
