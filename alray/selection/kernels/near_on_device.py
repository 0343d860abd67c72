"""Which classes' boundaries are near to the rows of a block, on a device: what `Boundaries.within` tells on a CPU.

Only positions come back; distances are computed by the caller, in float64. The float32 operations are those of
`Boundaries.allowances` and `Boundaries.within`, so that the pairs are the same. Letters: m rows of a block, c classes,
p pairs.
"""

from __future__ import annotations

import numpy as np
import torch

from alray.features.arrays import Array
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.logits import DENSE, Floats, Positions
from alray.selection.kernels.matrices import fetched, sent
from alray.selection.kernels.resident import usable_logits


class NearOnDevice:
    """The boundaries of one head on a device: 4 bytes for each pair of classes."""

    def __init__(self, boundaries: Boundaries, device: torch.device) -> None:
        self._boundaries, self._device = boundaries, device
        self._inverse: torch.Tensor = sent(boundaries.inverse, device)
        self._none = self._inverse == 0  # pairs of classes between which there is no boundary

    def pairs(self, stored: Array, limits: Floats) -> tuple[Positions, Positions, Positions] | None:
        """Of stored logits (m, c): the predicted classes (m,), and the pairs (p,), rows ascending, that can be as near
        as the `limits` (c,) of the class or of the predicted class. None where logits cannot be used or pairs are so
        many that whole rows are better computed."""
        if stored.shape[1] != self._boundaries.classes or (z := usable_logits(stored, self._device)) is None:
            return None
        y = z.argmax(dim=1)  # the first of several largest ones, as PyTorch promises on every device
        near = self._allowed(y, limits).add_(z) >= z.gather(1, y[:, None])
        if int(near.count_nonzero()) * DENSE > near.numel():
            return None
        at, classes = fetched(near.nonzero().T.contiguous())  # row by row
        return fetched(y), at, classes

    def _allowed(self, y: torch.Tensor, limits: Floats) -> torch.Tensor:
        """The allowances of rows with these predicted classes, (m, c)."""
        limit, least = (sent(one, self._device) for one in self._boundaries.rounded(limits))
        allowed = torch.maximum(limit, limit[y][:, None])
        return allowed.div_(self._inverse[y]).add_(least).masked_fill_(self._none[y], -np.inf)
