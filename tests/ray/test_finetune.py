"""Fine-tuning with Ray Train: two workers make the steps of one, and report what the written model really does."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ray.train import WorkerGroupError

from alray import keyed
from alray.cluster import Joined
from alray.config import RunConfig, replace
from alray.data import catalog as catalogs
from alray.data.augment import eval_transform, train_transform
from alray.data.catalog import Catalog
from alray.data.fetch import ImageError
from alray.models.backbone import create, embed_images
from alray.models.head import Head
from alray.progress import Stages
from alray.rounds import run
from alray.store import Store
from alray.train.batches import Batch, BatchPlan, blocks
from alray.train.driver import train
from alray.train.launch import _discard_torn_snapshot, _raise_cause
from alray.train.loop import fit
from alray.train.measure import model_seed
from alray.train.objective import Place
from alray.train.restarts import kept_epochs
from alray.train.summary import TrainError, TrainSummary
from alray.train.supervised import SupervisedRecipe, supervised_recipe
from alray.train.targets import ClassTargets
from alray.train.worker import Progress

CLASSES = ("blue", "green", "red")
N = 180  # images: 71 labeled, 53 held out, the rest stays unlabeled


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 200, (20, 20, 3))
    pixels[..., 2 - number % 3] += 55
    return Image.fromarray(pixels.astype(np.uint8))


@dataclass(frozen=True)
class Setup:
    """A catalog of coloured noise, and who is labeled and held out."""

    config: RunConfig
    catalog: Catalog
    labeled: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]

    def recipe(self, out: Path, **changes: Any) -> SupervisedRecipe:
        arguments: dict[str, Any] = {
            "labeled": self.labeled, "held_out": self.held_out, "round": 1, "seed": model_seed(self.config),
            "start": None, "out": Store(str(out)), **changes,
        }  # fmt: skip
        return supervised_recipe(self.config, ClassTargets(3), **arguments)

    def finetune(self, out: Path, progress: Any = None, **changes: Any) -> TrainSummary:
        recipe, joined = self.recipe(out, **changes), Joined(self.config.resources)
        return train(recipe, self.catalog, joined, what="training of round 1", progress=progress)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    root = tmp_path_factory.mktemp("finetune")
    for number in range(N):
        folder = root / "images" / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:03d}.png")
    catalogs.index(str(root / "images"), str(root / "catalog"))
    catalog = Catalog.open(str(root / "catalog"))
    rows = np.random.default_rng(0).permutation(N)
    config = RunConfig(
        transform={"size": 16, "train": "crop_pad", "pad": 1, "resize": 0},
        model={"backbone": "test_resnet"},
        split={"val_size": 53},
        # batches of 15 for two workers: 8 + 7, and a last one of 11; BatchNorm would see other images per worker
        train={
            "epochs": 4, "batch_size": 15, "lr": 0.2, "schedule": "cosine", "class_weights": True, "freeze_bn": True,
            "checkpoint_every": 2, "clip_norm": 5.0,
        },
        resources={"train_workers": 2},
    )  # fmt: skip
    labels = catalog.labels()
    return Setup(config, catalog, (rows[:71], labels[rows[:71]]), (rows[71:124], labels[rows[71:124]]))


@pytest.fixture(scope="module")
def trained(
    setup: Setup, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainSummary, Any]:
    out = tmp_path_factory.mktemp("round")
    told: list[dict[str, Any]] = []
    return out, setup.finetune(out, progress=told.append), told


def test_it_learns_and_says_so(trained: tuple[Path, TrainSummary, Any]) -> None:
    out, summary, told = trained
    assert summary.epochs == 4 and summary.val_accuracy is not None and summary.val_accuracy > 0.9
    assert [epoch.images for epoch in summary.history] == [71] * 4
    assert told[0] == {"state": "starting workers", "epoch": 0, "epochs": 4}
    assert Store(str(out)).names() == ["head.npz", "model.pt", "train.json"]


def test_kept_images_do_not_change_a_training(
    setup: Setup, trained: tuple[Path, TrainSummary, Any], tmp_path: Path
) -> None:
    out, summary, _ = trained
    assert setup.config.resources.kept_mib > 0
    config = replace(setup.config, {"resources.kept_mib": 0})
    without = replaced(setup, config=config).finetune(tmp_path)
    told = [[replaced(epoch, seconds=0.0) for epoch in one.history] for one in (summary, without)]
    assert told[0] == told[1]
    weights, others = (torch.load(place / "model.pt", weights_only=True) for place in (out, tmp_path))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_metric_is_that_of_the_written_model(setup: Setup, trained: tuple[Path, TrainSummary, Any]) -> None:
    out, summary, _ = trained
    weights = torch.load(out / "model.pt", weights_only=True)
    model = create(setup.config.model, 3, 99, 16)
    model.load_state_dict(weights)
    transform = eval_transform(setup.config.transform)
    rows, labels = setup.held_out
    images = np.stack([transform(image_of(setup, row), row) for row in rows])
    logits = embed_images(model, images, 64, torch.device("cpu"))[1]
    assert np.mean(logits.argmax(1) == labels) == summary.val_accuracy
    assert np.array_equal(Head.load(Store(str(out))).weight, weights["head.weight"].numpy())


def test_a_run_on_images_without_a_test_set(setup: Setup, ray_session: None, tmp_path: Path) -> None:
    changes = {
        "root": str(tmp_path), "data.catalog": setup.catalog.uri, "strategy": "random", "rounds": 1, "top_k": (),
        "split.seed_set_size": 60, "train.epochs": 1, "resources.select_workers": "process",
    }  # fmt: skip
    (metrics,) = run(replace(setup.config, changes), quiet=True).rounds
    assert metrics["test"] is None
    assert 0 <= metrics["validation"]["top1"] <= 1


def image_of(setup: Setup, row: int) -> Image.Image:
    return picture(int(Path(setup.catalog.keys(np.array([row]))[0].as_py()).stem))


@dataclass(frozen=True)
class OneProcess:
    """The same images, read one after the other."""

    setup: Setup
    recipe: SupervisedRecipe

    def training(self, plan: BatchPlan, first_epoch: int) -> Generator[Batch, None, None]:
        config = self.setup.config
        transform = train_transform(config.transform, keyed.stream_key(config.seed, "augment/round=1"))
        for tables in plan.streams(first_epoch, config.train.epochs, 10):
            yield from map(lambda table: self.read(table, transform), tables)

    def validation(self) -> Iterator[Batch]:
        tables = blocks(self.recipe.val_rows, np.zeros(53, np.int32), self.recipe.val_labels, 10)
        return (self.read(table, eval_transform(self.setup.config.transform)) for table in tables)

    def read(self, table: Any, transform: Any) -> Batch:
        columns = {name: table[name].to_numpy() for name in ("row", "label", "epoch")}
        pairs = zip(columns["row"], columns["epoch"], strict=True)
        images = [transform(image_of(self.setup, row), int(row), int(epoch)) for row, epoch in pairs]
        return {**columns, "image": np.stack(images)}


def test_two_workers_make_the_steps_of_one(
    setup: Setup, trained: tuple[Path, TrainSummary, Any], tmp_path: Path
) -> None:
    recipe = setup.recipe(tmp_path)
    states: list[Any] = []
    images = OneProcess(setup, recipe)
    alone = fit(
        recipe, Place(), images, wrap=lambda m: m, report=lambda *both: states.append(both), tell=lambda make: None
    )
    losses = [[epoch.loss for epoch in summary.history] for summary in (trained[1], alone)]
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)  # rounding grows with every step
    assert len(states) == 1
    ours, theirs = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained[0], tmp_path))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-4)


Disturb = Callable[[int, int], str]  # of rank and epoch: a command for the shell, with the worker's process as $pid


def disturbed(recipe: SupervisedRecipe, disturb: Disturb, marks: Path) -> SupervisedRecipe:
    """The recipe, but each disturbance happens once, in the second step of the epoch, when Ray Train, which asks
    its workers every second or two, has listed the checkpoint of the epochs before."""
    every = recipe.checkpoint_every

    class Disturbed(SupervisedRecipe):
        def build(self, place: Place, wrap: Any) -> Any:
            objective = super().build(place, wrap)
            begin, step, at = objective.begin, objective.step, [0, 0]

            def begins(epoch: int) -> float:
                at[:] = epoch, 0
                return begin(epoch)

            def steps(batch: Batch, norm: float) -> torch.Tensor:
                at[1] += 1
                mark, command = marks / f"{place.rank} {at[0]}", disturb(place.rank, at[0])
                if command and at[1] == 2 and not mark.exists():
                    mark.touch()
                    deadline = time.monotonic() + 120
                    while kept_epochs(recipe.out) < at[0] // every * every and time.monotonic() < deadline:
                        time.sleep(0.1)
                    subprocess.Popen(["sh", "-c", command], env={"pid": str(os.getpid())}, start_new_session=True)
                    time.sleep(1)
                return step(batch, norm)

            objective.begin, objective.step = begins, steps
            return objective

    return Disturbed(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})


def same(ours: Path, theirs: Path) -> bool:
    """Whether two trainings gave the same weights to the last bit, and the same history but for its seconds."""
    read = [TrainSummary.from_json(Store(str(out)).read_json("train.json")).history for out in (ours, theirs)]
    histories = [[replaced(epoch, seconds=0.0) for epoch in history] for history in read]
    return histories[0] == histories[1] and (ours / "model.pt").read_bytes() == (theirs / "model.pt").read_bytes()


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_a_training_goes_on_after_its_workers_were_killed_or_stood_still(
    seconds: int, setup: Setup, trained: tuple[Path, TrainSummary, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each of two workers dies once, and one stands still: it is waited for, and that is no restart."""
    stop = f"kill -STOP $pid; sleep {seconds}; kill -CONT $pid"
    faults = {(0, 0): "kill -KILL $pid", (1, 1): stop, (1, 3): "kill -KILL $pid"}

    def kill(rank: int, epoch: int) -> str:
        return faults.get((rank, epoch), "")

    saved: list[Any] = []
    stages = Stages("digits", save=lambda seconds, restarts: saved.append(list(restarts)))
    recipe = disturbed(setup.recipe(tmp_path / "out"), kill, tmp_path)
    with stages.stage("train"):
        train(recipe, setup.catalog, Joined(setup.config.resources), what="training of round 1", stages=stages)
    assert same(tmp_path / "out", trained[0])
    said = [line for line in capsys.readouterr().out.splitlines() if "restarts" in line]
    assert re.search(r"worker 0: its process died .*SIGKILL.*; going on from the beginning, 1 of 3 restarts", said[0])
    assert re.search(r"worker 1: its process died .*SIGKILL.*; going on after epoch 2, 2 of 3 restarts", said[1])
    assert [(one["stage"], one["epoch"]) for one in stages.restarts] == [("train", 0), ("train", 2)]
    assert (tmp_path / "1 1").exists() and all(0 < one["seconds"] < 300 for one in stages.restarts)
    assert saved[-1] == stages.restarts


