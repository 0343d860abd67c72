"""The driver's side of the exact k-center: how far the shards must look, and which of the rows they send are picked.

Letters: n rows, k picks, w rows to send, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alray.features.arrays import EMBEDDING, Array, Block, Rows
from alray.selection.kernels.distance import Space
from alray.selection.kernels.greedy import greedy
from alray.selection.kernels.held import Chosen
from alray.selection.kernels.logits import Floats
from alray.selection.kernels.matrices import twice_less
from alray.selection.kernels.one_center import one_center
from alray.selection.kernels.settled import moderate
from alray.selection.kernels.sieve import Far
from alray.selection.kernels.thin import few_columns
from alray.selection.protocol import Context, Key, Metric, Shards

_PER_PICK, _AT_LEAST = 1.5, 4096  # rows to send: so many per missing pick, and at least so many in all
_PER_PICK_LATER = 4  # from the second round on
_POOR = 0.1  # a round that found less than this share of the missing picks
_MOST_THIN = 1 << 16  # rows of few columns that the driver holds together: 17 MB, see `alray.selection.kernels.thin`
_WIDER, _ALLOWED = 6, 1.25  # rows to send: at most so many times more, if they are to allow so many times the picks
_HOPELESS = 50  # where so many times the picks are needed, such as among copies, more rows are no help
_COMPARED = 1024  # sampled rows that are compared with each other
_HELD = 1 << 26  # numbers the driver holds at once: 256 MB as float32, and several times that while it works on them


class Search:
    """The driver's side: it holds the picks and decides how far the shards must look for more."""

    def __init__(self, metric: Metric, rule: str, shards: Shards, context: Context) -> None:
        self._rule, self._shards, self._context = rule, shards, context
        sizes = shards.map("count")
        self.n, self._parts = sum(sizes), len(sizes)
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
        fits = self.n <= self._most
        width = self._space.mean.shape[0]
        thin = few_columns(width) and self.n <= _MOST_THIN
        few = self._labeled() <= (1 if moderate(width, self.n, k) else 0)  # then all distances are measured by one pass
        per_pick, ceiling, whole = _PER_PICK, np.inf, fits and (thin or few)
        while (missing := k - sum(len(part.rows) for part in self._picked)) > 0:
            wanted = (
                self.n if whole else int(min(max(per_pick * missing, _AT_LEAST * per_pick / _PER_PICK), self._most))
            )
            before, ceiling = missing, self._round(missing, wanted, ceiling)
            missing = k - sum(len(part.rows) for part in self._picked)
            # Where a round finds few, picks change the distances of many rows, and the driver is better off with all.
            whole = fits and (thin or before - missing < _POOR * before)
            per_pick = max(2 * per_pick, _PER_PICK_LATER)  # the estimated threshold was too high: ask for more rows
        return self._rows()[:k], np.concatenate([part.squared for part in self._picked])[:k]

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
        most = -(-2 * wanted // self._parts)
        far = self._shards.map("far", self._space, picks, picks.rows, threshold, most)
        rest = max((part.rest for part in far), key=lambda key: (key[0], -key[1]))
        self._picked.append(greedy(self._space, _joined(far), missing, rest))
        self._shards.report_progress(sum(len(part.rows) for part in self._picked))
        return float(rest[0])

    def _threshold(self, picks: Block, missing: int, wanted: int) -> tuple[float, int]:
        """A distance that about `wanted` rows exceed, or more of them if needed, and how many these are."""
        share = _share(int(np.clip(64 * self.n / wanted, 2048, 16384)), self.n)
        parts = self._shards.map("estimate", self._space, picks, share)
        rows, upper = (np.concatenate(column) for column in zip(*parts, strict=True))
        left = max(1, self.n - len(picks))
        most = min(self._most, left - 1, _WIDER * wanted)
        known, there = np.isin(rows, self._sampled), np.isin(self._sampled, rows)
        order = np.argsort(-upper[known], kind="stable")
        wanted = _enough(self._space, self._sample[there][order], upper[known][order], left, missing, wanted, most)
        return _guess(upper, wanted / left), wanted

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
    where many of the farthest rows are neighbours. If these are not enough either, it is `wanted`: fewer at first.

    vectors (s, d), squared (s,): rows of a sample, farthest first.
    """
    stands_for, needed = n / max(1, len(squared)), _ALLOWED * missing
    first = min(len(squared), int(wanted / stands_for))
    allowed = _allowed(_apart(space, vectors[:first]), squared[:first], stands_for)
    if allowed >= needed or allowed < needed / _HOPELESS:
        return wanted
    last = min(len(squared), int(most / stands_for))
    step = max(1, -(-last // _COMPARED))
    apart, squared, stands_for = _apart(space, vectors[:last:step]), squared[:last:step], stands_for * step
    more = max(wanted, most)
    if _allowed(apart, squared, stands_for) < needed:
        return wanted
    while more > wanted:
        less = int(max(wanted, 0.8 * more))
        count = max(1, int(less / stands_for))
        if _allowed(apart[:count, :count], squared[:count], stands_for) < needed:
            break
        more = less
    return more


def _apart(space: Space, vectors: Array) -> Floats:
    """The squared distances of stored rows (s, d), (s, s)."""
    x = space.numbers(vectors, np.float64)
    squares = np.einsum("sd,sd->s", x, x)
    return np.asarray(np.maximum(twice_less(squares[None], x, x) + squares[:, None], 0.0) * space.unit)


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
