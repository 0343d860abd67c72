"""Layers that oneDNN cannot train on some CPUs, and how they are computed instead.

Measured with oneDNN 3.12.0 and torch 2.14.1 on processors with AVX-512 and bfloat16.

`ordered`: images (b, h, w, 3) that are permuted to (b, 3, h, w) are in the order that torch calls channels_last. oneDNN
then writes outside its own buffer in the backward pass of convolutions with a 1x1 kernel, a stride of 2 and fewer than
16 input channels: a segmentation fault or a damaged heap. In the default order the same convolutions are right.

`guarded`: under bfloat16 the gradient of a kernel position that only ever meets padding, as eight of the nine positions
of a 3x3 kernel on a map of one pixel do, is not written: it holds whatever was in that memory, NaN at worst. In float32
it is zero, as it should be.
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


def guarded(network: nn.Module) -> nn.Module:
    """The network, whose convolutions leave bfloat16 on a CPU where a map is too small for it; weights stay as they
    are."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _GuardedConv2d
    return network


class _GuardedConv2d(nn.Conv2d):
    """A convolution that is computed in float32 where bfloat16 would leave gradients unwritten."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not self._has_idle_positions(pixels):
            return super().forward(pixels)
        with torch.autocast("cpu", enabled=False):
            return super().forward(pixels.float()).to(torch.get_autocast_dtype("cpu"))

    def _has_idle_positions(self, pixels: torch.Tensor) -> bool:
        """Whether some position of the kernel meets nothing but padding."""
        if isinstance(self.padding, str):
            return False
        sizes = zip(pixels.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return any(_idle(*size) for size in sizes)


def _idle(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """The same along one axis: output o reads position k at o * stride - padding + k * dilation."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = range(-padding, outputs * stride - padding, stride)
    return any(all(not 0 <= start + k * dilation < size for start in starts) for k in range(kernel))
