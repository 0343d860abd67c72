"""A GPU that is none: tensors that were sent to the device "cuda" stay in the CPU's memory and are marked.

Inside the context manager an operation fails that would fail or wait on a GPU: on tensors of both kinds, on a tensor
and a NumPy array, `numpy()` of a marked tensor; and a product that may not have all bits of float32. Copies that do not
block are made as late as they may be; those from the GPU hold garbage until something waits for it. It sees only the
thread that it was entered in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from alray.models import device

_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum"}
CUDA = torch.device("cuda")
_SYNCHRONIZE = {"cpu", "item", "nonzero", "__bool__", "__int__", "__float__", "tolist"}
_DEVICE = torch.Tensor.device.__get__  # type: ignore[attr-defined]


class PretendGpu(TorchFunctionMode):
    """calls: operations on marked tensors; waits: those that wait for the GPU; products: those of matrices. memory:
    after so many operations there is no memory for so many others."""

    def __init__(self, memory: float = np.inf, missing: float = np.inf) -> None:
        super().__init__()
        self.calls, self.waits, self.products, self._memory = 0, 0, 0, (memory, memory + missing)
        self._late: list[tuple[torch.Tensor, torch.Tensor]] = []  # copies to the GPU that are under way: from, to
        self._back: list[tuple[torch.Tensor, torch.Tensor]] = []  # copies from it, until something waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if marked(tensor)]
        if func == _DEVICE:
            return CUDA if there else func(*args)
        self._arrive(there)
        if name == "pin_memory":
            return args[0].clone()
        if name == "to":
            return self._to(*args, **kwargs)
        kwargs.pop("pin_memory", None)
        asked = kwargs.get("device")
        kwargs |= {"device": torch.device("cpu")} if asked is not None else {}
        if there:
            self._check(name, tensors, leaves)
            if name in _SYNCHRONIZE:
                for origin, copy in self._back:
                    copy.copy_(origin)
                self._back.clear()
        found = func(*args, **kwargs)
        on_gpu = bool(there) if asked is None else torch.device(asked).type == "cuda"
        if name == "cpu":
            return found.clone()
        return tree_map(_mark, found) if on_gpu else found

    def _check(self, name: str, tensors: list[torch.Tensor], leaves: list[Any]) -> None:
        self._count()
        self.waits += name in _SYNCHRONIZE
        self.products += name in _PRODUCTS
        assert name not in _PRODUCTS or device._FULL._inside, f"{name} outside `full_float32`"
        assert name not in ("numpy", "__array__"), f"{name} of a tensor on the GPU"
        assert not any(isinstance(leaf, np.ndarray) for leaf in leaves), f"{name} of a tensor on the GPU and an array"
        mixed = [tensor for tensor in tensors if not marked(tensor) and tensor.dim() > 0]
        assert not mixed, f"{name} of tensors on the GPU and on the CPU"

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        late = kwargs.pop("non_blocking", False)
        given = [*args, *kwargs.values()]
        to = next((torch.device(one) for one in given if isinstance(one, torch.device | str)), None)
        kind = next((one for one in given if isinstance(one, torch.dtype)), tensor.dtype)
        on_gpu = marked(tensor) if to is None else to.type == "cuda"
        if not on_gpu:
            return self._fetched(tensor.to(dtype=kind, copy=True), late and marked(tensor))
        self._count()
        found = torch.empty_like(tensor, dtype=kind)
        if late:
            self._late.append((tensor, found))
        else:
            found.copy_(tensor)
        return _mark(found)

    def _fetched(self, found: torch.Tensor, late: bool) -> torch.Tensor:
        if late:
            self._back.append((found.clone(), found))
            found.fill_(113)
        return found

    def _count(self) -> None:
        self.calls += 1
        if self._memory[0] < self.calls <= self._memory[1]:
            raise torch.OutOfMemoryError("CUDA out of memory. This is a test.")

    def _arrive(self, used: list[torch.Tensor]) -> None:
        for origin, copy in self._late:
            if any(copy is tensor for tensor in used):
                copy.copy_(origin)
        self._late = [(origin, copy) for origin, copy in self._late if not any(copy is tensor for tensor in used)]


def marked(tensor: torch.Tensor) -> bool:
    """Whether it would be on the GPU."""
    return getattr(tensor, "pretended", False)


def _mark(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        found.pretended = True  # type: ignore[attr-defined]
    return found
