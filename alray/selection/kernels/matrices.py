"""The matrices of the filters and their products: NumPy's arrays on a CPU, PyTorch's tensors on a GPU.

PyTorch multiplies arrays, too, where it is imported already: its products of few rows or columns take down to half of
the time of NumPy's. It is not imported for that. Bounds hold for any order of summation, so that no pick depends on who
multiplies. Letters: m rows, p centers, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from alray.features.arrays import Array
from alray.models import pytorch
from alray.selection.kernels.logits import Floats, Positions

if TYPE_CHECKING:
    import torch

Matrix: TypeAlias = Any  # an array on a CPU, a tensor on another device
Device: TypeAlias = "torch.device | None"  # None: the CPU, without PyTorch

WIDTH = 256  # centers of a product in bfloat16, at most
_CACHED = 1 << 18  # numbers of a product that are looked at, or added to, while they are in the cache


def best_device() -> Device:
    """The GPU that this process may use, if any. PyTorch is imported only where there may be one."""
    if not pytorch.gpu_possible():
        return None
    from alray.models import device

    found = device.best_device()
    return None if found.type == "cpu" else found


def device_in_use() -> Device:
    """The GPU if this process computes on it already."""
    if pytorch.imported_torch() is None:
        return None
    from alray.models import device

    found = device.device_in_use()
    return None if found.type == "cpu" else found


def sent(x: Array, device: Device) -> Matrix:
    """An array on a device."""
    if device is None:
        return x
    import torch

    return torch.from_numpy(x).to(device)


def fetched(x: Matrix) -> Array:
    """A matrix as an array."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu().numpy())


def taken(x: Matrix, at: Positions | slice) -> Matrix:
    """Some lines of a matrix."""
    if isinstance(at, slice):
        return x[at]
    return x.take(at, axis=0) if isinstance(x, np.ndarray) else x[sent(at, x.device)]


def lowest(x: Matrix, axis: int) -> Array:
    """The smallest numbers along an axis."""
    if not isinstance(x, np.ndarray):
        return fetched(x.amin(dim=axis))
    if axis == 0:
        return np.asarray(x.min(axis=0))
    if torch := pytorch.imported_torch():
        return np.asarray(torch.from_numpy(x).amin(dim=axis).numpy())
    return np.asarray(x[np.arange(len(x)), x.argmin(axis=1)])  # half of the time of `x.min(axis=1)`


def joined(parts: list[Matrix], axis: int = 0) -> Matrix:
    """Several matrices of one kind as one."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=axis)
    import torch

    return torch.cat(parts, dim=axis)


def product(a: Matrix, b: Matrix, out: Array | None = None) -> Matrix:
    """a b, with all bits of their type. out: of arrays, where it is written."""
    arrays = isinstance(a, np.ndarray)
    torch = pytorch.imported_torch()
    if torch is None:
        return np.matmul(a, b, out=out)
    from alray.models.device import full_float32

    with full_float32():
        if not arrays:
            return a @ b
        if out is None:
            return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
        torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=torch.from_numpy(out))
        return out


def twice_less(bias: Floats, a: Matrix, b: Matrix, out: Array | None = None) -> Matrix:
    """bias - 2 a b^T for a (m, d) and b (p, d), with all bits of their type. bias: (1, p) or (m, 1). out: of arrays,
    where it is written."""
    torch = pytorch.imported_torch()
    if torch is None:
        return _twice_less(bias, a, b, out)
    from alray.models.device import full_float32

    arrays = isinstance(a, np.ndarray)
    with full_float32():
        x, y = (torch.from_numpy(a), torch.from_numpy(b)) if arrays else (a, b)
        added, room = torch.from_numpy(bias).to(x.device, x.dtype), None if out is None else torch.from_numpy(out)
        found = torch.addmm(added, x, y.T, alpha=-2.0, out=room)
    return found.numpy() if arrays else found


def twice_less_parts(bias: Floats, a: Matrix, b: Matrix) -> Iterator[tuple[slice, Matrix]]:
    """`twice_less` for a bias (1, p), of some lines after the other, and which ones: the next ones take their place in
    memory, so that they stay in the cache."""
    if not isinstance(a, np.ndarray):
        yield slice(0, len(a)), twice_less(bias, a, b)
        return
    step = max(1, _CACHED // max(1, len(b)))
    room = np.empty((min(step, len(a)), len(b)), a.dtype)
    for start in range(0, len(a), step):
        part = slice(start, min(start + step, len(a)))
        yield part, twice_less(bias, a[part], b, room[: part.stop - start])


def _twice_less(bias: Floats, a: Array, b: Array, out: Array | None = None) -> Array:
    found = np.empty((len(a), len(b)), a.dtype) if out is None else out
    with np.errstate(over="ignore"):
        bias = np.broadcast_to(bias.astype(a.dtype), found.shape)
    fewer_rows = len(a) < len(b)
    a, b = (-2 * a, b.T) if fewer_rows else (a, -2 * b.T)
    step = max(1, _CACHED // max(1, len(found.T)))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        np.matmul(a[part], b, out=found[part])
        found[part] += bias[part]
    return found
