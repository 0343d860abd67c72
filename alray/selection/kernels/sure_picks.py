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
from alray.selection.kernels.matrices import twice_less
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
    apart, eps = _apart(space, x, exact)
    order, sure = (_exactly if not eps else _surely)(apart, value.copy(), numbers, limit, most, eps)
    if order:
        _update(x, value, apart[:, order], order, eps)
    squared = value[order].tolist()
    value[order] = -np.inf
    return order, squared, sure


def _apart(space: Space, x: Floats, exact: bool) -> tuple[Floats, float]:
    """The squared distances of the rows (q, q), and how wrong they may be."""
    x = x - space.mean
    squares = np.einsum("qd,qd->q", x, x)
    found = twice_less(squares[None], x, x)
    found += squares[:, None]
    eps = 16 * (x.shape[1] + 16) * 2.0**-53 * float(squares.max()) + x.shape[1] * 2.0**-1000
    return found, 0.0 if exact else eps


def _surely(apart: Floats, upper: Floats, numbers: Positions, limit: Key, most: int, eps: float) -> tuple[Order, bool]:
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


def _exactly(
    apart: Floats, squared: Floats, numbers: Positions, limit: Key, most: int, eps: float
) -> tuple[Order, bool]:
    """The same where the squared distances are exact: the first of several farthest rows is picked."""
    order = Order()
    while len(order) < most:
        best = int(squared.argmax())
        top = float(squared[best])
        if top == -np.inf or not beats((top, int(numbers[best])), limit):
            break
        order.append(best)
        np.minimum(squared, apart[best], out=squared)
        squared[best] = -np.inf
    return order, True


def _update(x: Floats, value: Floats, apart: Floats, order: Order, eps: float) -> None:
    """Canonical distances (q,): of a pick at the time it was made, of the others after all picks. apart (q, p)."""
    apart[order] = np.where(np.arange(len(order)) < np.arange(len(order))[:, None], apart[order], np.inf)
    reach = np.minimum(apart.min(axis=1) + 2 * eps, value + eps)
    row, pick = nonzero(apart <= reach[:, None])
    np.minimum.at(value, row, squared_norms(x[row] - x[np.array(order)[pick]]))