def test_a_finished_training_returns_at_once(setup: Setup, trained: tuple[Path, TrainSummary, Any]) -> None:
    out, summary, _ = trained
    told: list[Any] = []
    (out / "ray").mkdir()  # as left by a kill in the last moment
    assert setup.finetune(out, progress=told.append) == summary
    assert not told and not (out / "ray").exists()


def test_a_broken_image_is_named(setup: Setup, ray_session: None, tmp_path: Path) -> None:
    source = tmp_path / "images"
    for number in range(12):
        (source / CLASSES[number % 3]).mkdir(parents=True, exist_ok=True)
        picture(number).save(source / CLASSES[number % 3] / f"{number}.png")
    catalogs.index(str(source), str(tmp_path / "catalog"))
    (source / "red" / "8.png").write_bytes(b"\x89PNG broken")
    catalog = Catalog.open(str(tmp_path / "catalog"))
    rows = np.arange(12)
    none = np.empty(0, np.int64)
    config = replace(setup.config, {"resources.train_workers": 1})
    with pytest.raises(ImageError, match=r"red/8\.png") as error:
        Setup(config, catalog, (rows, catalog.labels()), (none, none)).finetune(tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out" / "train.json").exists()


def test_half_a_list_of_checkpoints_is_thrown_away(tmp_path: Path) -> None:
    snapshot = tmp_path / "ray" / "train" / "checkpoint_manager_snapshot.json"
    snapshot.parent.mkdir(parents=True)
    for text, stays in (('{"ray_version": "2.60.0"}', True), ('{"ray_ver', False), ("", False)):
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        snapshot.write_text(text)
        _discard_torn_snapshot(Store(str(tmp_path)))
        assert snapshot.exists() == stays
    _discard_torn_snapshot(Store(str(tmp_path)))


@pytest.mark.parametrize(
    ("failures", "kind", "words"),
    [
        (
            {0: RuntimeError("connection closed by peer"), 1: ImageError("a/b.png: broken")},
            ImageError,
            "^a/b.png: broken$",
        ),
        ({1: MemoryError("no more")}, TrainError, "^training of round 3 failed on worker 1: MemoryError: no more$"),
        ({}, TrainError, "^training of round 3 failed: WorkerGroupError: "),
    ],
)
def test_the_cause_is_raised_not_the_stack(failures: dict[int, Exception], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        _raise_cause(WorkerGroupError("a long stack", failures), "training of round 3")


def test_progress_asks_only_when_it_is_time(tmp_path: Path) -> None:
    progress, asked = Progress(Store(str(tmp_path))), []
    for step, due in enumerate([0.0, float("inf"), 0.0]):
        progress.next = due
        progress(lambda step=step: {"step": asked.append(step) or step})  # type: ignore[misc,func-returns-value]
        assert progress.next > 0
    assert asked == [0, 2] and Store(str(tmp_path)).read_json("progress.json") == {"step": 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labeled": (np.array([3]), np.array([0]))}, "1 labeled images cannot be shared"),
        ({"labeled": (np.array([3, 4, 3]), np.array([0, 0, 1]))}, "row 3 occurs twice"),
        ({"labeled": (np.array([3, 4, 5]), np.array([0, 0, 3]))}, "0 to 2, got 0 to 3"),
        ({"held_out": (np.array([3, 4, 5]), np.array([0, 0]))}, "as many rows as labels"),
    ],
)
def test_refusals_before_ray_starts(setup: Setup, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainError, match=words):
        setup.finetune(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
