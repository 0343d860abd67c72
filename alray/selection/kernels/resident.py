"""The vectors of a shard on a GPU, as they are stored, so that each of them crosses the bus once.

They take at most half of the memory that is free there at the first use; a shard that is larger is sent block by block
whenever it is compared. Letters: n rows of the shard, m of them, d width.
"""

from __future__ import annotations

import numpy as np
import torch

from alray.features.arrays import Array, Shard
from alray.models.device import free_bytes
from alray.selection.kernels.logits import Positions

_SHARE = 0.5  # of the free memory: centers, views and other processes need the rest
_STAGED = 1 << 27  # bytes of the buffer that a copy to the GPU goes through


class Resident:
    """One column of a shard on a device. room: bytes that it may take there; None: half of what is free."""

    def __init__(self, shard: Shard, column: str, device: torch.device, room: int | None = None) -> None:
        self._shard, self._column, self._device, self._room = shard, column, device, room
        self._x: torch.Tensor | None = None
        self._tried = False

    def take(self, at: Positions) -> torch.Tensor | None:
        """The stored vectors at ascending positions of the shard's rows, (m, d); None where the shard is too large."""
        if not self._tried:
            self._tried = True
            self._x = self._loaded()
        if self._x is None:
            return None
        if len(at) and at[-1] - at[0] == len(at) - 1:
            return self._x[int(at[0]) : int(at[-1]) + 1]
        return self._x[torch.from_numpy(at).to(self._device)]

    def _loaded(self) -> torch.Tensor | None:
        first = next((block[self._column] for block in self._shard.blocks(1)), None)
        room = int(_SHARE * free_bytes(self._device)) if self._room is None else self._room
        if first is None or len(self._shard) * first.nbytes > room:
            return None
        kind = torch.from_numpy(np.empty(0, first.dtype)).dtype
        try:
            x = torch.empty(len(self._shard), first.shape[1], dtype=kind, device=self._device)
        except torch.OutOfMemoryError:  # another process was faster
            return None
        start = 0
        for block in self._shard.blocks(max(1, _STAGED // first.nbytes)):
            stored = block[self._column]
            x[start : start + len(stored)] = uploaded(stored, self._device)
            start += len(stored)
        return x


def uploaded(stored: Array, device: torch.device) -> torch.Tensor:
    """An array on a device. It may be read-only, which PyTorch warns of where it is not copied first."""
    staged = torch.empty(stored.shape, dtype=torch.from_numpy(np.empty(0, stored.dtype)).dtype)
    np.copyto(staged.numpy(), stored)
    return staged.to(device)
