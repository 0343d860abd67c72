"""Whether PyTorch is needed, told without it: its import takes two CPU seconds and several hundred megabytes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from alray.models.no_gpu import gpu_allowed

# What the drivers of GPUs make: NVIDIA's, its own under Windows' Linux and on small boards, and AMD's.
_DRIVERS = tuple(Path("/dev", name) for name in ("nvidiactl", "dxg", "nvmap", "nvhost-gpu", "kfd"))
_THREAD = threading.local()


def gpu_possible() -> bool:
    """Whether there may be a GPU that this process may use; PyTorch must be asked only where it is possible."""
    if not gpu_allowed() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or sys.platform == "darwin":
        return False
    return sys.platform != "linux" or any(path.exists() for path in _DRIVERS)


def bfloat16_possible() -> bool:
    """Whether this processor may multiply bfloat16 numbers much faster than float32 ones: by the matrix instructions of
    Intel (AMX), or by AMD's AVX-512. Intel's AVX-512 alone takes twice as long as in float32."""
    try:
        told = Path("/proc/cpuinfo").read_bytes()
    except OSError:  # only PyTorch knows
        return True
    return b"amx_bf16" in told or (b"AuthenticAMD" in told and b"avx512_bf16" in told)


def imported_torch() -> ModuleType | None:
    """PyTorch where this process has imported it; another thread may just do so, which does not count."""
    torch = sys.modules.get("torch")
    return None if torch is None or getattr(torch.__spec__, "_initializing", False) else torch


def import_torch() -> None:
    """Import PyTorch now, and do what this thread wants to be done then, see `when_imported`."""
    import torch  # noqa: F401

    getattr(_THREAD, "then", _nothing)()


def when_imported(then: Callable[[], None]) -> Callable[[], None]:
    """What is to be done if this thread imports PyTorch later by `import_torch`; returns what was to be done before."""
    before: Callable[[], None] = getattr(_THREAD, "then", _nothing)
    _THREAD.then = then
    return before


def _nothing() -> None:
    pass
