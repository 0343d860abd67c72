"""Where networks and matrix products run, and how exactly. Nobody else in alray asks whether there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch


def best_device() -> torch.device:
    """The first GPU that this process can see, else the CPU. CUDA_VISIBLE_DEVICES="" hides all GPUs of a process."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products with all 24 bits, whatever `torch.set_float32_matmul_precision` was told.

    TF32 keeps 11 bits. A product that filters exact candidates by an error bound for float32 would then silently lose
    some of them. The setting is put back afterwards; it is the whole process's.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the names of torch 2.9 and later, which do not mix with the older functions
        before = ""
    if before == "highest":
        yield
        return
    cuda = torch.backends.cuda.matmul
    put_back = (
        partial(torch.set_float32_matmul_precision, before)
        if before
        else partial(setattr, cuda, "fp32_precision", cuda.fp32_precision)
    )
    if before:
        torch.set_float32_matmul_precision("highest")
    else:
        cuda.fp32_precision = "ieee"
    try:
        yield
    finally:
        put_back()
