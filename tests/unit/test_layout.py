"""A backbone with narrow 1x1 convolutions is trained in a process of its own: oneDNN's failure is a lost process."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize("kind", ["classify", "segment", "rotation", "colorization", "simsiam", "simclr"])
def test_a_backbone_of_eight_channels_trains(kind: str, amp: str) -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN, kind, amp], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
