"""Every network that alray trains, a few steps on the GPU and on the CPU: the same losses, before and after a restart.

Two processes, one of which is shown no GPU, train from the same weights on the same images. Their losses differ by
rounding only: TF32 in convolutions, float16 and bfloat16 where the case says so (the CPU always computes in float32).
VAAL draws its noise on the device, so that its losses are other ones on a GPU; they are compared with those after a
restart alone.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import device_name
from section import Section, half, with_and_without_gpu

from alray import RunConfig, keyed
from alray.config import FeatureConfig, ModelConfig, PretextConfig, TransformConfig, VaalConfig
from alray.data.masks import Masks
from alray.data.sources.kinds import SOURCES
from alray.features.measures import Features, ModelSource
from alray.models.device import best_device
from alray.store import Store
from alray.train import loop, pretext, vaal
from alray.train.batches import Batch, BatchPlan, PairedPlan, blocks
from alray.train.linear import fit_head
from alray.train.objective import Place, Recipe
from alray.train.pretext import PretextRecipe
from alray.train.segment import SegmentationFeatures
from alray.train.supervised import SupervisedRecipe
from alray.train.targets import ClassTargets, MaskTargets
from alray.train.vaal import VaalRecipe

SIZE, C, IMAGES, EPOCHS = 16, 3, 48, 2
MODEL = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 32, 32]}, small_stem=True)
IMAGE = TransformConfig(size=SIZE, train="eval", resize=0)
NEAR = {"none": 0.02, "bf16": 0.1, "fp16": 0.1}  # what rounding may change, see `_apart`
NEAR_AFTER_RESTART = 0.1  # sums on a GPU come in any order, and training amplifies the difference
_MASKS = Masks(SOURCES["parquet"], "mask", "", "", ".png", 255, ("red", "green", "blue"))  # none is read
Numbers = dict[str, list[float]]


def picture(row: int, epoch: int = 0) -> np.ndarray:
    """Noise with a cast of the colour of class row % 3."""
    image = keyed.generator(row, f"device/networks/{epoch}").integers(0, 200, (SIZE, SIZE, 3))
    image[..., row % C] += 40
    return image.astype(np.uint8)


@dataclass(frozen=True)
class Made:
    """Images made on the spot, with masks for segmentation."""

    recipe: Recipe
    views: bool = False
    masks: bool = False

    def training(self, plan: BatchPlan | PairedPlan, first_epoch: int) -> Generator[Batch, None, None]:
        for tables in plan.streams(first_epoch, self.recipe.epochs, 32):
            yield from (self._block(table) for table in tables)

    def validation(self) -> Iterator[Batch]:
        assert self.recipe.validation is not None
        rows, labels = self.recipe.validation.part(Place())
        yield from (self._block(table) for table in blocks(rows, np.zeros(len(rows), np.int32), labels, 32))

    def _block(self, table: Any) -> Batch:
        block = {name: table[name].to_numpy() for name in ("row", "epoch", "label")}
        block["image"] = pictures(block["row"], self.views)
        return {**block, "mask": block["image"].argmax(3).astype(np.uint8)} if self.masks else block


def finetuned(folder: Path, amp: str, segmentation: bool = False, **train: Any) -> Numbers:
    """Losses of a training, and of one that goes on from its first checkpoint."""
    config = RunConfig(
        task="segmentation" if segmentation else "classification",
        top_k=(),
        transform=IMAGE,
        model=MODEL,
        split={"val_size": 30, "val_how": "random"},
        train={"epochs": EPOCHS, "batch_size": 16, "lr": 0.02, "schedule": "constant", "amp": _amp(amp), **train},
    )  # type: ignore[arg-type]
    targets = MaskTargets(_MASKS) if segmentation else ClassTargets(C)
    rows, val_rows = np.arange(IMAGES), np.arange(1000, 1030)
    recipe = SupervisedRecipe(config, targets, 1, 0, rows, rows % C, val_rows, val_rows % C, None, Store(str(folder)))
    return trained(recipe, masks=segmentation)


def trained(recipe: Recipe, views: bool = False, masks: bool = False) -> Numbers:
    """Losses of any training, and of one that goes on from its first checkpoint."""
    images = Made(recipe, views, masks)

    def fit(state: Any, report: Any) -> Any:
        return loop.fit(
            recipe, _place(), images, wrap=lambda m: m, report=report, tell=lambda make: make() and None, state=state
        )

    return _restarted(fit)


def _restarted(fit: Callable[[Any, Any], Any]) -> Numbers:
    saved: list[bytes] = []

    def report(metrics: dict[str, Any], state: Any) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        saved.append(buffer.getvalue())

    whole = fit(None, report)
    first = torch.load(io.BytesIO(saved[0]), map_location="cpu", weights_only=True)  # as a worker reads it
    again = fit(first, lambda *_: None)
    return {"losses": [epoch.loss for epoch in whole.history], "resumed": [epoch.loss for epoch in again.history]}


def pictures(rows: np.ndarray, views: bool) -> np.ndarray:
    """Images (m, s, s, 3), or two views of each, (m, 2, s, s, 3)."""
    images = np.stack([picture(row) for row in rows.tolist()])
    return np.stack([images, images[:, :, ::-1]], axis=1) if views else images


def _place() -> Place:
    return Place(device=best_device())


def _amp(amp: str) -> str:
    return amp if best_device().type == "cuda" else "none"


def linear(optimizer: str) -> Numbers:
    """A head on embeddings."""
    rng = keyed.generator(0, "device/linear")
    labels = rng.integers(0, C, 600)
    embedding = (rng.standard_normal((600, 64)) + labels[:, None]).astype(np.float16)
    config = RunConfig(
        train={"mode": "linear", "epochs": EPOCHS, "batch_size": 64, "lr": 0.01, "optimizer": optimizer}
    ).train  # type: ignore[arg-type]
    arrays = {"embedding": embedding[:500], "labels": labels[:500]}
    held_out = {"val_embedding": embedding[500:], "val_labels": labels[500:]}
    head, summary = fit_head(config, seed=0, num_classes=C, **arrays, **held_out)
    return {"losses": [epoch.loss for epoch in summary.history], "measured": head.weight.ravel().tolist()}


def measured(measure: Any, views: bool = False) -> Numbers:
    """What a model says of some images, as an extraction actor would ask it."""
    rows = np.arange(40)
    found = measure.load(best_device())({"row": rows, "image": pictures(rows, views)})
    return {"measured": np.concatenate([column.ravel() for column in found.values()]).astype(float).tolist()}


def cases(folder: Path) -> Iterator[tuple[str, float, Callable[[], Numbers]]]:
    """(name, how near to the CPU, work)."""
    for amp, near in NEAR.items():
        yield f"fine-tuning {amp}", near, lambda amp=amp: finetuned(folder, amp, clip_norm=1.0)
    yield "fine-tuning adamw", NEAR["none"], lambda: finetuned(folder, "none", optimizer="adamw", lr=1e-3)
    for amp in ("none", "fp16"):
        yield f"segmentation {amp}", NEAR[amp], lambda amp=amp: finetuned(folder, amp, segmentation=True)
    for optimizer in ("sgd", "adamw"):
        yield f"linear head {optimizer}", NEAR["none"], lambda optimizer=optimizer: linear(optimizer)
    source = ModelSource(MODEL, C, 0, "", "fresh", SIZE)
    features = FeatureConfig(batch_size=16)
    yield "embeddings and logits", NEAR["none"], lambda: measured(Features(source, IMAGE, features, True))
    yield "segmentation's features", NEAR["none"], lambda: measured(SegmentationFeatures(source, IMAGE, features))
    for task, amp in (("rotation", "none"), ("colorization", "none"), ("simsiam", "bf16"), ("simclr", "fp16")):
        yield from _pretext(folder, task, amp)
    rows, weights = np.arange(IMAGES), folder / "vaal.pt"
    config = VaalConfig(image_size=SIZE, latent=8, width=8, epochs=EPOCHS, batch_size=16)
    recipe = VaalRecipe(config, 0, 0, rows[:24], rows[24:], Store(str(folder / "vaal")))
    yield "vaal", np.inf, lambda: trained(recipe)
    torch.save(vaal.fresh(config, 0).state_dict(), weights)
    yield "vaal's discriminator", NEAR["none"], lambda: measured(vaal.Discriminating(config, str(weights), "x"))


def _pretext(folder: Path, task: Any, amp: Any) -> Iterator[tuple[str, float, Callable[[], Numbers]]]:
    """A pretext task's training, and its losses of images by fresh weights."""
    config = PretextConfig(task=task, amp=_amp(amp), epochs=EPOCHS, batch_size=16, lr=0.01, schedule="constant")
    recipe = PretextRecipe(config, MODEL, IMAGE, 0, np.arange(IMAGES), Store(str(folder / task)))
    views, weights = recipe.transform.shape[0] == 2, folder / f"{task}.pt"
    yield f"{task} {amp}", NEAR[amp], lambda: trained(recipe, views)
    torch.save(pretext.fresh(config, MODEL, IMAGE, 0).state_dict(), weights)
    losses = pretext.PretextLosses(config, MODEL, IMAGE, 0, str(weights), "x")
    yield f"{task}'s losses of images", NEAR["none"], lambda: measured(losses, views)


