"""The shard's side of BADGE's race: every row has a clock, and rings with a rate that is at least its weight.

D^2 sampling picks rows with probability proportional to w(i), the squared distance to the nearest center. Give every
row a Poisson clock of rate w0(i) >= w(i) and accept a ring with probability w(i) / w0(i): the accepted rings are those
of clocks with rates w(i), so the next one is row i with probability w(i) / sum w. Times and acceptance are hashes of
(seed, round, epoch, row, number of the ring), so the picks are a function of data and seed alone (contract C4); and
only rows that ring are ever compared with all centers. w0 is the distance to one first center; when few rings are
accepted a new epoch begins with w0 = w.

Of most rows only an upper bound of w0 is known, and so the earliest time at which they can ring. A row's w0 is computed
when that time has come; bounds stay valid from epoch to epoch, as weights only become smaller. Gradients in float32
rule out most of the rows (`alray.selection.kernels.rough`). Letters: n rows of the shard, m centers, p rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Rows, Shard
from alray.keyed import by_key, fractions, priorities, stream_key
from alray.selection.kernels.gradients import Factors, Gradients, concatenated
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.kernels.rough import NEGLIGIBLE
from alray.selection.kernels.weights import ROWS, WeightBounds
from alray.selection.protocol import Key, beats

_NOTHING = 2.0**-960  # smaller weights count as 0: their clocks would never ring
_AHEAD, _NUMBERS = 4096, 1 << 18  # rings of a row that are looked at together, and of all rows

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """One race: its number, the first center (of epoch 0), the picks so far, and how many of them w0 accounts for."""

    seed: int
    round: int
    number: int
    first: Gradients
    picks: Gradients
    known: int

    def key(self, what: str, ring: int) -> int:
        """The key of the hashes of all rows' rings with this number."""
        return stream_key(self.seed, f"badge/{self.round}/{self.number}/{what}/{ring}")


@dataclass(frozen=True, eq=False)
class Rings:
    """The rings of a window: times of all of them; and of those that may be accepted (s,), their time, the weight they
    must exceed, and their row's present weight and gradient."""

    times: Floats
    when: Floats
    least: Floats
    weight: Floats
    gradients: Gradients


@dataclass(frozen=True, eq=False)
class _Weights:
    """What is known of the weights of some rows (p,): an upper bound of each, `high`; and for the rows `at` (ascending)
    their gradients and their canonical weights, `exact`."""

    high: Floats
    at: Positions
    gradients: Gradients
    exact: Floats


