"""When the sieve rounds to bfloat16 (`alray.selection.kernels.coarse`), which PyTorch is needed for, and nothing else.

Products in bfloat16 are fast for many centers at once. So it is used where rows are compared with more than a few
centers each, which the first rows tell, and, where PyTorch is not imported yet, where as many multiplications are to
come as make up for the import. All this is counted, never timed. Letters: m rows.
"""

from __future__ import annotations

import numpy as np

from alray.features.arrays import Array
from alray.models import pytorch
from alray.selection.kernels.distance import Space
from alray.selection.kernels.matrices import Device

FIRST = 64  # centers that rows are compared with in any case: bfloat16 saves nothing there
# Multiplications that are to come beyond those. With 10^7 rows of 128 columns and 40,000 centers, bfloat16 saved 2.5
# CPU seconds of 1.5 x 10^11 of them, sample included, and the import of PyTorch takes 1.5 to 2.5: for more than
# that it is worth it.
_WORTH = 1 << 37
_FEW = 2 * FIRST  # centers: bfloat16 spares nothing where most rows are compared with no more of them
TOLD = 2048  # rows that are compared in float32 first: they tell with how many centers most rows are compared
_WORSE, _ALWAYS = 3, 8  # times the rows above a threshold, and rows: where more are left, float32 is the cheaper way


class Rounding:
    """Whether the sieve of one shard rounds (`on`)."""

    def __init__(self, device: Device) -> None:
        self.on, self._open = False, device is None

    def expect(self, space: Space, rows: int, centers: float) -> None:
        """Begin to round if this is worth it: so many rows are to be compared with so many centers each."""
        if not self._open or not self._worth(space, rows, centers):
            return
        self._open = False
        if not space.step and (_imported() or pytorch.bfloat16_possible()):  # with a step, float32 products are exact
            pytorch.import_torch()
            self.on = _available()

    def look_first(self) -> None:
        """Compare the next rows in float32, to see with how many centers they are compared."""
        self._open |= self.on
        self.on = False

    @property
    def undecided(self) -> bool:
        """Whether the next rows decide whether it rounds, and nothing else does."""
        return self._open and _imported()

    def _worth(self, space: Space, rows: int, centers: float) -> bool:
        if _imported():
            return rows > 0 and centers > _FEW
        return rows * (centers - FIRST) * len(space.mean) > _WORTH


def useful(lower: Array, upper: Array, least: float) -> bool:
    """Whether bfloat16 tells enough, judged by its bounds (m,) of some rows' squared distances to all centers: it must
    not leave many times as many rows above the threshold `least` as there seem to be."""
    above = int(np.count_nonzero((lower + upper) / 2 >= least))
    return int(np.count_nonzero(upper >= least)) <= _WORSE * max(above, _ALWAYS)


def _imported() -> bool:
    return pytorch.imported_torch() is not None


def _available() -> bool:
    from alray.selection.kernels import coarse  # imports torch

    return coarse.available()
