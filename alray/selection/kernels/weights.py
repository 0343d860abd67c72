"""Bounds of BADGE's weights, the squared distances of a shard's rows to centers, from gradients in float32
(`alray.selection.kernels.rough`): on a GPU block by block, where there is one, else by NumPy.

Only bounds come back from the GPU; weights that decide are computed by the caller, in float64. Blocks are larger on a
GPU, where each step costs the launches of some kernels. Letters: n rows of the shard, p rows of a block, m centers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from alray.features.arrays import Block, Shard
from alray.selection.kernels.gradients import Factors, Gradients
from alray.selection.kernels.logits import Floats, Positions, columns_of, row_width
from alray.selection.kernels.matrices import Device, fetched
from alray.selection.kernels.rough import Rough

if TYPE_CHECKING:
    import torch

ROWS = 512  # rows whose canonical gradients are computed at once
CENTERS = (32, 64, 128, 256)  # centers of the first blocks, and of all later ones: most rows are dropped early
_BOUNDED = 1 << 19  # numbers of rows that are bounded at once: short calls make threads wait for Python's lock
_ROWS_ON_GPU, _CENTERS_ON_GPU = 4096, (256, 1024)
_NUMBERS_ON_GPU = 1 << 22  # of these rows, if they are wide
_PAIRS = 1 << 24  # pairs that one step may keep, half a gigabyte: fewer rows at once are tried where there are more
_FEWER = 0.75  # rows that were ruled out are left out of further products as soon as so many, or fewer, remain


@dataclass(frozen=True, eq=False)
class Bounded:
    """Upper bounds of the weights of rows (p,), upper bounds of what the nearest center adds to the row's own square
    (p,), and the pairs that may be nearest: for some of the centers each, the places of the rows, which of the centers
    it is, and lower bounds of what it adds."""

    high: Floats
    least: Floats
    pairs: Sequence[tuple[Gradients, Positions, Positions, Floats]]


class WeightBounds:
    """The bounds of one shard. counters: pairs of rows and centers are added to "pairs"."""

    def __init__(self, shard: Shard, factors: Factors, counters: dict[str, int]) -> None:
        self._shard, self._factors, self._counters = shard, factors, counters
        self._place = factors.logits.place
        self._on_device = WeakKeyDictionary[Gradients, Rough]()  # blocks of centers that were sent to the GPU
        self._most = int(np.clip(_NUMBERS_ON_GPU // max(1, row_width(columns_of(shard))), ROWS, _ROWS_ON_GPU))

    @property
    def rows(self) -> int:
        """How many rows to compare with all centers at once."""
        return ROWS if self._place.device is None else self._most

    @property
    def centers(self) -> Sequence[int]:
        """How many centers to compare with at once: the first blocks, and the size of all later ones."""
        return CENTERS if self._place.device is None else _CENTERS_ON_GPU

    def to_one(self, center: Gradients) -> Floats:
        """Upper bounds of the squared distances of all rows to one center (n,); infinite for rows beyond the range of
        float32."""
        found = [np.empty(0)]
        width = center.u.shape[1] + center.h.shape[1]
        for block in self._shard.blocks(max(ROWS, _BOUNDED // max(1, width), self._place.rows(width))):
            high = self._place.attempt(partial(self._high, block, center), self._on_device.clear)
            found.append(self._factors.rough(block).bounds(center.rough)[1][:, 0] if high is None else high)
        return np.concatenate(found)

    def _high(self, block: Block, center: Gradients, device: torch.device) -> Floats | None:
        rough = self._factors.rough_on_device(block, device)
        return None if rough is None else fetched(rough.bounds(center.rough.to(device))[1])[:, 0]

    def nearest(self, block: Block, centers: Sequence[Gradients], least: Floats) -> Bounded | None:
        """What is known of the weights of a block's rows; of a row only until its weight is known to be no larger than
        `least` (p,). None where they are too many: half of them are to be asked for."""
        found = self._place.attempt(partial(self._nearest, block, centers, least), self._on_device.clear)
        if found is None:
            found = self._nearest(block, centers, least, None)
        bounded, compared = found
        self._counters["pairs"] += compared
        if bounded is None:
            self._most = max(ROWS, self._most // 2)
        return bounded

    def _nearest(
        self, block: Block, centers: Sequence[Gradients], least: Floats, device: Device
    ) -> tuple[Bounded | None, int]:
        """The same, and how many pairs were compared."""
        nearest, left, rough = np.full(len(block), np.inf), np.arange(len(block)), self._rough(block, device)
        above, on_device = rough.above(), not isinstance(rough.u, np.ndarray)
        pairs: list[tuple[Gradients, Positions, Positions, Floats]] = []
        compared = kept = 0
        for some in centers:
            compared += len(left) * len(some)
            near = rough.nearest(self._sent(some, device if on_device else None), nearest[left])
            nearest[left] = near.high
            pairs.append((some, left[near.at], near.center, near.low))
            kept += len(near.at)
            if kept > _PAIRS and len(block) > ROWS:
                return None, compared
            alive = np.flatnonzero(nearest[left] + above[left] > least[left])
            if len(alive) <= _FEWER * len(left):
                left, rough = left[alive], rough[alive]
        return Bounded(nearest + above, nearest, pairs), compared

    def _sent(self, centers: Gradients, device: Device) -> Rough:
        if device is None:
            return centers.rough
        if centers not in self._on_device:
            self._on_device[centers] = centers.rough.to(device)
        return self._on_device[centers]

    def _rough(self, block: Block, device: Device) -> Rough:
        """Gradients in float32, made from the canonical ones where they say nothing otherwise; arrays if a GPU cannot
        multiply them."""
        rough = None if device is None else self._factors.rough_on_device(block, device)
        if rough is None:
            rough = self._factors.rough(block)
            if device is not None and rough.in_range():
                rough = rough.to(device)
        if len(unclear := rough.unclear()):
            rough.put(unclear, self._factors.of(block.take(unclear)).rough)
        return rough
