"""The matrices of the filters, where they are and their products: NumPy's arrays on a CPU, PyTorch's tensors on a GPU.

This module alone decides which of the two a selection uses. k-center compares every row many times and takes the GPU
wherever there is one (`best_device`). Strategies that look at every number about once take it where there are so many
numbers that they make up for its start (`device_for`), and go on without it where its memory is used up (`Place`).

PyTorch multiplies arrays, too, where it is imported already: its products of few rows or columns take down to half of
the time of NumPy's. It is not imported for that. Bounds hold for any order of summation, so that no pick depends on who
multiplies. Letters: m rows, p centers, d width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np

from alray.features.arrays import Array
from alray.models import pytorch

if TYPE_CHECKING:
    import torch

    from alray.selection.kernels.logits import Floats, Positions

T = TypeVar("T")
Matrix: TypeAlias = Any  # an array on a CPU, a tensor on another device
Device: TypeAlias = "torch.device | None"  # None: the CPU, without PyTorch

WIDTH = 256  # centers of a product in bfloat16, at most
_CACHED = 1 << 18  # numbers of a product that are looked at, or added to, while they are in the cache
_WORTH = 1 << 28  # numbers; fewer are worked on by a CPU before PyTorch is imported and CUDA has started
_SENT = 1 << 24  # numbers that are sent to a GPU at once: a kernel's launch takes as long as working on 10^5 of them
_forced: list[Device] = []
_log = logging.getLogger(__name__)


@contextmanager
def forced(device: Device) -> Iterator[None]:
    """Context manager for tests and the device check: this process computes on this device, however little there is to
    compute. PyTorch's device "cpu" runs what a GPU runs."""
    _forced.append(device)
    try:
        yield
    finally:
        _forced.pop()


def best_device() -> Device:
    """The GPU that this process may use, if any. PyTorch is imported only where there may be one."""
    if _forced:
        return _forced[-1]
    if not pytorch.gpu_possible():
        return None
    pytorch.import_torch()
    from alray.models import device

    return _usable(device.best_device())


def device_in_use() -> Device:
    """The GPU if this process computes on it already."""
    if _forced:
        return _forced[-1]
    if pytorch.imported_torch() is None:
        return None
    from alray.models import device

    return _usable(device.device_in_use())


def _usable(found: torch.device) -> Device:
    from alray.models import device

    return found if found.type != "cpu" and device.usable(found) else None


def device_for(numbers: int) -> Device:
    """The GPU for work that looks at so many numbers about once: if it is in use, or worth its start."""
    return best_device() if numbers >= _WORTH else device_in_use()


class Place:
    """Where somebody's filters are computed: on a GPU as long as there is memory left on it, else by NumPy.

    numbers: those that are looked at about once; None: no GPU is used. It is decided when it is first asked for.
    """

    def __init__(self, numbers: int | None = None) -> None:
        self._numbers = numbers

    @cached_property
    def device(self) -> Device:
        """The GPU, if it is used."""
        return None if self._numbers is None else device_for(self._numbers)

    def attempt(self, there: Callable[[torch.device], T | None], forget: Callable[[], None] = lambda: None) -> T | None:
        """What is computed on the GPU. None, and the caller then uses NumPy: where there is no GPU, where this was not
        to be computed on it, and where its memory is used up, from then on. forget: called then, to let go of tensors.
        """
        if self.device is None:
            return None
        try:
            return there(self.device)
        except RuntimeError as error:
            _used_up(error)
            self.device = None
        forget()  # and the error's frames are gone
        _give_back()
        return None

    def rows(self, width: int) -> int:
        """How many rows of so many numbers to work on at once on the GPU; 0 where there is none."""
        return 0 if self.device is None else int(np.clip(_SENT // max(1, width), 256, 1 << 18))


def _used_up(error: RuntimeError) -> None:
    """Say that work goes on without the GPU; raise errors that do not say that its memory is used up."""
    from alray.models.device import out_of_memory

    if not out_of_memory(error):
        raise error
    _log.warning("selection goes on without the GPU, whose memory is used up: %s", error)


def _give_back() -> None:
    from alray.models.device import give_back

    give_back()


class OnDevice(Protocol):
    """What works on a device, and can forget it and begin anew without it."""

    def leave_device(self) -> None:
        """From now on work without a GPU."""


S = TypeVar("S", bound=OnDevice)
P = ParamSpec("P")


def restarting(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorator of a method that is called again, without the GPU, where the memory of the GPU is used up."""

    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except RuntimeError as error:
            _used_up(error)
        self.leave_device()
        _give_back()
        return method(self, *args, **kwargs)

    return call


def sent(x: Array, device: Device) -> Matrix:
    """An array on a device. It must not be changed later: on the device "cpu" it is the same memory."""
    if device is None:
        return x
    from alray.models import device as devices

    return devices.sent(x, device)


def beside(x: Array, other: Matrix) -> Matrix:
    """An array where another matrix is."""
    return x if isinstance(other, np.ndarray) else sent(x, other.device)


def double(x: Matrix) -> Matrix:
    """A matrix in float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.double()


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


def paired(a: Matrix, b: Matrix) -> Array:
    """The dot products of the rows of two float32 matrices (m, w), (m,), summed in float32."""
    if isinstance(a, np.ndarray):
        return np.asarray(np.einsum("mw,mw->m", a, b, dtype=np.float32))
    return fetched((a * b).sum(dim=1))


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


def all_apart(x: Floats) -> tuple[Floats, float]:
    """The squared distances of rows x (q, d) to each other by one float64 product (q, q), and the largest squared
    norm."""
    squares = np.einsum("qd,qd->q", x, x)
    apart: Floats = twice_less(squares[None], x, x)
    apart += squares[:, None]
    return apart, float(squares.max(initial=0.0))


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
        bias = bias.astype(a.dtype)
    fewer_rows = len(a) < len(b)
    a, b = (-2 * a, b.T) if fewer_rows else (a, -2 * b.T)
    step = max(1, _CACHED // max(1, len(found.T)))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        np.matmul(a[part], b, out=found[part])
        found[part] += bias if len(bias) == 1 else bias[part]
    return found
