"""When the sieve rounds to bfloat16 (`alray.selection.kernels.coarse`), which PyTorch is needed for, and nothing else.

Where PyTorch is imported already, it is tried at once. Elsewhere as many multiplications must be to come as make up for
the import; they are counted, never timed. Letters: m rows.
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
_WORSE, _ALWAYS = 3, 8  # times the rows above a threshold, and rows: where more are left, float32 is the cheaper way


class Rounding:
    """Whether the sieve of one shard rounds (`on`)."""

    def __init__(self, device: Device) -> None:
        here = device is None and pytorch.imported_torch() is not None
        self.on, self._open = here and _available(), device is None and not here

    def expect(self, space: Space, rows: int, centers: float) -> None:
        """Begin to round if this is worth it: so many rows are to be compared with so many centers each."""
        if not self._open or rows * (centers - FIRST) * len(space.mean) <= _WORTH:
            return
        self._open = False
        if not space.step and pytorch.bfloat16_possible():  # with a step, float32 products are exact
            pytorch.import_torch()
            self.on = _available()


def useful(lower: Array, upper: Array, least: float) -> bool:
    """Whether bfloat16 tells enough, judged by its bounds (m,) of some rows' squared distances to all centers: it must
    not leave many times as many rows above the threshold `least` as there seem to be."""
    above = int(np.count_nonzero((lower + upper) / 2 >= least))
    return int(np.count_nonzero(upper >= least)) <= _WORSE * max(above, _ALWAYS)


def _available() -> bool:
    from alray.selection.kernels import coarse  # imports torch

    return coarse.available()
