"""Whether this process may use a GPU, without PyTorch, whose import takes seconds: a driver tells its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NO_GPU = "ALRAY_NO_GPU"  # an environment variable, so that worker processes can be given it


def gpu_allowed() -> bool:
    """Whether this process may use a GPU if there is one."""
    return not os.environ.get(_NO_GPU)


@contextmanager
def without_gpu(forbidden: bool = True) -> Iterator[None]:
    """Context manager: this process uses no GPU. forbidden False: no change. Selection and linear heads in the driver
    of a run obey it; `alray.cluster.driver_takes_no_gpu` tells whether it is forbidden."""
    before = os.environ.get(_NO_GPU)
    if forbidden:
        os.environ[_NO_GPU] = "1"
    try:
        yield
    finally:
        if forbidden and before is None:
            del os.environ[_NO_GPU]
        elif forbidden:
            os.environ[_NO_GPU] = str(before)


def for_workers(gpus: float) -> dict[str, str]:
    """Environment variables of a worker of Ray's that holds so many GPUs. Ray shows all GPUs of its node to one that
    holds none. A variable that Ray's processes have inherited from this one is replaced."""
    return {_NO_GPU: "" if gpus else "1"}
