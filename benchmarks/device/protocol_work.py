"""One process of section f: the rotation task, or all rounds of one strategy of one protocol.

    python protocol_work.py FOLDER pretext
    python protocol_work.py FOLDER pt4al/random

FOLDER has setup.json, the images (`cifar.write`), later what the section decides: go.json, plan.json. This process
writes lines of JSON into FOLDER/<job>.jsonl. It ends by itself when its time is over.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar import CLASSES, MEAN, STD, Cifar, InMemory
from protocol_plan import PRETEXT_EPOCHS, PROTOCOLS, Size, epochs_of
from scipy.stats import spearmanr

from alray import RunConfig, select
from alray.config import ModelConfig, PretextConfig, TransformConfig
from alray.data.splits import draw_random
from alray.features.arrays import PRETEXT_LOSS
from alray.features.measures import ModelSource
from alray.models.backbone import embed_images
from alray.models.device import best_device
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.store import Store
from alray.train.evaluate import classification_metrics, labeled_set_metrics
from alray.train.loop import fit
from alray.train.objective import Place, Recipe
from alray.train.pretext import ENCODER, PretextLosses, PretextRecipe
from alray.train.summary import TrainSummary
from alray.train.supervised import SupervisedRecipe, supervised_recipe
from alray.train.targets import ClassTargets

SEED, MODEL_FILE, LOSSES_FILE = 0, "model.pt", "losses.npy"
IMAGE = TransformConfig(size=32, train="crop_pad", resize=0)
_PILOT = 40  # batches of an epoch of the pilot
_PRETEXT_SHARE = 0.22  # of the time, at most, for the training of the pretext task
_NAMES = [str(number) for number in range(CLASSES)]


class TimeIsUp(Exception):  # noqa: N818  what happened
    """The deadline came during a training."""


@dataclass
class Worker:
    """What every job has: the images, its place, its deadline on the wall clock, and where its lines go."""

    folder: Path
    job: str

    def __post_init__(self) -> None:
        setup = json.loads((self.folder / "setup.json").read_text())
        self.size, self.deadline = Size(**setup["size"]), float(setup["deadline"])
        self.device = best_device()
        self.amp = "bf16" if self.device.type == "cuda" else "none"
        self.model = ModelConfig(
            backbone="resnet18", options=self.size.options, small_stem=True, mean=MEAN, std=STD
        )  # as published for images of 32 pixels
        self.lines = (self.folder / f"{self.job.replace('/', '-')}.jsonl").open("a")
        torch.zeros(1, device=self.device)  # starts CUDA while the images are still decoded

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def tell(self, kind: str, **numbers: Any) -> None:
        """A line for the section."""
        print(json.dumps({"kind": kind, **numbers}, default=float), file=self.lines, flush=True)

    def wait(self, name: str) -> Any:
        """What the section wrote into a file, as soon as it is there."""
        while not (self.folder / name).exists():
            self.check()
            time.sleep(0.05)
        return json.loads((self.folder / name).read_text())

    def check(self) -> None:
        """Raise TimeIsUp after the deadline."""
        if self.left < 0:
            raise TimeIsUp

    def fit(self, recipe: Recipe, crop: bool, seed: int) -> TrainSummary:
        """Train in memory; ends with TimeIsUp at the deadline."""
        images = InMemory(self.cifar, recipe.epochs, crop, seed)
        place = Place(device=self.device)
        return fit(
            recipe, place, images, wrap=lambda model: model, report=lambda *_: None, tell=lambda make: self.check()
        )

    def load(self) -> None:
        """Wait for the images."""
        self.wait("data.json")
        self.cifar = Cifar.load(self.folder)


def speed(summary: TrainSummary) -> float:
    """Trained images a second, without the first epoch where there are more."""
    epochs = summary.history[1:] or summary.history
    return sum(epoch.images for epoch in epochs) / max(sum(epoch.seconds for epoch in epochs), 1e-9)


def pretext(worker: Worker) -> None:
    """Train the rotation task on the whole pool for as long as its share of the time allows; measure every loss."""
    worker.load()
    size, cifar = worker.size, worker.cifar
    allowed = _PRETEXT_SHARE * worker.left

    def recipe(epochs: int, rows: np.ndarray, name: str) -> PretextRecipe:
        config = PretextConfig(
            task="rotation", epochs=epochs, batch_size=size.pretext_batch, schedule="step", amp=worker.amp,
            checkpoint_every=epochs,
        )  # fmt: skip
        return PretextRecipe(config, worker.model, IMAGE, SEED, rows, Store(str(worker.folder / name)))

    began = time.monotonic()
    epochs, some = 1, cifar.rows[: 15 * size.pretext_batch]
    if size.pretext_epochs > 1:
        rate = speed(worker.fit(recipe(2, some, "pretext-pilot"), False, SEED))
        allowed -= time.monotonic() - began
        epochs = int(min(size.pretext_epochs, max(1.0, allowed * rate / len(cifar.rows))))
        print(f"pretext: {rate:,.0f} images a second (four rotations each), {epochs} epochs", flush=True)
    if epochs < PRETEXT_EPOCHS:
        worker.tell("note", text=f"The rotation task was trained for {epochs} epochs instead of {PRETEXT_EPOCHS}.")
    whole = recipe(epochs, cifar.rows, "pretext")
    summary = worker.fit(whole, False, SEED)
    trained = time.monotonic() - began
    weights = str(worker.folder / "pretext" / MODEL_FILE)
    measure = PretextLosses(whole.config, worker.model, IMAGE, SEED, weights, "rotation").load(worker.device)
    losses = measure({"image": cifar.images(cifar.rows)})[PRETEXT_LOSS][:, 0]
    np.save(worker.folder / LOSSES_FILE, losses)
    hardest = np.argsort(-losses, kind="stable")[: len(losses) // 10]
    worker.tell(
        "row", table="Pretext task", task="rotation", epochs=epochs, published_epochs=PRETEXT_EPOCHS,
        images_per_second=speed(summary), last_training_loss=summary.history[-1].loss,
        median_loss=float(np.median(losses)), mean_loss=float(losses.mean()),
        class_entropy_of_hardest_tenth=_entropy(cifar.labels[hardest]),
        seconds=round(trained, 1), seconds_for_losses=round(time.monotonic() - began - trained, 1),
    )  # fmt: skip


def _entropy(labels: np.ndarray) -> float:
    return float(labeled_set_metrics(np.bincount(labels, minlength=CLASSES).tolist())["normalised_entropy"])


class Rounds:
    """All rounds of a strategy. Every round trains from the beginning; the last epoch's network counts."""

    def __init__(self, worker: Worker) -> None:
        self.worker, (name, self.strategy) = worker, worker.job.split("/")
        self.protocol, self.name = PROTOCOLS[name], name
        worker.load()
        self.cifar, self.size = worker.cifar, worker.size
        self.encoder = bool(worker.wait("go.json")["pretext"])
        has = self.encoder and name == "pt4al"
        self.losses = np.load(worker.folder / LOSSES_FILE) if has else None
        self.known = np.full(len(self.cifar.rows), -1)  # the labels that were bought
        self.rate = 0.0

    def recipe(self, rows: np.ndarray, epochs: int, number: int, folder: str) -> SupervisedRecipe:
        """A training on labeled rows."""
        model = self.worker.model
        if self.protocol.encoder and self.encoder:
            model = model.model_copy(update={"checkpoint": str(self.worker.folder / "pretext" / ENCODER)})
        train = self.protocol.train(epochs, self.encoder, self.size, self.worker.amp)
        config = RunConfig(
            seed=SEED, top_k=(), transform=IMAGE, model=model, train={**train, "checkpoint_every": epochs}
        )
        none = np.empty(0, np.int64)
        out = Store(str(self.worker.folder / f"{self.name}-{self.strategy}-{folder}"))
        return supervised_recipe(
            config, ClassTargets(CLASSES), labeled=(rows, self.cifar.labels[rows]), held_out=(none, none),
            round=number, seed=SEED, start=None, out=out,
        )  # fmt: skip

    def pilot(self) -> None:
        """Tell how fast this process trains while all others do the same."""
        rows = self.cifar.rows[: _PILOT * self.size.batch]
        self.rate = speed(self.worker.fit(self.recipe(rows, 3, 0, "pilot"), True, SEED))
        self.worker.tell("rate", images_per_second=self.rate)

    def run(self) -> None:
        """The pilot, then as many of the planned rounds as the time allows."""
        if self.strategy == "pt4al" and self.losses is None:
            self.worker.tell("note", text=f"{self.worker.job}: left out without the losses of the pretext task.")
            return
        self.pilot()
        plan = self.worker.wait("plan.json")[self.name]
        step, most = self.protocol.step(self.size), self.protocol.step(self.size) * plan["rounds"]
        labeled = self._first(step)
        for number in range(plan["rounds"]):
            epochs = epochs_of(len(labeled), most, plan["epochs"], self.size)
            if len(labeled) * epochs / self.rate + 1 > self.worker.left:
                self.worker.tell("note", text=f"{self.worker.job}: {number} of {plan['rounds']} rounds fitted.")
                return
            model = self._round(number, labeled, epochs)
            if number + 1 < plan["rounds"]:
                labeled = np.union1d(labeled, self._pick(number + 1, step, labeled, model))
            elif self.strategy == "random" and self.losses is not None and self.worker.left > 10:
                self._agreement(labeled, model)

    def _round(self, number: int, labeled: np.ndarray, epochs: int) -> torch.nn.Module:
        """Train on the labeled rows and test; a row of the table."""
        began, cifar, labels = time.monotonic(), self.cifar, self.cifar.labels[labeled]
        self.known[labeled] = labels
        summary = self.worker.fit(self.recipe(labeled, epochs, number, "round"), True, SEED + 1 + number)
        self.rate, seconds = speed(summary), time.monotonic() - began
        model = self._model()
        logits = self._embed(model, cifar.test)[1]
        accuracy = float(classification_metrics(logits, cifar.test_labels, classes=_NAMES)["top1"])
        self.worker.tell(
            "row", table=self.protocol.title, strategy=self.strategy, seed=SEED, labels=len(labeled), epochs=epochs,
            accuracy=accuracy, class_entropy=_entropy(labels), training_loss=summary.history[-1].loss,
            images_per_second=self.rate, seconds=round(seconds, 1),
            seconds_to_test=round(time.monotonic() - began - seconds, 1),
        )  # fmt: skip
        return model

    def _model(self) -> torch.nn.Module:
        """The network of the last training."""
        weights = self.worker.folder / f"{self.name}-{self.strategy}-round" / MODEL_FILE
        model = ModelSource(self.worker.model, CLASSES, SEED, str(weights), "round", 32).load()
        if self.worker.device.type == "cuda":
            return model.to(self.worker.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return model.to(self.worker.device)

    def _embed(self, model: torch.nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return embed_images(model, images, 1000, self.worker.device, self.worker.amp)

    def _first(self, count: int) -> np.ndarray:
        """The first labeled rows: the pretext task's for PT4AL (its round 0), else random ones, the same for all
        strategies."""
        if self.strategy != "pt4al":
            return draw_random(self.cifar.rows, count, SEED, "seed_set")
        return np.sort(select("pt4al", count, pretext_loss=self.losses, round=0, seed=SEED).rows)

    def _pick(self, number: int, count: int, labeled: np.ndarray, model: torch.nn.Module) -> np.ndarray:
        """The next rows. Only those that the strategy looks at go through the network."""
        began, rows = time.monotonic(), self.cifar.rows
        strategy = build(self.strategy, None)
        given: dict[str, Any] = {"labels": self.known}
        if self.losses is not None:
            given["pretext_loss"] = self.losses
        if self.strategy != "random":
            free = np.setdiff1d(rows, labeled)
            pretext = None if self.losses is None else (rows, self.losses)
            looked = strategy.window(Context(SEED, number, pretext=pretext), free, count)
            at = np.union1d(looked, labeled) if self.strategy == "k_center" else looked
            given |= self._features(model, at)
        embedded = time.monotonic()
        picks = select(strategy, count, labeled=labeled, round=number, seed=SEED, **given).rows
        self.worker.tell(
            "row", table="Selection", protocol=self.name, strategy=self.strategy, labeled=len(labeled),
            picks=len(picks), seconds_to_embed=round(embedded - began, 2),
            seconds_to_choose=round(time.monotonic() - embedded, 2),
        )  # fmt: skip
        return np.asarray(picks)

    def _features(self, model: torch.nn.Module, at: np.ndarray) -> dict[str, Any]:
        """Columns with one line per row of the pool, zero where it is not looked at, and the head."""
        found = self._embed(model, self.cifar.images(at))
        columns = [np.zeros((len(self.cifar.rows), part.shape[1]), np.float32) for part in found]
        for column, part in zip(columns, found, strict=True):
            column[at] = part
        head = model.get_submodule("head")
        weight, bias = (head.get_parameter(name).detach().cpu().numpy() for name in ("weight", "bias"))
        return {"embedding": columns[0], "logits": columns[1], "head": (weight, bias)}

    def _agreement(self, labeled: np.ndarray, model: torch.nn.Module) -> None:
        """How the losses of the pretext task and of the last network agree on images that it was not trained on."""
        rows = np.setdiff1d(self.cifar.rows, labeled)
        logits = torch.from_numpy(self._embed(model, self.cifar.images(rows))[1])
        losses = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(self.cifar.labels[rows]), reduction="none"
        ).numpy()
        assert self.losses is not None
        self.worker.tell(
            "row", table="Pretext loss against the loss of the last network", images=len(rows),
            spearman=float(spearmanr(self.losses[rows], losses)[0]),
        )  # fmt: skip


def watched(worker: Worker, parent: int) -> None:
    """End this process some seconds after its deadline, or as soon as the section is gone."""

    def watch() -> None:
        while worker.left > -8 and os.getppid() == parent:
            time.sleep(0.5)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """The command line."""
    worker = Worker(Path(sys.argv[1]), sys.argv[2])
    watched(worker, os.getppid())
    work: Callable[[Worker], None] = pretext if worker.job == "pretext" else lambda given: Rounds(given).run()
    try:
        work(worker)
    except TimeIsUp:
        worker.tell("note", text=f"{worker.job}: the time was over during a training, whose round is left out.")


if __name__ == "__main__":
    main()