def train(seconds: float, tiny: bool, out: Path) -> None:
    """One process's numbers, one line a case."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, out.open("w") as lines:
        for name, _, work in cases(Path(folder)):
            if time.monotonic() > end:
                return
            start = time.monotonic()
            found: dict[str, Any] = {"case": name, "device": device_name(best_device())}
            try:
                found |= work()
            except Exception as error:
                found["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps({**found, "seconds": time.monotonic() - start}), file=lines, flush=True)


def compare(section: Section, seconds: float) -> None:
    """A row for each case."""
    gpu, cpu = with_and_without_gpu(section, __file__, seconds)
    with tempfile.TemporaryDirectory() as folder:
        expected = {name: near for name, near, _ in cases(Path(folder))}
    for name, tolerance in expected.items():
        one, other = gpu.get(name), cpu.get(name)
        if one is None or other is None:
            section.note(f"{name}: left out, there was no time for it.")
            continue
        error = one.get("error") or other.get("error")
        apart = {
            kind: _apart(one[kind], other[kind]) for kind in ("losses", "measured") if kind in one and kind in other
        }
        restart = _apart(one["losses"], one["resumed"]) if "resumed" in one else None
        near = not error and all(value <= tolerance for value in apart.values())
        near = near and (restart is None or restart <= NEAR_AFTER_RESTART)
        section.add(
            "Networks",
            network=name,
            ran_on=one["device"],
            near_the_cpu=near,
            losses_apart=apart.get("losses"),
            numbers_apart=apart.get("measured"),
            losses_after_a_restart_apart=restart,
            seconds=round(one["seconds"], 2),
            seconds_without_gpu=round(other["seconds"], 2),
            error=error,
        )
        if not near:
            section.failures.append(f"{name}: {error or 'other numbers with a GPU than without'}")


def _apart(one: list[float], other: list[float]) -> float:
    """Largest difference over the largest size, or over 0.25 where all are smaller; infinite for what is not finite."""
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.abs(a - b).max() / max(0.25, np.abs(b).max()))


if __name__ == "__main__":
    half(train)
