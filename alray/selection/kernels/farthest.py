"""The driver's side of the exact k-center: how far the shards must look, and which of the rows they send are picked.

Where rows have few columns, or many of them would have to be sent, the driver takes all rows instead, as many as it has
room for, and compares them with the centers itself: that is cheaper than to filter them first. Both ways make the same
picks, and which one is taken follows from counts and a sample, never from time.

Letters: n rows, k picks, w rows to send, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alray.features.arrays import EMBEDDING, Array, Block, Rows
from alray.selection.kernels.centers import shuffled
from alray.selection.kernels.compared import first_of_copies
from alray.selection.kernels.distance import Space
from alray.selection.kernels.far import Far
from alray.selection.kernels.greedy import greedy
from alray.selection.kernels.held import Chosen
from alray.selection.kernels.logits import Floats, needed
from alray.selection.kernels.matrices import all_apart
from alray.selection.kernels.one_center import one_center
from alray.selection.kernels.settled import moderate
from alray.selection.kernels.thin import few_columns
from alray.selection.protocol import Context, Key, Metric, Shards

_PER_PICK, _AT_LEAST = 1.5, 4096  # rows to send: so many per missing pick, and at least so many in all
_PER_PICK_LATER = 4  # from the second round on
_POOR = 0.1  # a round that found less than this share of the missing picks
_MOST_THIN = 1 << 16  # rows of few columns that the driver holds together: 17 MB, see `alray.selection.kernels.thin`
_WIDER, _ALLOWED = 6, 1.25  # rows to send: at most so many times more, if they are to allow so many times the picks
_HOPELESS = 50  # where so many times the picks are needed, such as among copies, more rows are no help
_LABELED = 4  # times the picks: with so many labeled rows at most the driver compares all rows that it holds
_COLUMNS = 128  # of rows of d columns at most the share d / 128 is sent: holding all of few columns costs less
_COMPARED = 1024  # sampled rows that are compared with each other
_BEFORE_COPIES: Key = (0.0, -1)  # what rows at a larger distance than 0 beat
_HELD = 1 << 26  # numbers the driver holds at once: 256 MB as float32, and several times that while it works on them


class Search:
    """The driver's side: it holds the picks and decides how far the shards must look for more."""

    def __init__(self, metric: Metric, rule: str, shards: Shards, context: Context) -> None:
        self._rule, self._shards, self._context = rule, shards, context
        sizes = shards.map("count")
        self.n: int = sum(sizes)
        self._parts = len(sizes)
        parts = [part for part in shards.map("sample", _share(4096, self.n)) if len(part)]
        self._sampled = np.concatenate([part.rows for part in parts])
        sample = self._sample = np.concatenate([part[EMBEDDING] for part in parts])
        self._space = Space.around(metric, sample)
        self._most = max(_AT_LEAST, _HELD // sample.shape[1])
        self._picked = [Chosen(np.empty(0, np.int64), np.empty((0, sample.shape[1]), sample.dtype), np.empty(0))]

    def until(self, k: int) -> tuple[Rows, Floats]:
        """The first k picks and their squared distances."""
        if not self._labeled():
            self._picked.append(self._first())
        self._sent, fits = self._most_sent(k), self.n + self._labeled() <= self._most
        per_pick, ceiling, poor = _PER_PICK, np.inf, False
        while (missing := k - sum(len(part.rows) for part in self._picked)) > 0:
            wanted = int(min(max(per_pick * missing, _AT_LEAST * per_pick / _PER_PICK), self._most))
            wanted = self.n if poor or wanted > self._sent else wanted
            before, ceiling = missing, self._round(missing, wanted, ceiling)
            missing = k - sum(len(part.rows) for part in self._picked)
            # Where a round finds few, picks change the distances of many rows, and the driver is better off with all.
            poor = fits and before - missing < _POOR * before
            per_pick = max(2 * per_pick, _PER_PICK_LATER)  # the estimated threshold was too high: ask for more rows
        return self._rows()[:k], np.concatenate([part.squared for part in self._picked])[:k]

    def _most_sent(self, k: int) -> int:
        """So many rows are sent at most. Where more are needed, it costs less if the driver holds all rows and
        compares them with the centers itself; n: it does not."""
        width, labeled = len(self._space.mean), self._labeled()
        self._holds = self.n + labeled <= self._most and (
            few_columns(width)
            or (labeled <= 1 and moderate(width, self.n, k))
            or (labeled <= _LABELED * k and moderate(width))
        )
        if not self._holds:
            return self.n
        if few_columns(width):
            return 0 if self.n <= _MOST_THIN else self.n
        return 0 if labeled <= 1 else self.n * width // _COLUMNS

    def account(self) -> dict[str, int]:
        """What choosing among the rows that were sent has cost, in counted operations on single numbers."""
        return {"driver_operations": int(sum(part.spent for part in self._picked))}

    def _round(self, missing: int, wanted: int, ceiling: float) -> float:
        """One pass of the sieve and the picks it allows; returns the bound of all other rows."""
        picks = Block(self._rows(), {EMBEDDING: np.concatenate([part.vectors for part in self._picked])})
        threshold = 0.0
        if wanted < self.n:
            threshold, wanted = self._threshold(picks, missing, wanted)
            threshold = min(threshold, ceiling)
        if wanted >= self.n and self._holds:
            self._picked.append(self._among_all(picks, missing))
            self._shards.report_progress(sum(len(part.rows) for part in self._picked))
            return -np.inf
        most = -(-2 * wanted // self._parts)
        far = self._shards.map("far", self._space, picks, picks.rows, threshold, most)
        rest = max((part.rest for part in far), key=lambda key: (key[0], -key[1]))
        self._picked.append(greedy(self._space, _joined(far), missing, rest))
        self._shards.report_progress(sum(len(part.rows) for part in self._picked))
        return float(rest[0])

    def _among_all(self, picks: Block, missing: int) -> Chosen:
        """Picks among all rows, held by the driver, which compares them with the labeled rows and the picks, too."""
        rows, vectors = self._left(picks.rows)
        centers = [picks[EMBEDDING]]
        if self._context.labeled is not None:
            centers += shuffled(needed(self._context.labeled.open(), frozenset({EMBEDDING})))
        around = np.concatenate(centers)
        first = first_of_copies(vectors)
        some = (rows, vectors) if len(first) == len(rows) else (rows[first], vectors[first])
        held = Chosen(*some, np.full(len(first), np.inf))
        found = greedy(self._space, held, missing, _BEFORE_COPIES, around[first_of_copies(around)])
        if len(found.rows) == missing:
            return found
        # All that are left are copies of centers: the lowest row first.
        copies = np.setdiff1d(rows, found.rows)[: missing - len(found.rows)]
        vectors = np.concatenate([found.vectors, vectors[np.searchsorted(rows, copies)]])
        squared = np.append(found.squared, np.zeros(len(copies)))
        return Chosen(np.append(found.rows, copies), vectors, squared, found.spent)

    def _left(self, picked: Rows) -> tuple[Rows, Array]:
        """All rows but these, ascending, and their stored vectors."""
        there = [part for part in self._shards.map("everything") if len(part)]
        rows, vectors = np.concatenate([part.rows for part in there]), np.concatenate([p[EMBEDDING] for p in there])
        at = np.flatnonzero(~np.isin(rows, picked))
        at = at[np.argsort(rows[at], kind="stable")]
        whole = len(at) == len(rows) and (at[1:] > at[:-1]).all()
        return (rows, vectors) if whole else (rows[at], vectors[at])

    def _threshold(self, picks: Block, missing: int, wanted: int) -> tuple[float, int]:
        """A distance that about `wanted` rows exceed, or more of them if needed, and how many these are."""
        share = _share(int(np.clip(64 * self.n / wanted, 2048, 16384)), self.n)
        parts = self._shards.map("estimate", self._space, picks, share)
        rows, upper = (np.concatenate(column) for column in zip(*parts, strict=True))
        left = max(1, self.n - len(picks))
        most = min(self._most, left - 1, self._sent if self._sent < self.n else _WIDER * wanted)
        known, there = np.isin(rows, self._sampled), np.isin(self._sampled, rows)
        order = np.argsort(-upper[known], kind="stable")
        enough = _enough(self._space, self._sample[there][order], upper[known][order], left, missing, wanted, most)
        if not enough and self._sent < self.n:
            return 0.0, self.n
        return _guess(upper, (enough or wanted) / left), enough or wanted

    def _rows(self) -> Rows:
        return np.concatenate([part.rows for part in self._picked])

    def _labeled(self) -> int:
        return 0 if self._context.labeled is None else len(self._context.labeled.open())

    def _first(self) -> Chosen:
        found = self._shards.map("first", self._rule, self._context.seed, self._context.round)
        offers: list[tuple[Key, Array]] = [offer for offer in found if offer is not None]
        (_, row), vector = max(offers, key=lambda offer: (offer[0][0], -offer[0][1]))
        if self._rule == "one_center":
            (_, row), vector = one_center(self._space, self._shards, ((0.0, row), vector))
        return Chosen(np.array([row]), vector, np.array([np.inf]))


def _share(size: int, n: int) -> int:
    """The threshold of hash priorities that about `size` of n rows stay below."""
    return 2**64 if size >= n else int(size / n * 2**64)


def _guess(upper: Floats, share: float) -> float:
    """A threshold that about this share of the sampled rows reaches; only the speed depends on it."""
    at = int(share * len(upper))
    return 0.0 if at >= len(upper) else float(np.partition(upper, len(upper) - 1 - at)[len(upper) - 1 - at])


def _enough(space: Space, vectors: Array, squared: Floats, n: int, missing: int, wanted: int, most: int) -> int:
    """How many of the farthest of n rows to send, so that they allow about `missing` picks: `wanted`, or up to `most`
    where many of the farthest rows are neighbours; 0 if these are not enough either.

    vectors (s, d), squared (s,): rows of a sample, farthest first.
    """
    stands_for, needed = n / max(1, len(squared)), _ALLOWED * missing
    first = min(len(squared), int(wanted / stands_for))
    allowed = _allowed(_apart(space, vectors[:first]), squared[:first], stands_for)
    if allowed >= needed:
        return wanted
    if allowed < needed / _HOPELESS:
        return 0
    last = min(len(squared), int(most / stands_for))
    step = max(1, -(-last // _COMPARED))
    apart, squared, stands_for = _apart(space, vectors[:last:step]), squared[:last:step], stands_for * step
    more = max(wanted, most)
    if _allowed(apart, squared, stands_for) < needed:
        return 0
    while more > wanted:
        less = int(max(wanted, 0.8 * more))
        count = max(1, int(less / stands_for))
        if _allowed(apart[:count, :count], squared[:count], stands_for) < needed:
            break
        more = less
    return more


def _apart(space: Space, vectors: Array) -> Floats:
    """The squared distances of stored rows (s, d), (s, s)."""
    apart, _ = all_apart(space.numbers(vectors, np.float64))
    np.maximum(apart, 0.0, out=apart)
    apart *= space.unit
    return apart


def _allowed(apart: Floats, squared: Floats, stands_for: float) -> float:
    """About how many picks can be made among rows that are this far apart (s, s) and from the centers (s,), the
    farthest first, if each stands for so many.

    A pick takes away the rows that are nearer to it than the threshold. If row i has d_i such neighbours, there are
    sum 1 / (1 + d_i) rows or more of which none is a neighbour of another (Caro 1979, Wei 1981).
    """
    if not len(squared):
        return np.inf
    neighbours = stands_for * np.maximum(np.count_nonzero(apart < squared[-1], axis=1) - 1, 0)
    return float(stands_for * (1 / (1 + neighbours)).sum())


def _joined(far: Sequence[Far]) -> Chosen:
    there = [part for part in far if len(part.rows)] or far[:1]
    return Chosen(
        np.concatenate([part.rows for part in there]),
        np.concatenate([part.vectors for part in there]),
        np.concatenate([part.squared for part in there]),
    )