class Race:
    """The state of one shard."""

    def __init__(self, shard: Shard, labeled: Shard, factors: Factors, seed: int) -> None:
        self.rows = shard.rows()
        self.counters = {"pairs": 0, "rescored": 0, "rings": 0}
        self._shard, self._factors, self._labeled_shard = shard, factors, labeled
        self._bounds = WeightBounds(shard, factors, self.counters)
        self._seed = seed
        self._labeled: list[Gradients] | None = None  # in blocks
        self._picks: list[Gradients] = []  # of the latest call, in blocks, with what was computed from them
        self._of: tuple[int, list[int], list[int]] | None = None  # the epoch that w0 belongs to
        self._w0 = np.zeros(len(self.rows))
        self._exact = np.zeros(len(self.rows), bool)  # false: w0 is an upper bound
        self._time, self._ring = np.zeros(0), np.zeros(0, np.int64)  # of each row's next ring
        self._keys: dict[str, list[int]] = {}

    def count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def largest(self) -> Key | None:
        """The key (squared gradient norm, row) of the first row by norm."""
        if not len(self.rows):
            return None
        zero = self._take(np.zeros(1, np.intp))
        high = self._high(Gradients(zero.rows, 0 * zero.u, 0 * zero.h))  # distances to zero: squared norms
        best: Key = (-np.inf, 0)
        order = np.argsort(-high, kind="stable")  # the largest bounds first
        for start in range(0, len(high), ROWS):
            at = np.sort(order[start : start + ROWS])
            if high[at].max() < best[0]:
                break
            squares = self._take(at).squares
            first = int(np.argmax(squares))
            here = (float(squares[first]), int(self.rows[at[first]]))
            best = here if beats(here, best) else best
        return best

    def draw(self, stream: str, taken: Rows, k: int) -> Rows:
        """The k rows with the lowest priorities that are not taken."""
        rows = self.rows[~np.isin(self.rows, taken)]
        return rows[np.lexsort((rows, priorities(self._seed, stream, rows)))][:k]

    def gradients(self, rows: Rows) -> Gradients | None:
        """The gradients of those of the rows that are in this shard."""
        at = np.flatnonzero(np.isin(self.rows, rows))
        return self._take(at) if len(at) else None

    def rate(self, epoch: Epoch) -> float:
        """The sum of all w0 (or of their upper bounds): the expected number of rings per unit of time."""
        self._begin(epoch)
        self._centers(epoch)  # which refuses labeled rows that are not finite, though no row may have to be compared
        return float(self._w0.sum())

    def rings(self, epoch: Epoch, start: float, end: float) -> Rings:
        """The rings with a time in (start, end]."""
        self._begin(epoch)
        self._wind(epoch, start)
        at, when, ring = self._ringing(epoch, end)
        self.counters["rings"] += len(at)
        free = ~np.isin(self.rows[at], epoch.picks.rows)
        times = when
        at, when, ring = at[free], when[free], ring[free]
        least = self._uniform(epoch, "accept", ring, at) * self._w0[at]
        rings = [self._survivors(epoch, at[part], when[part], least[part]) for part in self._slices(len(at))]
        return _joined(times, rings or [self._survivors(epoch, at, when, least)])

    def _begin(self, epoch: Epoch) -> None:
        of = (epoch.number, epoch.first.rows.tolist(), epoch.picks.rows[: epoch.known].tolist())
        if self._of == of:
            return
        earlier = self._of is not None and self._of[0] < epoch.number and self._of[1] == of[1]
        if not (earlier and self._of is not None and of[2][: len(self._of[2])] == self._of[2]):
            self._w0 = self._high(epoch.first)
        if epoch.number > 0:
            self._w0[self._w0 < _NOTHING] = 0.0
        self._w0[np.isin(self.rows, epoch.picks.rows[: epoch.known])] = 0.0
        self._exact = self._w0 == 0
        self._of, self._keys = of, {"time": [], "accept": []}
        self._restart(epoch)

    def _high(self, center: Gradients) -> Floats:
        """Upper bounds of the squared distances of all rows to one center (n,). Canonical gradients are computed only
        for rows beyond the range of float32."""
        high = self._bounds.to_one(center)
        for part in self._parts(np.flatnonzero(np.isinf(high))):
            high[part] = self._take(part).pairs(center, np.arange(len(part)), np.zeros(len(part), np.intp))
        return np.maximum(high, NEGLIGIBLE)

    def _restart(self, epoch: Epoch) -> None:
        """Set all clocks to their first ring; for rows whose w0 is only bounded, to the earliest time it can have."""
        self._ring = np.zeros(len(self.rows), np.int64)
        self._time = self._gaps(epoch, self._ring, np.arange(len(self.rows)))
        self._at = 0.0

    def _learn(self, epoch: Epoch, end: float) -> None:
        """Compute the exact w0 of the rows that may ring up to a time, as far as it takes to rule out that they do."""
        before = replace(epoch, picks=epoch.picks[: epoch.known])
        for part in self._parts(np.flatnonzero(~self._exact & (self._time <= end))):
            first = np.zeros(len(part), np.int64)
            if epoch.number == 0:
                exact = self._take(part).pairs(epoch.first, np.arange(len(part)), np.zeros(len(part), np.intp))
            else:
                least = -np.log(self._uniform(epoch, "time", first, part)) / end * (1 - 1e-9)
                found = self._nearest(part, before, least)
                self._w0[part] = np.minimum(self._w0[part], np.maximum(found.high, 0.0))
                self._time[part] = self._gaps(epoch, first, part)
                part, exact, first = part[found.at], found.exact, first[found.at]
            self._w0[part] = np.where(exact < _NOTHING, 0.0, exact)
            self._exact[part] = True
            self._time[part] = self._gaps(epoch, first, part)

    def _gaps(self, epoch: Epoch, ring: Integers, at: Positions) -> Floats:
        """The times between rings and the ones before them, in the shape of `ring`; at: the rows' positions."""
        w0 = np.broadcast_to(self._w0[at], ring.shape)
        with np.errstate(divide="ignore"):
            gap: Floats = np.where(w0 > 0, -np.log(self._uniform(epoch, "time", ring, at)) / w0, np.inf)
        return gap

    def _uniform(self, epoch: Epoch, what: str, ring: Integers, at: Positions) -> Floats:
        """Hashes in (0, 1] of rings, in the shape of `ring`."""
        keys = self._keys[what]
        keys += [epoch.key(what, number) for number in range(len(keys), int(ring.max(initial=-1)) + 1)]
        return fractions(by_key(np.array(keys, np.uint64)[ring], np.broadcast_to(self.rows[at], ring.shape))) + 2.0**-53

    def _wind(self, epoch: Epoch, start: float) -> None:
        """Set the clocks to a time; after a restart, or for a repeated call, from the beginning."""
        if self._at > start:
            self._restart(epoch)
        self._ringing(epoch, start)

    def _ringing(self, epoch: Epoch, end: float) -> tuple[Positions, Floats, Integers]:
        """All rings up to a time: position, time, number. The clocks then show the rings after them."""
        self._learn(epoch, end)
        found: list[tuple[Positions, Floats, Integers]] = []
        while len(at := np.flatnonzero(self._time <= end)):
            # Several rings of each row at once, because one row may ring thousands of times. The sums are made one
            # after the other, each from the one before.
            expected = (end - self._time[at]) * self._w0[at]
            ahead = max(1, min(int(np.clip(expected.max(), 0, _AHEAD)) + 4, _NUMBERS // len(at)))
            number = np.arange(ahead + 1)[:, None] + self._ring[at]
            time = np.cumsum(np.concatenate([self._time[at][None], self._gaps(epoch, number[1:], at)]), axis=0)
            there = time[:ahead] <= end
            which = np.nonzero(there)
            found.append((at[which[1]], time[which], number[which]))
            count = there.sum(axis=0)
            self._time[at], self._ring[at] = time[count, np.arange(len(at))], number[count, np.arange(len(at))]
        self._at = end
        if not found:
            return np.empty(0, np.intp), np.empty(0), np.empty(0, np.int64)
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]

    def _survivors(self, epoch: Epoch, at: Positions, when: Floats, least: Floats) -> Rings:
        unique, inverse = np.unique(at, return_inverse=True)
        lowest = np.full(len(unique), np.inf)
        np.minimum.at(lowest, inverse, least)
        found = self._nearest(unique, epoch, lowest)
        weight, place = np.full(len(unique), -1.0), np.zeros(len(unique), np.intp)
        weight[found.at], place[found.at] = found.exact, np.arange(len(found.at))
        keep = weight[inverse] > least
        return Rings(when, when[keep], least[keep], weight[inverse][keep], found.gradients[place[inverse[keep]]])

    def _nearest(self, at: Positions, epoch: Epoch, least: Floats) -> _Weights:
        """The weights of the rows at these positions (p,), ascending; a row is dropped once its weight is known to be
        no larger than `least` (p,)."""
        if not len(at):
            return _Weights(np.empty(0), at, epoch.first[:0], np.empty(0))
        bounded = self._bounds.nearest(self._shard.take(self.rows[at]), self._centers(epoch), least)
        if bounded is None:
            half = len(at) // 2
            return _both(self._nearest(at[:half], epoch, least[:half]), self._nearest(at[half:], epoch, least[half:]))
        high = bounded.high
        alive = np.flatnonzero(high > least)
        place = np.full(len(at), -1)
        place[alive] = np.arange(len(alive))
        gradients, exact = self._take(at[alive]) if len(alive) else epoch.first[:0], np.full(len(alive), np.inf)
        for centers, i, j, lower in bounded.pairs:
            keep = (place[i] >= 0) & (lower <= bounded.least[i])
            self.counters["rescored"] += int(np.count_nonzero(keep))
            np.minimum.at(exact, place[i[keep]], gradients.pairs(centers, place[i[keep]], j[keep]))
        return _Weights(high, alive, gradients, exact)

    def _centers(self, epoch: Epoch) -> list[Gradients]:
        """Blocks of labeled rows, then of picks."""
        if self._labeled is None:
            rows = self._labeled_shard.rows()
            mixed = rows[np.argsort(priorities(0, "badge/labeled", rows), kind="stable")]
            parts = [np.sort(mixed[start : start + ROWS]) for start in range(0, len(mixed), ROWS)]
            made = [self._factors.of(self._labeled_shard.take(part)) for part in parts]
            # Distances to copies of a center are the same: one of them is enough.
            self._labeled = _cut(concatenated(made).distinct(), self._bounds.centers) if made else []
        self._picks = _cut(epoch.picks, self._bounds.centers, self._picks)
        return [*self._labeled, *(() if self._labeled else [epoch.first]), *self._picks]

    def _take(self, at: Positions) -> Gradients:
        return self._factors.of(self._shard.take(self.rows[at]))

    def _parts(self, at: Positions) -> list[Positions]:
        return [at[part] for part in self._slices(len(at))]

    def _slices(self, n: int) -> list[slice]:
        size = self._bounds.rows
        return [slice(start, start + size) for start in range(0, n, size)]


def _both(a: _Weights, b: _Weights) -> _Weights:
    """What is known of the weights of some rows and of the rows after them."""
    at = np.concatenate([a.at, len(a.high) + b.at])
    gradients = concatenated([a.gradients, b.gradients])
    return _Weights(np.concatenate([a.high, b.high]), at, gradients, np.concatenate([a.exact, b.exact]))


def _cut(gradients: Gradients, blocks: Sequence[int], before: Sequence[Gradients] = ()) -> list[Gradients]:
    """Blocks of these sizes; those of `before` that hold the same rows."""
    sizes, parts, start = list(blocks), list[Gradients](), 0
    while start < len(gradients):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        rows, known = gradients.rows[start : start + size], before[len(parts) : len(parts) + 1]
        same = known and np.array_equal(known[0].rows, rows)
        parts.append(known[0] if same else gradients[start : start + size])
        start += size
    return parts


def _joined(times: Floats, rings: list[Rings]) -> Rings:
    return Rings(
        times,
        np.concatenate([part.when for part in rings]),
        np.concatenate([part.least for part in rings]),
        np.concatenate([part.weight for part in rings]),
        concatenated([part.gradients for part in rings]),
    )
