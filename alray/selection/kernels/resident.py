"""The vectors of a shard on a GPU, as they are stored, so that each of them crosses the bus once.

They take at most half of the memory that is free there at the first use; a shard that is larger is sent block by block
whenever it is compared. Letters: n rows of the shard, m of them, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from alray.features.arrays import Array, Shard
from alray.models.device import free_bytes
from alray.process import processors
from alray.selection.kernels.helpers import helpers
from alray.selection.kernels.logits import LIMIT, Positions

_SHARE = 0.5  # of the free memory: centers, views and other processes need the rest
_STAGED = 1 << 27  # bytes of the pinned buffer that a copy to the GPU goes through
_SHORT = 1 << 20  # bytes that one thread copies as fast as several
_limits: list[int] = []
_COPIERS = min(8, processors())  # threads that fill it


@contextmanager
def limited(room: int) -> Iterator[None]:
    """Context manager for tests and the device check: a shard's vectors may take so many bytes of a device; with 0 they
    are sent again whenever they are compared."""
    _limits.append(room)
    try:
        yield
    finally:
        _limits.pop()


class Resident:
    """One column of a shard on a device, if it takes no more than half of the memory that is free there."""

    def __init__(self, shard: Shard, column: str, device: torch.device) -> None:
        self._shard, self._column, self._device = shard, column, device
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
        room = _limits[-1] if _limits else int(_SHARE * free_bytes(self._device))
        if first is None or len(self._shard) * first.nbytes > room:
            return None
        size = max(1, _STAGED // first.nbytes)
        staged, start = _buffer((size, first.shape[1]), first.dtype, self._device), 0
        try:
            x = staged.new_empty(len(self._shard), first.shape[1], device=self._device)
        except torch.OutOfMemoryError:  # another process was faster
            return None
        for block in self._shard.blocks(size):
            stored = block[self._column]
            part = staged[: len(stored)]
            _copied(stored, part.numpy())
            x[start : start + len(stored)] = part.to(self._device)
            start += len(stored)
        return x


def _copied(stored: Array, into: Array) -> None:
    """Copy rows, many of them by several threads: one reads a mapped file more slowly than the bus takes it."""
    if stored.nbytes < _SHORT:
        np.copyto(into, stored)
        return
    step = max(1, -(-len(stored) // _COPIERS))
    cuts = [slice(start, start + step) for start in range(0, len(stored), step)]
    list(helpers().map(lambda cut: np.copyto(into[cut], stored[cut]), cuts))


def _buffer(shape: tuple[int, ...], dtype: Any, device: torch.device) -> torch.Tensor:
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=kind, device="cpu", pin_memory=device.type == "cuda")


def uploaded(stored: Array, device: torch.device) -> torch.Tensor:
    """An array on a device, as a copy. It may be read-only, which PyTorch warns of where it is not copied first.

    This process goes on while the copy is under way: kernels that use it wait for it, and PyTorch gives the pinned
    memory to nobody else before.
    """
    staged = _buffer(stored.shape, stored.dtype, device)
    _copied(stored, staged.numpy())
    return staged.to(device, non_blocking=True)


def singles(stored: Array, device: torch.device) -> torch.Tensor | None:
    """Stored float16 or float32 numbers (m, w) on a device, in float32; None for other types, which that may round."""
    return uploaded(stored, device).float() if float32_holds(stored) else None


def float32_holds(stored: Array) -> bool:
    """Whether there are numbers, of a type that float32 holds exactly."""
    return stored.dtype in (np.float16, np.float32) and stored.size > 0


def usable_logits(stored: Array, device: torch.device) -> torch.Tensor | None:
    """The same of logits; None, too, where one of them is not finite or out of range: NumPy then finds out which."""
    z = singles(stored, device)
    return z if z is not None and bool(z.abs().amax() < LIMIT) else None  # false for NaN
