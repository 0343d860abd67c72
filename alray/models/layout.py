"""The order in memory in which a network's images may come.

Images (b, h, w, 3) that are permuted to (b, 3, h, w) are in the order that torch calls channels_last. On processors
with AVX-512, oneDNN (3.12.0 was measured, with torch 2.14.1) then writes outside its own buffer in the backward pass
of convolutions with a 1x1 kernel, a stride of 2 and fewer than 16 input channels: a segmentation fault or a damaged
heap. In the default order the same convolutions are right.
"""

from __future__ import annotations

import torch
from torch import nn

_NARROW = 16  # float32 numbers in a register of 512 bits


def ordered(pixels: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """pixels (b, c, h, w), copied into the default order where the network cannot be trained on channels_last.

    That is on a CPU only; elsewhere, and for all other networks, the pixels are returned as they came.
    """
    safe = pixels.device.type != "cpu" or not any(_narrow(module) for module in network.modules())
    return pixels if safe else pixels.contiguous()


def _narrow(module: nn.Module) -> bool:
    """Whether oneDNN fails on this layer. Measured as right: stride 1, kernels 3x3, and grouped convolutions."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < _NARROW
    )
