"""Picks of a k-center inside a block of rows, as far as float64 products tell them without doubt (C4).

The squared distances of all rows of a block to each other are one product in float64, up to

    eps = 4 (d + 16) 2^-53 (2 |x|)^2 + tiny    for the largest norm |x|, around the pool's mean,

see `alray.selection.kernels.distance.double_bounds`. A pick then takes a few operations per row, and it is sure where
the farthest row is farther than the next one, and than the limit, by more than bounds may be wrong. Afterwards every
row has its canonical distance, which is computed for those picks that may be its nearest one. Where products are exact,
eps is 0 and equal distances are told, too. Letters: q rows of a block, p picks among them, d width.
"""

from __future__ import annotations

import numpy as np

from alray.selection.kernels.distance import Space, squared_norms
from alray.selection.kernels.logits import Floats, Positions, nonzero
from alray.selection.kernels.matrices import all_apart
from alray.selection.protocol import Key, beats

Order = list[int]


def sure_picks(
    space: Space, x: Floats, value: Floats, numbers: Positions, limit: Key, most: int, exact: bool
) -> tuple[Order, list[float], bool]:
    """At most so many picks, by their places in the block, their canonical squared distances, and whether no doubt has
    ended them: then there are enough of them, or the next one would not beat the limit.

    x (q, d): the rows as the metric sees them; value (q,): their canonical squared distances, finite, or -inf of picks;
    they are updated; numbers (q,): of the rows, ascending. exact: whether products of these rows are.
    """
    apart, largest = all_apart(x - space.mean)
    eps, width = 0.0, x.shape[1]
    if exact:
        order, sure = _exactly(apart, value.copy(), numbers, limit, most), True
    else:
        eps = 16 * (width + 16) * 2.0**-53 * largest + width * 2.0**-1000
        order, sure = _surely(apart, value.copy(), limit, most, eps)
    if order:
        _update(x, value, apart[:, order], order, eps)
    squared = value[order].tolist()
    value[order] = -np.inf
    return order, squared, sure


def _surely(apart: Floats, upper: Floats, limit: Key, most: int, eps: float) -> tuple[Order, bool]:
    """The picks, and whether no doubt has ended them. upper (q,) is changed."""
    order, best, least = Order(), int(upper.argmax()), max(limit[0], 0.0) + eps
    top = float(upper[best])
    while len(order) < most:
        if not top > least:
            return order, top < limit[0] - eps
        upper[best] = -np.inf
        following = int(upper.argmax())
        if not top - float(upper[following]) > 2 * eps:
            return order, False
        order.append(best)
        np.minimum(upper, apart[best], out=upper)
        best = int(upper.argmax())
        top = float(upper[best])
    return order, True


def _exactly(apart: Floats, squared: Floats, numbers: Positions, limit: Key, most: int) -> Order:
    """The picks where the squared distances are exact: of several farthest rows the first one. squared (q,) is
    changed."""
    order = Order()
    while len(order) < most:
        best = int(squared.argmax())
        top = float(squared[best])
        if top == -np.inf or not beats((top, int(numbers[best])), limit):
            break
        order.append(best)
        np.minimum(squared, apart[best], out=squared)
        squared[best] = -np.inf
    return order


def _update(x: Floats, value: Floats, apart: Floats, order: Order, eps: float) -> None:
    """Canonical distances (q,): of a pick at the time it was made, of the others after all picks. apart (q, p)."""
    apart[order] = np.where(np.arange(len(order)) < np.arange(len(order))[:, None], apart[order], np.inf)
    reach = np.minimum(apart.min(axis=1) + 2 * eps, value + eps)
    row, pick = nonzero(apart <= reach[:, None])
    np.minimum.at(value, row, squared_norms(x[row] - x[np.array(order)[pick]]))
