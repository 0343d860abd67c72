"""The training loop in this process: it learns, keeps the best epoch, and goes on from a checkpoint bit for bit."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from two_workers import in_two

from alray.config import ModelConfig, RunConfig
from alray.models.backbone import Classifier, create, embed_images, freeze_unused
from alray.models.head import Head, initial_head
from alray.store import Store
from alray.train import loop
from alray.train.batches import Batch, BatchPlan, blocks
from alray.train.loop import fit
from alray.train.losses import configured
from alray.train.objective import Place
from alray.train.summary import TrainError, TrainSummary
from alray.train.supervised import SupervisedRecipe
from alray.train.targets import ClassTargets

SIZE, C = 16, 3
CPU = torch.device("cpu")


def picture(row: int) -> np.ndarray:
    """Noise with a cast of the class's colour; class = row % 3."""
    image = np.random.default_rng(row).integers(0, 200, (SIZE, SIZE, 3))
    image[..., row % C] += 40
    return image.astype(np.uint8)


class Arrays:
    """Images made on the spot instead of read by Ray."""

    def __init__(self, recipe: SupervisedRecipe, place: Place) -> None:
        self.recipe, self.place = recipe, place

    def training(self, plan: BatchPlan, first_epoch: int) -> Generator[Batch, None, None]:
        for tables in plan.streams(first_epoch, self.recipe.epochs, 17):
            for table in tables:
                rows = table["row"].to_numpy()
                yield {"row": rows, "label": table["label"].to_numpy(), "image": np.stack([picture(r) for r in rows])}

    def validation(self) -> Iterator[Batch]:
        assert self.recipe.validation is not None
        rows, labels = self.recipe.validation.part(self.place)
        for table in blocks(rows, np.zeros(len(rows), np.int32), labels, 10):
            rows = table["row"].to_numpy()
            yield {"label": table["label"].to_numpy(), "image": np.stack([picture(r) for r in rows])}


def job(
    out: Path, validation: int = 53, start: str | None = None, options: dict[str, Any] | None = None, **fields: Any
) -> SupervisedRecipe:
    config = RunConfig(
        transform={"size": SIZE, "train": "eval"},
        model={"backbone": "test_resnet", "options": options or {}},
        split={"val_size": validation},
        train={"epochs": 4, "batch_size": 16, "lr": 0.1, "schedule": "cosine", **fields},
    )  # type: ignore[arg-type]
    rows, val_rows = np.arange(70), np.arange(1000, 1000 + validation)
    labels, val_labels = rows % C, val_rows % C
    return SupervisedRecipe(config, ClassTargets(C), 1, 0, rows, labels, val_rows, val_labels, start, Store(str(out)))


def run(
    task: SupervisedRecipe, state: dict[str, Any] | None = None, stop_after: int = 0
) -> tuple[TrainSummary, list[Any]]:
    reports: list[Any] = []

    def report(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        reports.append((metrics, torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)))
        if len(reports) == stop_after:
            raise KeyboardInterrupt

    place = Place()
    summary = fit(
        task, place, Arrays(task, place), wrap=lambda m: m, report=report, tell=lambda make: make(), state=state
    )
    return summary, reports


def weights(out: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(out / "model.pt", weights_only=True)
    return loaded


def accuracy(task: SupervisedRecipe, out: Path) -> float:
    model = create(task.config.model, C, 77, SIZE)
    model.load_state_dict(weights(out))
    logits = embed_images(model, np.stack([picture(row) for row in task.val_rows]), 64, CPU)[1]
    return float(np.mean(logits.argmax(1) == task.val_labels))


def test_it_learns_and_reports_what_it_wrote(tmp_path: Path) -> None:
    task = job(tmp_path)
    summary, reports = run(task)
    assert summary.epochs == 4 and len(reports) == 3  # the last epoch needs no checkpoint
    assert summary.val_accuracy == accuracy(task, tmp_path) > 0.6
    assert [epoch.images for epoch in summary.history] == [70] * 4
    assert summary.history[0].loss == pytest.approx(np.log(C), abs=0.35) and summary.history[-1].loss < 0.8
    assert summary.history[2].lr == pytest.approx(0.05)
    head = Head.load(Store(str(tmp_path)))
    assert np.array_equal(head.weight, weights(tmp_path)["head.weight"].numpy())
    assert reports[0][0]["epoch"] == 0 and reports[0][0]["val_accuracy"] == summary.history[0].val_accuracy


def test_equals_a_plain_loop(tmp_path: Path) -> None:
    """The slow twin: cross_entropy with class weights and mean reduction, torch's schedule, one optimizer."""
    task = job(tmp_path, validation=0, epochs=3, class_weights=True, freeze_bn=True, weight_decay=0.01, clip_norm=0.1)
    summary, _ = run(task)
    plan, model = task.plan(Place()), create(task.config.model, C, 0, SIZE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    model.eval()
    clipped = []
    for epoch in range(3):
        rows, losses = plan.epoch(epoch).rows, []
        for start in range(0, 70, 16):
            batch = rows[start : start + 16]
            logits = model(torch.from_numpy(np.stack([picture(row) for row in batch])))[1]
            loss = F.cross_entropy(logits, torch.from_numpy(batch % C), torch.from_numpy(plan.weights))
            optimizer.zero_grad()
            loss.backward()
            clipped.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1)
            optimizer.step()
            losses.append(loss.item() * plan.weights[batch % C].sum())
        scheduler.step()
        assert summary.history[epoch].loss == pytest.approx(sum(losses) / plan.weights[rows % C].sum(), rel=1e-3)
    assert any(clipped)
    for name, tensor in weights(tmp_path).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("loss", "fields"), [("label_smoothing", {"label_smoothing": 0.3}), ("focal", {})])
