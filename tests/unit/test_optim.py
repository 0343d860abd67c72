"""Schedules and steps against torch's own; class weights and the stopping rule against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alray.config import TrainConfig
from alray.train.optim import ModelOptimizer, Stepper, class_weights, learning_rate, loss_weights, make_optimizer
from alray.train.summary import EpochRecord, TrainSummary, best_epoch, finished


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_learning_rate_equals_torchs_schedulers(schedule: str) -> None:
    config = TrainConfig(schedule=schedule, lr=0.3, epochs=25, step_size=10, gamma=0.1)  # type: ignore[arg-type]
    optimizer = make_optimizer(config, [torch.nn.Parameter(torch.zeros(2))])
    scheduler = {
        "step": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 25),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }[schedule]()
    for epoch in range(25):
        assert learning_rate(config, epoch) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_equal_torchs_optimizer(optimizer: str) -> None:
    config = TrainConfig(optimizer=optimizer, lr=0.05, momentum=0.8, weight_decay=0.03)  # type: ignore[arg-type]
    start = [torch.randn(4, 3), torch.randn(4)]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    mine = [p.clone() for p in start]
    reference, stepper = make_optimizer(config, theirs), Stepper(config, mine)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    assert type(reference) is kind
    for step in range(5):
        gradients = [torch.randn_like(p) for p in start]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        for group in reference.param_groups:
            group["lr"] = 0.05 / (step + 1)
        reference.step()
        stepper.step(gradients, 0.05 / (step + 1))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b.detach())


def test_class_weights() -> None:
    weights = class_weights(np.array([0, 0, 0, 2]), 4)
    raw = np.array([4 / 3, 1.0, 4.0, 1.0])
    np.testing.assert_allclose(weights, raw / raw.sum(), rtol=1e-6)
    assert weights.dtype == np.float32
    assert loss_weights(TrainConfig(), np.array([0, 0, 2]), 4).tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(loss_weights(TrainConfig(class_weights=True), np.array([0, 0, 0, 2]), 4), weights)


def history(*accuracies: float | None) -> list[EpochRecord]:
    return [EpochRecord(number, 1.0, 0.1, accuracy, 10, 0.5) for number, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [((0.1, 0.3, 0.2), 1), ((0.3, 0.3, 0.2, 0.3), 3), ((0.0, 0.0), 1), ((None, None, None), 2), ((0.5,), 0)],
)
def test_best_is_the_last_of_the_highest(accuracies: tuple[float | None, ...], best: int) -> None:
    assert best_epoch(history(*accuracies)) == best


def test_stops_when_more_than_patience_epochs_were_not_the_best() -> None:
    seen = history(0.1, 0.5, 0.4, 0.4, 0.4)
    assert [finished(seen[:n], 100, 2) for n in range(6)] == [False, False, False, False, False, True]
    assert not finished(history(0.1, 0.5, 0.4, 0.4, 0.5), 100, 2)  # an equal is a new best
    assert not finished(history(*([0.0] * 50)), 100, 2)
    assert not finished(history(0.9, 0.1, 0.1, 0.1, 0.1), 100, 0)  # 0 never stops early
    assert finished(history(0.9, 0.1), 2, 0) and not finished(history(None, None), 3, 1)


def test_summary_survives_json() -> None:
    summary = TrainSummary.of(history(0.1, 0.5, 0.4))
    assert (summary.epochs, summary.best_epoch, summary.val_accuracy) == (3, 1, 0.5)
    assert TrainSummary.from_json(summary.to_json()) == summary
    assert TrainSummary.of(history(None, None)).val_accuracy is None


def test_a_first_step_in_float16_that_overflows_is_skipped_and_leaves_no_trace() -> None:
    def weights(gradients: list[float]) -> torch.Tensor:
        model = torch.nn.Linear(300, 1, bias=False)
        torch.nn.init.constant_(model.weight, 0.5)
        config = TrainConfig(amp="fp16", lr=0.1, momentum=0.9, weight_decay=0.0)
        optimizer = ModelOptimizer(config, model, torch.device("cpu"))
        optimizer.begin(0)
        for gradient in gradients:
            _fill_freed_memory()
            optimizer.step((model.weight * gradient).sum())
        return model.weight.detach()

    expected, found = weights([0.25, 0.125]), weights([torch.inf, 0.25, 0.125])
    assert torch.equal(found, expected)
    assert torch.allclose(expected, torch.full((1, 300), 0.5 - 0.1 * 0.25 - 0.1 * (0.9 * 0.25 + 0.125)))


def _fill_freed_memory() -> None:
    """What is allocated next, and not written, is not zero."""
    for _ in range(50):
        torch.full((1, 300), torch.nan)
