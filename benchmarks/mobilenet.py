"""The published int8 MobileNetV2 (ImageNet) as a timm state dict, so that real weights can be tried without a
download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch

TIMM_NAME = "mobilenetv2_100"
TIMM_OPTIONS = {"pad_type": "same"}  # TensorFlow's padding
MEAN = STD = (0.5, 0.5, 0.5)


def state_dict(npz: Path) -> dict[str, torch.Tensor]:
    """Weights dequantised; batch norms, which the file has folded into the convolutions, become their biases."""
    arrays = np.load(npz)
    model = timm.create_model(TIMM_NAME, num_classes=0, **TIMM_OPTIONS)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    norms = [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 52
    state = model.state_dict()
    names = sorted(key.removesuffix(".scale") for key in arrays.files if key.endswith(".scale"))[:-1]
    for name, conv, norm in zip(names, convolutions, norms, strict=True):
        scale = arrays[f"{name}.scale"][:, None, None, None]
        weight = torch.from_numpy(arrays[f"{name}.weight_int8"].astype(np.float32) * scale)
        assert weight.shape == state[f"{conv}.weight"].shape, (name, conv)
        state[f"{conv}.weight"] = weight
        state[f"{norm}.weight"] = torch.ones(len(weight)) * (1 + model.get_submodule(norm).eps) ** 0.5
        state[f"{norm}.bias"] = torch.from_numpy(arrays[f"{name}.bias"])
        state[f"{norm}.running_mean"].zero_()
        state[f"{norm}.running_var"].fill_(1.0)
    return state


def logits_head(npz: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The last convolution as a head of 1,000 classes: weight (1000, 1280), bias (1000,)."""
    arrays = np.load(npz)
    weight = arrays["conv63.weight_int8"].astype(np.float32) * arrays["conv63.scale"][:, None, None, None]
    return torch.from_numpy(weight[1:, :, 0, 0]), torch.from_numpy(arrays["conv63.bias"][1:])