def test_the_configured_loss_is_minimised(loss: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """One step on all images by the fresh network: its loss is that of the network's logits."""
    task = job(tmp_path, validation=0, epochs=2, batch_size=70, freeze_bn=True, loss=loss, **fields)
    summary, _ = run(task)
    model = create(task.config.model, C, 0, SIZE)
    logits = torch.from_numpy(embed_images(model, np.stack([picture(row) for row in task.rows]), 64, CPU)[1])
    expected = configured(task.config.train)(logits, torch.from_numpy(task.labels))
    assert summary.history[0].loss == pytest.approx(float(expected.mean()), rel=1e-5)
    assert summary.history[1].loss < summary.history[0].loss
    assert float(expected.mean()) != pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(task.labels))))


def in_two_processes(rank: int, task: SupervisedRecipe, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    place = Place(rank, 2)
    summary = fit(
        task, place, Arrays(task, place), wrap=DistributedDataParallel, report=lambda *_: None, tell=lambda make: None
    )
    Store(task.out.uri, "").write_json(f"{rank}.json", summary.to_json())
    dist.destroy_process_group()


def run_twice(task: SupervisedRecipe, folder: Path) -> list[TrainSummary]:
    in_two(in_two_processes, task, str(folder / "meeting"))
    return [TrainSummary.from_json(Store(task.out.uri, "").read_json(f"{rank}.json")) for rank in (0, 1)]


def test_two_workers_make_the_steps_of_one(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"batch_size": 15, "class_weights": True, "freeze_bn": True, "epochs": 2, "clip_norm": 0.5}
    alone, _ = run(job(tmp_path / "one", **fields))
    both = run_twice(job(tmp_path / "two", **fields), tmp_path)
    for summary in both:
        assert [e.loss for e in summary.history] == pytest.approx([e.loss for e in alone.history], rel=1e-4)
        assert [e.val_accuracy for e in summary.history] == [e.val_accuracy for e in alone.history]
        assert [e.images for e in summary.history] == [70, 70]
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "two")[name], rtol=1e-3, atol=1e-5)


def test_the_metric_of_two_workers_is_that_of_the_written_model(tmp_path: Path) -> None:
    """Each worker's BatchNorm sees other images; 53 validation images are 27 and 26."""
    task = job(tmp_path / "two", epochs=3, patience=1, lr=0.05)
    first, second = run_twice(task, tmp_path)
    assert [e.val_accuracy for e in first.history] == [e.val_accuracy for e in second.history]
    assert first.best_epoch == second.best_epoch
    assert first.val_accuracy == accuracy(task, tmp_path / "two") > 0.4


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": 0.3, "schedule": "constant"},  # the best epoch is not the one before the kill
        {
            "optimizer": "adamw",
            "lr": 1e-3,
            "freeze_bn": True,
            "class_weights": True,
            "options": {"drop_path_rate": 0.5},
        },
    ],
)
def test_killed_and_resumed_equals_undisturbed(fields: dict[str, Any], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed, reports = run(job(whole, **fields))
    with pytest.raises(KeyboardInterrupt):
        run(job(killed, **fields), stop_after=3)
    torch.manual_seed(123)
    state = reports[2][1]
    assert (state["best"] is None) == ("options" in fields)  # the best epoch is the one before the kill
    resumed, _ = run(job(killed, **fields), state=state)
    numbers = [[(e.loss, e.val_accuracy, e.lr) for e in s.history] for s in (undisturbed, resumed)]
    assert numbers[0] == numbers[1]
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(killed)[name]), name


