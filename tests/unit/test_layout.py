"""A backbone with narrow 1x1 convolutions is trained in a process of its own: oneDNN's failure is a lost process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from alray.models.layout import _idle, guarded

TRAIN = """
import numpy as np, sys, torch
from alray.config import ModelConfig, PretextConfig
from alray.models.backbone import autocast, create
from alray.models.segmenter import create_segmenter
from alray import pretext
kind, amp = sys.argv[1:]
model = ModelConfig(backbone="resnet18", options={"channels": [8, 8, 8, 8]})
if kind == "classify":
    network = create(model, 3, 0, 224)
elif kind == "segment":
    network = create_segmenter(model, 3, 0, 224)
else:
    network = pretext.build(PretextConfig(task=kind), model, 0, 224)
shape = (2, 2, 224, 224, 3) if getattr(network, "views", False) else (2, 224, 224, 3)
images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, shape, np.uint8))
for step in range(3):
    with autocast(torch.device("cpu"), amp):
        found = network(images)
    loss = (found[1] if isinstance(found, tuple) else found).float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
"""


@pytest.mark.parametrize(
    ("kind", "amp"),
    [("classify", "none"), ("classify", "bf16"), ("segment", "none"), ("rotation", "none"), ("simclr", "bf16")],
)
def test_a_backbone_of_eight_channels_trains(kind: str, amp: str) -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN, kind, amp], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        (1, 3, 2, 1, True),
        (1, 3, 1, 1, True),
        (2, 3, 2, 1, True),
        (3, 3, 2, 1, False),
        (14, 7, 2, 3, False),
        (2, 7, 1, 3, True),
        (4, 7, 2, 3, True),
        (9, 1, 2, 0, False),
    ],
)
def test_kernel_positions_that_only_meet_padding_are_found(
    size: int, kernel: int, stride: int, padding: int, expected: bool
) -> None:
    """Compared with the gradient itself: it is zero exactly there."""
    conv = nn.Conv2d(1, 1, kernel, stride=stride, padding=padding, bias=False)
    conv(torch.ones(1, 1, size, size)).sum().backward()
    assert conv.weight.grad is not None
    assert bool((conv.weight.grad == 0).any()) == expected == _idle(size, kernel, stride, padding, 1)


def test_small_maps_have_finite_gradients_in_bfloat16() -> None:
    """Memory that is full of NaN is handed out again for the gradients that oneDNN does not write."""
    conv = guarded(nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False))
    for _ in range(5):
        waste = [torch.full((64 * 64 * 9,), float("nan"), dtype=kind) for kind in (torch.bfloat16, torch.float32)]
        del waste
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = conv(torch.randn(8, 64, 1, 1))
        conv.zero_grad()
        found.float().square().sum().backward()
        assert conv.weight.grad is not None and torch.isfinite(conv.weight.grad).all()


def test_small_maps_are_computed_in_float32_under_autocast() -> None:
    """What oneDNN leaves unwritten is zero by luck now and then; which arithmetic was used can always be seen."""
    conv, pixels = guarded(nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)), torch.randn(8, 64, 1, 1)
    expected = conv(pixels).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv(pixels), expected)


def test_a_guarded_network_has_the_same_weights_and_outputs() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    pixels, names = torch.randn(2, 3, 9, 9), list(network.state_dict())
    before = network(pixels)
    assert torch.equal(guarded(network)(pixels), before)
    assert list(network.state_dict()) == names
