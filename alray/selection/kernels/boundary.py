"""Distances in embedding space to the decision boundaries of a linear head (Emam et al. 2021, section 3).

For a row with predicted class y (largest logit, ties to the lowest class), the distance to the hyperplane between y and
another class c has a closed form, and so has the smallest change of the prediction at all:

    d_c = (z_y - z_c) / |w_y - w_c|   (infinite where w_y = w_c),      nearest = min over c != y of d_c

MASE ranks rows by `nearest`, BASE by all of them. Float32 filters, float64 decides (contract C4): with
|z - canonical| <= eps a difference of two logits is off by at most 2 eps, so (z_y - 2 eps - z_c) / |w_y - w_c| is a
lower bound of d_c up to float32 rounding. Where another class is within 2 eps of the largest logit, the prediction
itself is decided on canonical logits. Letters: m rows of a block, c classes, d width, p pairs (position, class).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Block
from alray.selection.kernels.logits import Approximate, Floats, Logits, Positions, Singles, U, nonzero, paired_dots
from alray.selection.protocol import Context, SelectionError

_REL = 8 * U  # float32 rounding of a difference, a product and the table of inverse distances: under 4 u
_TINY = 2.0**-140  # and underflow
_CACHED = 1 << 18  # float32 numbers
_SLOTS = 1 << 20  # distances between weights of two classes that are kept: 8 MB, and 8 MB for the numbers of the pairs
_LINES = 1 << 23  # distances between a class and all others that are kept: 64 MB
_TABLE = 1 << 17  # float64 numbers worked on at once where all pairs of classes are
_LARGEST_INVERSE = 2.0**60
_LARGEST_WEIGHT = 1e15  # an inverse distance then fits into float32
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Filtered:
    """Float32 view of a block: everything known without canonical arithmetic.

    y (m,) the predicted class, canonical; low (m, c), up to rounding at most the distance of each row to each class's
    boundary (to the nearest one, where c is y); nearest (m,) the class with the smallest other entry of the row.
    """

    y: Positions
    low: Singles
    nearest: Positions
    approximate: Approximate


class Boundaries:
    """The boundaries of one head, and the distances of a shard's rows to them."""

    def __init__(self, logits: Logits, context: Context) -> None:
        assert context.head is not None
        self.logits = logits
        self._weight = np.ascontiguousarray(context.head[0], np.float64)
        if not np.abs(self._weight).max(initial=0.0) < _LARGEST_WEIGHT:  # true for NaN
            raise SelectionError(f"head: expected finite weights under {_LARGEST_WEIGHT:g} in size")
        self.inverse = self._inverse_distances()  # (c, c) float32, 0 where there is no boundary
        # Another class has the same weights:
        self._has_twin = np.array([np.count_nonzero(line) < self.classes - 1 for line in self.inverse], bool)
        # Canonical |w_a - w_b| of pairs of classes that were needed: in a slot for each pair, or for few of many pairs.
        self._apart = np.zeros(min(_SLOTS, self.classes**2))  # 0 where it is 0 or not known
        self._held = np.full(len(self._apart), -1) if self.classes**2 > _SLOTS else None  # the pair in each slot
        # And for a class and all others, in one of the lines that are kept:
        self._lines = np.empty((min(self.classes, _LINES // self.classes), self.classes))
        self._line, self._used = np.full(self.classes, -1), 0  # the line of each class

    @property
    def classes(self) -> int:
        """Number of classes c."""
        return len(self._weight)

    def cached_rows(self, rows: int) -> int:
        """How many of the rows of a block to compare at once: logits that are stored are best compared in the cache."""
        return max(1, _CACHED // self.classes) if self.logits.weight is None else max(1, rows)

    def allowances(self, own: Positions, limits: Floats) -> Singles:
        """(k, c) for rows that are predicted to be the classes `own` (k,): classes whose logit is smaller than the
        largest by more are neither nearer than their own limit nor as near as the predicted class's. limits: (c,), less
        than infinite.

        As d_c <= limit only if z_y - z_c <= limit |w_y - w_c|; -infinity where there is no boundary.
        """
        inverse = self.inverse[own]
        limit, least = self.rounded(limits)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            found: Singles = np.maximum(limit, limit[own, None])
            found /= inverse
            found += least
        found[inverse == 0] = -np.inf
        return found

    @staticmethod
    def rounded(limits: Floats) -> tuple[Singles, Singles]:
        """Limits (c,) in float32, raised by what rounding may take from the allowances, and what is added to these."""
        with np.errstate(over="ignore"):
            return (limits * (1 + 4 * _REL) + _TINY).astype(np.float32), np.array(_TINY, np.float32)

    def within(self, approximate: Approximate, y: Positions, allowed: Singles) -> Mask:
        """The pairs (m, c) whose logit is smaller than that of the predicted class y (m,) by no more than allowed
        (m, c), which is overwritten. Sums are rounded monotonically, so that none is missed."""
        z = approximate.z
        with np.errstate(all="ignore"):  # rows that are not usable may hold NaN or infinity
            least = (z[np.arange(len(z)), y] - 3 * approximate.eps).astype(np.float32)
            allowed += z
            found: Mask = allowed >= least[:, None]
        if not approximate.usable.all():
            found[~approximate.usable] = True
        return found

    def filter(self, block: Block, approximate: Approximate | None = None) -> Filtered:
        """Predictions and lower bounds of all distances of a block, whose approximate logits may be known already."""
        approximate = approximate or self.logits.approximate(block)
        z, rows = approximate.z, np.arange(len(block))
        y = self.predicted(block, approximate)
        with np.errstate(all="ignore"):  # rows that are not usable may hold NaN or infinity
            top = (z[rows, y] - 3 * approximate.eps).astype(np.float32)  # 3, not 2: pays for its own rounding
            low = top[:, None] - z
            low *= self.inverse[y]
        twins = np.flatnonzero(self._has_twin[y])
        low[twins] = np.where(self.inverse[y[twins]] == 0, np.float32(np.inf), low[twins])
        low[rows, y] = np.inf
        low[~approximate.usable] = -np.inf
        nearest = low.argmin(axis=1)
        low[rows, y] = low[rows, nearest]
        return Filtered(y, low, nearest, approximate)

    def nearest_bounds(self, filtered: Filtered) -> tuple[Floats, Floats]:
        """Lower and upper bounds, both (m,), of the distance to the nearest boundary."""
        z, y, other = filtered.approximate.z, filtered.y, filtered.nearest
        rows = np.arange(len(y))
        lowest = filtered.low[rows, other].astype(np.float64)
        inverse = self.inverse[y, other].astype(np.float64)
        with np.errstate(all="ignore"):
            difference = z[rows, y].astype(np.float64) - z[rows, other] + 2 * filtered.approximate.eps
            high = difference * inverse * (1 + _REL) + _TINY
        high[~filtered.approximate.usable | (inverse >= _LARGEST_INVERSE) | (lowest == np.inf)] = np.inf
        with np.errstate(invalid="ignore"):
            low = np.where(lowest < np.inf, np.maximum(lowest * (1 - _REL) - _TINY, 0.0), np.inf)
        return low, high

    def exact(self, block: Block, filtered: Filtered, at: Positions, classes: Positions) -> Floats:
        """Canonical distances of pairs, (p,): d_c, or the nearest distance where c is the predicted class.

        Raises SelectionError, naming the row, where a logit is not finite.
        """
        distance = np.empty(len(at))
        own = filtered.y[at] == classes
        distance[~own] = self.pairs(block, filtered.y, at[~own], classes[~own])
        distance[own] = self._nearest(block, filtered, at[own])
        return distance

    def table(self, block: Block, y: Positions) -> Floats:
        """Canonical distances of all pairs of a block, (m, c): those of `exact`, cheaper where most are needed. y: the
        predicted class of each row, (m,)."""
        distance, rows = self.logits.exact_rows(block), np.arange(len(block))
        np.subtract(distance[rows, y][:, None], distance, out=distance)
        apart = self._lines_of(y)
        with np.errstate(divide="ignore", invalid="ignore"):  # where weights are equal
            distance /= apart
        if self._has_twin[y].any():
            np.copyto(distance, np.inf, where=apart == 0)
        distance[rows, y] = np.inf
        distance[rows, y] = distance.min(axis=1)
        return distance

    def predicted(self, block: Block, approximate: Approximate) -> Positions:
        """The predicted class of each row, (m,), canonical. Raises SelectionError for another number of logits."""
        z, rows = approximate.z, np.arange(len(block))
        if z.shape[1] != self.classes:
            raise SelectionError(
                f"head: expected weight ({z.shape[1]}, d) as there are logits, got {self._weight.shape}"
            )
        y: Positions = z.argmax(axis=1)
        unsure = np.flatnonzero((approximate.eps > 0) | ~approximate.usable)
        if len(unsure):
            with np.errstate(all="ignore"):
                least = (z[rows, y] - 3 * approximate.eps).astype(np.float32)
                rivals = z[unsure] >= least[unsure, None] if len(unsure) < len(rows) else z >= least[:, None]
            rivals[~approximate.usable[unsure]] = True
            crowded = np.count_nonzero(rivals, axis=1) > 1
            unsure, rivals = unsure[crowded], rivals[crowded]
            exact = np.full(rivals.shape, -np.inf)
            at, classes = nonzero(rivals)
            exact[at, classes] = self.logits.exact(block, unsure[at], classes)
            y[unsure] = exact.argmax(axis=1)
        return y

    def pairs(self, block: Block, y: Positions, at: Positions, classes: Positions) -> Floats:
        """Canonical (z_y - z_c) / |w_y - w_c| of pairs (p,): infinite where the weights are equal."""
        first = np.flatnonzero(np.diff(at, prepend=-1))  # of each row
        once = at[first]
        top = np.repeat(self.logits.exact(block, once, y[once]), np.diff(first, append=len(at)))
        difference = top - self.logits.exact(block, at, classes)
        distance = self._distances(y[at], classes)
        equal = distance == 0
        return np.where(equal, np.inf, difference / np.where(equal, 1.0, distance))

    def _nearest(self, block: Block, filtered: Filtered, at: Positions) -> Floats:
        """Canonical distance to the nearest boundary: only classes that could be nearest are computed.

        The predicted class itself may be among them: its distance is infinite.
        """
        low = filtered.low[at]
        high = self.nearest_bounds(filtered)[1][at]
        could_be = (low <= reach(high)[:, None]) & (low < np.inf)
        which, classes = nonzero(could_be)
        nearest = np.full(len(at), np.inf)
        np.minimum.at(nearest, which, self.pairs(block, filtered.y, at[which], classes))
        return nearest

    def _lines_of(self, y: Positions) -> Floats:
        """Canonical |w_y - w_c| for classes y (m,) and all classes c, (m, c)."""
        new = np.unique(y[self._line[y] < 0])
        if self._used + len(new) > len(self._lines):
            self._line[:], self._used, new = -1, 0, np.unique(y)
        if len(new) > len(self._lines):
            self._lines = np.empty((len(new), self.classes))
        others = np.arange(self.classes)
        for known in new.tolist():
            self._lines[self._used] = self._distances(np.full_like(others, known), others)
            self._line[known] = self._used
            self._used += 1
        return np.asarray(self._lines[self._line[y]])

    def _distances(self, a: Positions, b: Positions) -> Floats:
        """Canonical |w_a - w_b| of pairs of classes (p,). The latest are kept."""
        pairs = a * self.classes + b if self._held is None else np.minimum(a, b) * self.classes + np.maximum(a, b)
        slots = pairs if self._held is None else pairs % len(self._apart)
        found: Floats = self._apart[slots]
        if self._held is not None:
            found[self._held[slots] != pairs] = 0
        missing = np.flatnonzero(found == 0)
        missing = missing[self.inverse[a[missing], b[missing]] > 0]
        if len(missing):
            once, back = np.unique(pairs[missing], return_inverse=True)
            a, b = np.divmod(once, self.classes)
            found[missing] = (computed := self._computed(a, b))[back]
            if self._held is None:
                self._apart[a * self.classes + b] = self._apart[b * self.classes + a] = computed
            else:
                self._apart[once % len(self._apart)], self._held[once % len(self._apart)] = computed, once
        return found

    def _computed(self, a: Positions, b: Positions) -> Floats:
        distance = np.empty(len(a))
        step = max(1, (1 << 18) // max(1, self._weight.shape[1]))
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            difference = self._weight[a[part]] - self._weight[b[part]]
            distance[part] = np.sqrt(paired_dots(difference, difference))
        return distance

    def _inverse_distances(self) -> Singles:
        """1 / |w_a - w_b|, (c, c) float32, within 2 u; 0 where the weights are equal, at most 2^60.

        By matrix products; pairs for which cancellation leaves too few digits one by one.
        """
        squares = np.einsum("cd,cd->c", self._weight, self._weight)
        found, every = np.zeros((self.classes, self.classes), np.float32), np.arange(self.classes)
        step = max(1, _TABLE // max(1, self.classes))
        for start in range(0, self.classes, step):
            part, rest = every[start : start + step, None], slice(start, None)
            both = squares[part] + squares[rest]
            distance = both - 2 * (self._weight[start : start + step] @ self._weight[rest].T)
            near = distance < 4 * (self._weight.shape[1] + 8) * 2.0**-53 * both * 2.0**26 + 2.0**-934
            np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
            inverse, later = _inverse(distance), every[rest] > part
            inverse[~later] = 0
            a, b = nonzero(near & later)
            inverse[a, b] = _inverse(self._computed(a + start, b + start))
            # Each pair is looked at once: products of the same two classes in two blocks may differ in their last bits.
            found[start : start + step, rest] += inverse
            found[rest, start : start + step] += inverse.T
        return found


def _inverse(distance: Floats) -> Singles:
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Singles = np.minimum(1 / distance, _LARGEST_INVERSE).astype(np.float32)
    inverse[distance == 0] = 0
    return inverse


def reach(distance: Floats) -> Singles:
    """Float32 thresholds: an entry of `Filtered.low` above its threshold belongs to a distance that is greater."""
    with np.errstate(over="ignore"):
        return (distance * (1 + 1.5 * _REL) + 2 * _TINY).astype(np.float32)
