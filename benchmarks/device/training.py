"""Section c: every network on GPU and CPU, then fine-tuning through alray's loop against a bare PyTorch loop.

Both loops get the same batches of 8-bit pixels from memory and make the same steps with the same model, optimizer and
precision; nothing is decoded. A third number is the bare loop on one batch that stays on the device: no loop is faster.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import networks
import numpy as np
import timm
import torch
from generated import pictures
from machine import device_name, peaks, synchronize
from section import Section, fraction
from torch.nn import functional as F

from alray import RunConfig
from alray.models.device import best_device
from alray.store import Store
from alray.train.batches import Batch, BatchPlan
from alray.train.loop import fit
from alray.train.objective import Place
from alray.train.supervised import SupervisedRecipe
from alray.train.targets import ClassTargets

C, DISTINCT, EPOCHS = 100, 512, 4  # the first epoch warms up
_NETWORKS = 0.35  # of the section's time, at most, for the comparison of networks
PRECISIONS = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Case:
    """A fine-tuning: timm's backbone, side of the images, images a batch, mixed precision, steps an epoch."""

    backbone: str
    size: int
    batch: int
    amp: str
    steps: int


FULL = (
    Case("resnet50", 224, 256, "bf16", 24),
    Case("resnet18", 32, 128, "none", 200),
    Case("resnet50", 224, 256, "fp16", 24),
    Case("resnet18", 32, 512, "bf16", 100),
)
TINY = (Case("test_resnet", 32, 8, "none", 3),)


def run(section: Section) -> None:
    """The networks, then the loops, the most important case first."""
    networks.compare(section, (0.8 if section.tiny else _NETWORKS) * section.left)
    device = best_device()
    torch.backends.cudnn.benchmark = False  # as alray leaves it, for both loops
    if device.type == "cpu":
        torch.set_num_threads(min(2, torch.get_num_threads()))
    cases = TINY if section.tiny else FULL
    for number, case in enumerate(cases):
        if section.left < 5 and not section.tiny:
            section.note(f"{case.backbone} {case.size} {case.amp}: left out, there was no time for it.")
            continue
        _side_by_side(section, case, device, section.left / (len(cases) - number))


def _side_by_side(section: Section, case: Case, device: torch.device, allowed: float) -> None:
    start = time.monotonic()
    images = pictures(DISTINCT if case.size < 100 else DISTINCT // 2, case.size)
    labels = np.arange(len(images)) % C
    pilot = 2
    _bare(case, images, labels, device, 1, True)  # it loads kernels, once for all
    began = time.monotonic()
    _bare(case, images, labels, device, pilot, False)
    took = time.monotonic() - began
    whole = EPOCHS * case.steps * 3
    part = fraction(took, EPOCHS * pilot / whole, allowed - (time.monotonic() - start))
    steps = case.steps if section.tiny else max(2, round(case.steps * part))
    if steps < case.steps:
        section.note(f"{case.backbone} {case.size} {case.amp}: cut from {case.steps} to {steps} steps an epoch.")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ours = _ours(case, images, labels, device, steps)
    memory = peaks(device)
    bare, least = _bare(case, images, labels, device, steps, False), _bare(case, images, labels, device, steps, True)
    section.add(
        "Fine-tuning, images a second",
        model=case.backbone,
        side=case.size,
        batch=case.batch,
        precision=case.amp,
        ran_on=device_name(device),
        steps=steps,
        alray=ours,
        bare_loop=bare,
        bare_loop_on_device=least,
        alray_over_bare=ours / bare,
        gpu_peak_gib=memory["gpu_peak_gib"],
    )


class Arrays:
    """Images from memory."""

    def __init__(self, images: np.ndarray, epochs: int) -> None:
        self.images, self.epochs = images, epochs

    def training(self, plan: BatchPlan, first_epoch: int) -> Generator[Batch, None, None]:
        for tables in plan.streams(first_epoch, self.epochs, plan.batch_size):
            for table in tables:
                rows = table["row"].to_numpy()
                image = self.images[rows % len(self.images)]
                yield {"row": rows, "label": table["label"].to_numpy(), "image": image}

    def validation(self) -> Iterator[Batch]:
        return iter(())


def _ours(case: Case, images: np.ndarray, labels: np.ndarray, device: torch.device, steps: int) -> float:
    """Images a second of `alray.train.loop.fit`: the median epoch after the first."""
    config = RunConfig(
        transform={"size": case.size, "train": "eval"},
        model={"backbone": case.backbone, "small_stem": case.size < 100 and case.backbone.startswith("resnet")},
        train={"epochs": EPOCHS, "batch_size": case.batch, "lr": 0.01, "schedule": "constant", "amp": case.amp},
    )  # type: ignore[arg-type]
    rows, none = np.arange(steps * case.batch), np.empty(0, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        targets, of_rows = ClassTargets(C), labels[rows % len(labels)]
        recipe = SupervisedRecipe(config, targets, 1, 0, rows, of_rows, none, none, None, Store(folder))
        place, arrays = Place(device=device), Arrays(images, EPOCHS)
        summary = fit(recipe, place, arrays, wrap=lambda m: m, report=lambda *_: None, tell=lambda make: None)
    return float(np.median([epoch.images / max(epoch.seconds, 1e-9) for epoch in summary.history[1:]]))


def _bare(
    case: Case, images: np.ndarray, labels: np.ndarray, device: torch.device, steps: int, on_device: bool
) -> float:
    """Images a second of what anybody would write: the median of as many epochs."""
    model = timm.create_model(case.backbone, num_classes=C)
    if case.size < 100 and case.backbone.startswith("resnet"):
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=case.amp == "fp16")
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    order = np.arange(steps * case.batch) % len(images)
    kept: Any = None
    speeds = []
    for _ in range(EPOCHS):
        synchronize(device)
        start = time.perf_counter()
        for step in range(steps):
            if kept is None or not on_device:
                at = order[step * case.batch : (step + 1) * case.batch]
                kept = torch.from_numpy(images[at]).to(device), torch.from_numpy(labels[at]).to(device)
            pixels = (kept[0].permute(0, 3, 1, 2).float() / 255 - mean) / std
            with torch.autocast(device.type, PRECISIONS[case.amp], enabled=case.amp != "none"):
                loss = F.cross_entropy(model(pixels), kept[1])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        speeds.append(steps * case.batch / (time.perf_counter() - start))
    return float(np.median(speeds[1:]))
