"""Where things run, and that exact filters multiply with all bits of float32."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from alray.models.device import full_float32
from alray.selection.select import select

AS_SET = {
    "default": "",
    "old name": "torch.set_float32_matmul_precision('medium')",
    "new name": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "of the processor": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
}


@pytest.mark.parametrize("setting", AS_SET)
def test_products_are_exact_and_the_setting_is_put_back(setting: str) -> None:
    """In a process of its own: the settings are the process's."""
    program = f"""
import torch
from alray.models.device import full_float32
{AS_SET[setting]}
for matmul in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
    before = matmul.fp32_precision
    with full_float32():
        assert matmul.fp32_precision in ("ieee", "none"), matmul.fp32_precision
    assert matmul.fp32_precision == before, (before, matmul.fp32_precision)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Watched(TorchFunctionMode):
    """Notes the precision under which matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("addmm", "matmul", "__matmul__", "mm", "linalg_vecdot"):
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["k_center", "badge"])
def test_selection_multiplies_in_full(name: str) -> None:
    rng = np.random.default_rng(0)
    data = {"embedding": rng.normal(size=(300, 8)).astype(np.float32), "logits": rng.normal(size=(300, 4))}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with Watched() as watched:
            select(name, 20, **data, labeled=range(10))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert watched.seen
    assert set(watched.seen) == {"highest"}


def test_an_error_inside_puts_the_setting_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ZeroDivisionError), full_float32():
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
