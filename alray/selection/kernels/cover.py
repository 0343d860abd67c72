"""The order in which the rows of a shard are compared with the labeled centers of a k-center: first those that most
rows are near to, so that most rows are dropped early.

The rows of a sample, which were compared with all centers to estimate the threshold, tell it. Any order leads to the
same picks. Letters: m rows of the sample, p centers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alray.features.arrays import Array, Integers, positions_of
from alray.selection.kernels.bounds import Bounds
from alray.selection.kernels.centers import Centers
from alray.selection.kernels.distance import Space, products
from alray.selection.kernels.logits import Positions
from alray.selection.kernels.matrices import fetched

_CENTERS = 256  # fewer than that are in two or three blocks, whose order changes little
_LEAST, _MOST = 64, 1024  # rows of the sample that are looked at
_OTHERS = 8  # rows that were not compared yet, for each row of the sample


def arrange(space: Space, centers: Centers, bounds: Bounds, take: Callable[[Integers], Array], least: float) -> None:
    """Arrange the centers of ordinary norm, where no rows but those of a sample were compared with any. take: gives the
    stored vectors of positions; least: the squared distance below which rows are dropped."""
    met = positions_of(bounds.blocks > 0)
    if centers.usual < _CENTERS or not _LEAST <= len(met) <= len(bounds) // _OTHERS:
        return
    if (bounds.blocks[met] < centers.count).any():
        return
    rows = space.view(take(met[:: -(-len(met) // _MOST)])).to(centers.device)
    near = fetched(products(rows.x, centers.view[: centers.usual])) + rows.squares[:, None] < least
    if near.any():
        centers.arrange(covering(near))
        bounds.forget_nearest()


def covering(near: npt.NDArray[np.bool_]) -> Positions:
    """An order of centers (p,): each is near to as many as possible of the rows that no center before it is near to.
    near (m, p): to which of the rows each of them is near."""
    counts, first = near.sum(axis=0, dtype=np.int32), list[int]()
    left = np.ones(len(near), bool)
    while counts.any():
        best = int(counts.argmax())
        first.append(best)
        covered = np.flatnonzero(left & near[:, best])
        left[covered] = False
        counts -= near[covered].sum(axis=0, dtype=np.int32)
    return np.append(np.array(first, np.intp), np.setdiff1d(np.arange(near.shape[1]), first))
