"""Whether this process may use a GPU, without PyTorch, whose import takes seconds: a driver tells its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NO_GPU = "ALRAY_NO_GPU"  # an environment variable, so that worker processes can be given it


def gpu_allowed() -> bool:
    """Whether this process may use a GPU if there is one."""
    return _NO_GPU not in os.environ


@contextmanager
def without_gpu(forbidden: bool = True) -> Iterator[None]:
    """Context manager: this process uses no GPU, nor do the workers that get `for_workers`. forbidden False: no change.
    Selection and linear heads of a run with resources.use_gpu "no" obey it."""
    before = os.environ.get(_NO_GPU)
    if forbidden:
        os.environ[_NO_GPU] = "1"
    try:
        yield
    finally:
        if forbidden and before is None:
            del os.environ[_NO_GPU]


def for_workers() -> dict[str, str]:
    """Environment variables for worker processes, so that they obey `without_gpu` as this process does."""
    return {_NO_GPU: os.environ[_NO_GPU]} if _NO_GPU in os.environ else {}
