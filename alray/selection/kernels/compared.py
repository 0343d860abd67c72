"""Rows that are compared with centers block by block, in the cheapest precision that can tell their distances.

Letters: m rows, p centers of a block, d width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from alray.features.arrays import Array
from alray.selection.kernels.centers import Centers
from alray.selection.kernels.distance import Space, View, error, products, rounded_up
from alray.selection.kernels.logits import Floats, Positions

COARSE = 0.05  # an error bound that is a larger share of the distances tells too little


class Compared:
    """Views of stored rows (m, d): float32 at first, float64 after `refine`. stored: gives the rows as stored."""

    def __init__(self, space: Space, centers: Centers, view: View, stored: Callable[[], Array]) -> None:
        self._space, self._centers, self._stored = space, centers, stored
        self._kept: Positions | None = None  # of the stored rows; None: all of them
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    @property
    def double(self) -> bool:
        """Whether it compares in float64."""
        return self._view.x.dtype == torch.float64

    @property
    def squares(self) -> Floats:
        """Squared norms (m,)."""
        return self._view.squares

    def refine(self) -> bool:
        """Compare in float64 from now on; False where it does already."""
        if self.double:
            return False
        stored = self._stored() if self._kept is None else self._stored()[self._kept]
        self._view = self._space.view(stored, torch.float64).to(self._centers.device)
        return True

    def keep(self, at: Positions) -> None:
        """Go on with these rows alone."""
        self._kept = at if self._kept is None else self._kept[at]
        self._view = self._view[at]

    def products(self, start: int, end: int) -> tuple[torch.Tensor, Floats]:
        """g (m, p) and eps (m,): the squared distances to the centers start:end are within eps of g + squares."""
        centers = self._centers.double(start, end) if self.double else self._centers.view[start:end]
        return products(self._view.x, centers), error(self._view, self._centers.largest_of(start), centers.step)

    def reach(self, limit: Floats, device: torch.device) -> torch.Tensor:
        """Limits (m,) of g, rounded up to its precision, as a column."""
        return torch.from_numpy(rounded_up(limit, self.double)).to(device)[:, None]


def two_nearest(g: torch.Tensor) -> tuple[Positions, Floats]:
    """Of each line of g (m, p), where its smallest number is, and the second smallest; g is changed."""
    on_cpu = g.device.type == "cpu"  # there NumPy finds it five times as fast
    lowest = torch.from_numpy(g.numpy().argmin(axis=1)) if on_cpu else torch.argmin(g, dim=1)
    g.scatter_(1, lowest[:, None], torch.inf)
    return lowest.cpu().numpy(), g.amin(dim=1).cpu().numpy().astype(np.float64)


def copies_of(at: Positions, squared: Floats, take: Callable[[Positions], Array]) -> Positions:
    """For each row the index of the lowest row with the same bits, (m,).

    at (m,): positions of the rows, ascending; squared (m,): their canonical distances, which copies share; take: gives
    the stored vectors of positions. Rows at distance 0 count as no copies.
    """
    first = np.arange(len(at))
    order = np.argsort(squared, kind="stable")
    same = np.flatnonzero((squared[order][1:] == squared[order][:-1]) & (squared[order][1:] > 0))
    if not len(same):
        return first
    tied = np.sort(order[np.union1d(same, same + 1)])
    rows = np.ascontiguousarray(take(at[tied]))
    words = rows.view(np.uint32 if rows.dtype.itemsize % 4 == 0 else np.uint16)
    digest = _digest(words)
    by = np.lexsort((digest, squared[tied]))  # stable: the lowest row first
    equal = digest[by][1:] == digest[by][:-1]
    there = np.flatnonzero(equal)
    equal[there] = (words[by[there]] == words[by[there + 1]]).all(axis=1)
    begins = np.maximum.accumulate(np.where(np.append(True, ~equal), np.arange(len(by)), 0))
    first[tied[by]] = tied[by[begins]]
    return first


def _digest(words: Array) -> npt.NDArray[np.uint64]:
    """A number for each row (m, w): different rows have different ones, nearly always."""
    factors = np.random.default_rng(0).integers(1, 1 << 62, words.shape[1]).astype(np.uint64)
    found = np.empty(len(words), np.uint64)
    for start in range(0, len(words), 1024):
        found[start : start + 1024] = words[start : start + 1024].astype(np.uint64) @ factors
    return found
