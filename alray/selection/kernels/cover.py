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
from alray.selection.kernels.distance import Space, View, bias_of
from alray.selection.kernels.logits import Positions
from alray.selection.kernels.matrices import beside, fetched, twice_less_parts

_CENTERS = 256  # fewer than that are in two or three blocks, whose order changes little
_LEAST, _MOST = 64, 1024  # rows of the sample that are looked at
_OTHERS = 8  # rows that were not compared yet, for each row of the sample
_SPENT = 4  # pairs that may be looked at for each row of the shard, which is compared with 64 centers at least


def arrange(space: Space, centers: Centers, bounds: Bounds, take: Callable[[Integers], Array], least: float) -> int:
    """Arrange the centers of ordinary norm, where no rows but those of a sample were compared with any; returns how
    many pairs were looked at. take: gives the stored vectors of positions; least: the squared distance below which rows
    are dropped."""
    met, usual = positions_of(bounds.blocks > 0), centers.usual
    if usual < _CENTERS or not _LEAST <= len(met) <= len(bounds) // _OTHERS:
        return 0
    most = min(_MOST, _SPENT * len(bounds) // usual)
    if most < _LEAST or (bounds.blocks[met] < centers.count).any():
        return 0
    rows = space.view(take(met[:: -(-len(met) // most)])).to(centers.device)
    near = _near(rows, centers.view[:usual], least)
    if near.any():
        centers.arrange(covering(near))
        bounds.forget_nearest()
    return near.size


def _near(rows: View, centers: View, least: float) -> npt.NDArray[np.bool_]:
    """Which centers (p,) are nearer to the rows (m,) than `least`, (m, p), as far as float32 tells."""
    found, limit = np.empty((len(rows), len(centers)), bool), least - rows.squares
    for part, squared in twice_less_parts(bias_of(centers), rows.x, centers.x):
        found[part] = fetched(squared < beside(limit[part, None], squared))
    return found


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
