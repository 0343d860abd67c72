"""The device and the precision of networks and matrix products. No other module checks whether there is a GPU;
`alray.models.pytorch` tells without PyTorch where there can be none."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import numpy.typing as npt
import torch

from alray.models.no_gpu import gpu_allowed

_log = logging.getLogger(__name__)
_USED_UP = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


def best_device() -> torch.device:
    """The first GPU that this process can see and may use, else the CPU. CUDA_VISIBLE_DEVICES="" hides all GPUs of a
    process; inside `without_gpu` none may be used."""
    return torch.device("cuda" if torch.cuda.is_available() and gpu_allowed() else "cpu")


def device_in_use() -> torch.device:
    """The GPU if this process may use one and computes on it already, else the CPU. A driver whose shards are actors
    elsewhere takes no GPU memory from them."""
    used = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return best_device() if used else torch.device("cpu")


def free_bytes(device: torch.device) -> int:
    """The free memory of a GPU, of which other processes may take some at any time; 0 for a CPU."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch says that memory of a GPU, or pinned memory, is used up; other processes may use the
    same GPU. Libraries of NVIDIA that find none for themselves say it in their own words."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(sign in said for sign in _USED_UP)


def usable(device: torch.device) -> bool:
    """Whether a GPU that PyTorch sees computes; told once in a process, and said where it does not. Another process may
    have it for itself, this PyTorch may not be made for it, or the process may have been forked from one that used
    it."""
    return device.type == "cpu" or _computes(device, torch.are_deterministic_algorithms_enabled(), os.getpid())


@cache
def _computes(device: torch.device, deterministic: bool, pid: int) -> bool:
    """The same of one process (a forked one inherits the answers of its parent) and one setting: deterministic products
    are refused where an environment variable is missing."""
    try:
        ones = torch.ones(2, 2, device=device)
        with full_float32():
            (ones @ ones).sum().item()  # waits for it
    except RuntimeError as error:
        if out_of_memory(error):  # which may be over in a moment; whoever uses the GPU then goes on without it
            return True
        _log.warning("selection uses no GPU, because the one that is here cannot be used: %s", error)
        return False
    return True


def give_back() -> None:
    """Give the memory that no tensor uses any more back to the GPU."""
    torch.cuda.empty_cache()


class _FullFloat32:
    """Counts the threads inside `full_float32`: the first sets the precision, the last restores it."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._restore: Callable[[], None] = lambda: None

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore = _set_full()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()


_FULL = _FullFloat32()


@contextmanager
def full_float32() -> Iterator[None]:
    """Context manager: float32 products use all 24 bits, whatever `torch.set_float32_matmul_precision` has set, and
    `torch.autocast`.

    TF32 keeps 11 bits, bfloat16 8. A product that filters exact candidates by an error bound for float32 would then
    silently lose some of them. The precision applies to the whole process; it is restored when no thread is inside any
    more. Autocasting is a matter of each thread.
    """
    _FULL.enter()
    try:
        cast = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        if not cast:  # nearly always, and products may be small
            yield
            return
        with ExitStack() as held:
            for kind in cast:
                held.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        _FULL.leave()


def _set_full() -> Callable[[], None]:
    """Set it, and return what restores it."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set with the newer names (torch 2.9), which exclude the older functions
        before = ""
    if before == "highest":
        return lambda: None
    if before:
        torch.set_float32_matmul_precision("highest")
        return partial(torch.set_float32_matmul_precision, before)
    newer = ExitStack()
    for kind in (torch.backends.cuda, torch.backends.mkldnn):  # products on GPUs, and on processors
        matmul: Any = getattr(kind, "matmul", None)
        if hasattr(matmul, "fp32_precision"):
            newer.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
            matmul.fp32_precision = "ieee"
    return newer.close


def sent(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array on a device. To a GPU it goes by way of pinned memory, so that this process goes on meanwhile; from
    other memory CUDA would wait for the work that was begun before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