def test_a_training_resumed_from_any_checkpoint_writes_the_best_epoch(tmp_path: Path) -> None:
    """The best epoch is before the last checkpoint, or it is the checkpoint's own and later ones are worse."""
    fields: dict[str, Any] = {"lr": 0.3, "schedule": "constant", "epochs": 8}
    undisturbed, reports = run(job(tmp_path / "whole", **fields))
    assert 0 < undisturbed.best_epoch < 7  # one checkpoint is of the best epoch itself
    for number, (_, state) in enumerate(reports):
        run(job(tmp_path / str(number), **fields), state=state)
        for name, tensor in weights(tmp_path / "whole").items():
            assert torch.equal(tensor, weights(tmp_path / str(number))[name]), (number, name)


def test_a_state_of_the_end_only_writes_the_model(tmp_path: Path) -> None:
    _, reports = run(job(tmp_path / "a", checkpoint_every=2))
    assert len(reports) == 1
    state = reports[0][1]
    ended = job(tmp_path / "b", epochs=2)
    summary, reports = run(ended, state=state)
    assert not reports and summary.epochs == 2
    best = state["objective"]["model"] if summary.best_epoch == 1 else state["best"]
    assert torch.equal(weights(tmp_path / "b")["head.weight"], best["head.weight"])


def test_the_best_epoch_is_kept_and_training_stops_early(tmp_path: Path) -> None:
    task = job(tmp_path, epochs=40, patience=2, lr=0.3, schedule="constant")
    summary, _ = run(task)
    accuracies = [epoch.val_accuracy or 0.0 for epoch in summary.history]
    assert summary.epochs == summary.best_epoch + 4 < 40
    assert max(accuracies) == summary.val_accuracy == accuracy(task, tmp_path) > accuracies[-1]


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    summary, _ = run(job(tmp_path, validation=0, epochs=2))
    assert summary.val_accuracy is None and summary.best_epoch == 1


def test_many_validation_images_are_read_again_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = run(job(tmp_path / "a", epochs=2))
    monkeypatch.setattr(loop, "_KEPT_BYTES", 100)
    read, _ = run(job(tmp_path / "b", epochs=2))
    assert [e.val_accuracy for e in kept.history] == [e.val_accuracy for e in read.history]


def test_frozen_statistics_stay_and_mixed_precision_trains(tmp_path: Path) -> None:
    task = job(tmp_path, epochs=2, freeze_bn=True, amp="bf16", clip_norm=1.0)
    summary, _ = run(task)
    fresh, trained = create(task.config.model, C, 0, SIZE).state_dict(), weights(tmp_path)
    means = [name for name in fresh if name.endswith(("running_mean", "running_var"))]
    assert means and all(torch.equal(fresh[name], trained[name]) for name in means)
    assert not torch.equal(fresh["backbone.layer1.0.conv1.weight"], trained["backbone.layer1.0.conv1.weight"])
    assert summary.history[1].loss < summary.history[0].loss


def test_warm_start(tmp_path: Path) -> None:
    first, _ = run(job(tmp_path / "a"))
    start = str(tmp_path / "a" / "model.pt")
    warm, _ = run(job(tmp_path / "b", start=start, epochs=1))
    assert warm.history[0].loss < first.history[0].loss
    other = job(tmp_path / "c", start=start)
    with pytest.raises(TrainError, match="not the weights of this model"):
        run(replace(other, targets=ClassTargets(9)))
    with pytest.raises(TrainError, match="not the weights of this model"):
        run(job(tmp_path / "c", start=str(tmp_path / "nothing.pt")))


def test_divergence_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"diverged.*train\.lr=1e\+30"):
        run(job(tmp_path, lr=1e30))
    assert not (tmp_path / "model.pt").exists()


def test_parameters_without_gradient_are_excluded() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = timm.create_model("test_resnet", num_classes=0)
            self.unused = nn.Linear(3, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.used(images)
            return features

    model = Classifier(Half(), initial_head(C, 96, 0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert freeze_unused(model, SIZE) == ["backbone.unused.weight", "backbone.unused.bias"]
    assert not model.backbone.unused.weight.requires_grad and model.backbone.used.conv1[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert freeze_unused(create(ModelConfig(backbone="test_resnet"), C, 0, SIZE), SIZE) == []


def test_shares_of_the_validation_images() -> None:
    task = job(Path("nowhere"))
    assert task.validation is not None
    shares = [task.validation.part(Place(rank, 4))[0] for rank in range(4)]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), task.val_rows)
    assert sorted(map(len, shares)) == [13, 13, 13, 14]
