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

from alray.features.arrays import Block
from alray.selection.kernels.logits import Approximate, Floats, Logits, Positions, Singles, U, nonzero, paired_dots
from alray.selection.protocol import Context, SelectionError

_REL = 8 * U  # float32 rounding of a difference, a product and the table of inverse distances: under 4 u
_TINY = 2.0**-140  # and underflow
_LARGEST_INVERSE = 2.0**60
_ENTRIES = 1 << 20  # of a table of classes at once
_LARGEST_WEIGHT = 1e15  # an inverse distance then fits into float32


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
        self._inverse = self._inverse_distances()
        self._has_twin = (self._inverse == 0).sum(axis=1) > 1  # another class with the same weights
        self._lines: dict[int, Floats] = {}  # of classes that rows of a `table` were predicted to be

    @property
    def classes(self) -> int:
        """Number of classes c."""
        return len(self._weight)

    def reaches(self, classes: Positions, limits: Floats) -> Floats:
        """(c,) by predicted class: rows whose two largest logits differ by more are farther from each of the classes
        (k,) than its limit (k,), which is finite.

        Such a difference g is the smallest of z_y - z_c, so that d_c <= limit_c only if g <= limit_c |w_y - w_c|.
        """
        found = np.empty(self.classes)
        step = max(1, _ENTRIES // self.classes)
        farthest = np.zeros(self.classes)
        for start in range(0, self.classes, step):
            inverse = self._inverse[start : start + step]
            with np.errstate(divide="ignore"):
                apart = np.where(inverse > 0, np.float32(1) / inverse, np.float32(0))
            farthest[start : start + step] = apart.max(axis=1)
            found[start : start + step] = (apart[:, classes] * limits).max(axis=1, initial=0.0)
        found[classes] = np.maximum(found[classes], limits * farthest[classes])
        return found * (1 + 4 * _REL)

    def filter(self, block: Block, approximate: Approximate | None = None) -> Filtered:
        """Predictions and lower bounds of all distances of a block, whose approximate logits may be known already."""
        approximate = approximate or self.logits.approximate(block)
        z, rows = approximate.z, np.arange(len(block))
        if z.shape[1] != self.classes:
            raise SelectionError(
                f"head: expected weight ({z.shape[1]}, d) as there are logits, got {self._weight.shape}"
            )
        y = self._predicted(block, approximate)
        with np.errstate(all="ignore"):  # rows that are not usable may hold NaN or infinity
            top = (z[rows, y] - 3 * approximate.eps).astype(np.float32)  # 3, not 2: pays for its own rounding
            low = top[:, None] - z
            low *= self._inverse[y]
        twins = np.flatnonzero(self._has_twin[y])
        low[twins] = np.where(self._inverse[y[twins]] == 0, np.float32(np.inf), low[twins])
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
        inverse = self._inverse[y, other].astype(np.float64)
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
        distance[~own] = self._pairs(block, filtered.y, at[~own], classes[~own])
        distance[own] = self._nearest(block, filtered, at[own])
        return distance

    def table(self, block: Block, filtered: Filtered) -> Floats:
        """Canonical distances of all pairs of a block, (m, c): those of `exact`, cheaper where most are needed."""
        z, y, rows = self.logits.exact_rows(block), filtered.y, np.arange(len(block))
        distance = z[rows, y][:, None] - z
        for known in np.unique(y).tolist():
            here = y == known
            line = self._line(known)
            equal = line == 0
            distance[here] = np.where(equal, np.inf, distance[here] / np.where(equal, 1.0, line))
        distance[rows, y] = distance.min(axis=1)  # infinite so far
        return distance

    def _line(self, known: int) -> Floats:
        """Canonical |w_a - w_c| of one class and all classes, (c,)."""
        if known not in self._lines:
            others = np.arange(self.classes)
            self._lines[known] = self._distances(np.full_like(others, known), others)
        return self._lines[known]

    def _predicted(self, block: Block, approximate: Approximate) -> Positions:
        z, rows = approximate.z, np.arange(len(block))
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

    def _pairs(self, block: Block, y: Positions, at: Positions, classes: Positions) -> Floats:
        """Canonical (z_y - z_c) / |w_y - w_c| of pairs."""
        once, back = np.unique(at, return_inverse=True)
        top = self.logits.exact(block, once, y[once])[back]
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
        np.minimum.at(nearest, which, self._pairs(block, filtered.y, at[which], classes))
        return nearest

    def _distances(self, a: Positions, b: Positions) -> Floats:
        """Canonical |w_a - w_b| of pairs of classes."""
        pairs, back = np.unique(a * self.classes + b, return_inverse=True)
        distance = np.empty(len(pairs))
        step = max(1, (1 << 18) // max(1, self._weight.shape[1]))
        for start in range(0, len(pairs), step):
            a, b = np.divmod(pairs[start : start + step], self.classes)
            difference = self._weight[a] - self._weight[b]
            distance[start : start + step] = np.sqrt(paired_dots(difference, difference))
        return distance[back]

    def _inverse_distances(self) -> Singles:
        """1 / |w_a - w_b|, (c, c) float32, within 2 u; 0 where the weights are equal, at most 2^60.

        By one matrix product; pairs for which cancellation leaves too few digits one by one.
        """
        squares = np.einsum("cd,cd->c", self._weight, self._weight)
        both = squares[:, None] + squares
        distance = both - 2 * (self._weight @ self._weight.T)
        error = 4 * (self._weight.shape[1] + 8) * 2.0**-53 * both + 2.0**-960
        a, b = nonzero(np.triu(distance < error * 2.0**26, 1))
        np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
        distance[a, b] = distance[b, a] = self._distances(a, b)
        np.fill_diagonal(distance, 0)
        with np.errstate(divide="ignore", over="ignore"):
            inverse: Singles = np.minimum(1 / distance, _LARGEST_INVERSE).astype(np.float32)
        inverse[distance == 0] = 0
        return inverse


def reach(distance: Floats) -> Singles:
    """Float32 thresholds: an entry of `Filtered.low` above its threshold belongs to a distance that is greater."""
    with np.errstate(over="ignore"):
        return (distance * (1 + 1.5 * _REL) + 2 * _TINY).astype(np.float32)
