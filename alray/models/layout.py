"""Images in the form that a network takes, and two ways around failures of oneDNN on CPUs.

Both failures were measured with oneDNN 3.12.0 and torch 2.14.1, on processors with AVX-512 and bfloat16:

* Images (b, h, w, 3) that are permuted to (b, 3, h, w) are in the memory order that torch calls channels_last. In that
  order the backward pass of a convolution with a 1x1 kernel, a stride of 2 and fewer than 16 input channels writes
  outside its own buffer: the process ends with a segmentation fault or has a damaged heap. In the default order the
  same convolution is right: see `ordered`.
* Under bfloat16 no gradient is written for a kernel position that meets nothing but padding, such as eight of the nine
  positions of a 3x3 kernel on a map of one pixel. The gradient then holds whatever was in that memory, NaN at worst. In
  float32 it is zero, as it should be: see `guarded`.
"""

from __future__ import annotations

import torch
from torch import nn

_NARROW = 16  # float32 numbers in a register of 512 bits


def network_input(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """images (b, h, w, 3) uint8 -> normalised pixels (b, 3, h, w) float32, in a memory order that the network takes.

    mean, std (3, 1, 1): of pixels from 0 to 1. The images are permuted, not copied: the result is channels_last.
    """
    return ordered((images.permute(0, 3, 1, 2).float() / 255.0 - mean) / std, network)


def ordered(pixels: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """pixels (b, c, h, w), copied into the default memory order where the network cannot be trained on channels_last.

    Only a CPU and a network with narrow convolutions need the copy. In all other cases the pixels are returned as they
    are.
    """
    safe = pixels.device.type != "cpu" or not any(_narrow(module) for module in network.modules())
    return pixels if safe else pixels.contiguous()


def _narrow(module: nn.Module) -> bool:
    """Whether oneDNN fails on this layer. It does not fail with stride 1, with 3x3 kernels or with groups."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < _NARROW
    )


def guarded(network: nn.Module) -> nn.Module:
    """Change the network's convolutions, in place, to compute in float32 where bfloat16 on a CPU would be wrong.

    Returns the network. Its weights stay as they are.
    """
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
    """Whether, along one axis, some kernel position k meets nothing but padding.

    The output o reads position k at o * stride - padding + k * dilation.
    """
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = range(-padding, outputs * stride - padding, stride)
    return any(all(not 0 <= start + k * dilation < size for start in starts) for k in range(kernel))
