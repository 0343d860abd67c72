"""The linear head: the same steps as torch with autograd, deterministic, and it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alray import keyed
from alray.config import TrainConfig
from alray.models.head import initial_head
from alray.train.linear import Head, TrainError, fit_head
from alray.train.losses import configured
from alray.train.optim import class_weights

N, D, C = 230, 12, 4


def data(n: int = N, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    labels = random.choice(C, n, p=[0.5, 0.3, 0.15, 0.05])
    centers = np.random.default_rng(99).normal(size=(C, D))
    return {"embedding": (centers[labels] + random.normal(size=(n, D))).astype(np.float32), "labels": labels}


def validation(n: int = 101) -> dict[str, Any]:
    held_out = data(n, seed=1)
    return {"val_embedding": held_out["embedding"], "val_labels": held_out["labels"]}


def config(**fields: Any) -> TrainConfig:
    return TrainConfig(**{"mode": "linear", "epochs": 6, "batch_size": 64, "lr": 0.1, **fields})


def with_autograd(settings: TrainConfig, embedding: np.ndarray, labels: np.ndarray, seed: int) -> Head:
    """The slow twin: nn.Linear, the configured loss, autograd, torch.optim, torch's schedulers."""
    start = initial_head(C, D, seed)
    weight, bias = (torch.nn.Parameter(torch.tensor(a)) for a in (start.weight, start.bias))
    if settings.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(
            [weight, bias], lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW([weight, bias], lr=settings.lr, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)
    weights = torch.tensor(class_weights(labels, C)) if settings.class_weights else None
    for epoch in range(settings.epochs):
        order = keyed.order(seed, f"linear/epoch={epoch}", np.arange(len(labels)))
        for start_at in range(0, len(order), settings.batch_size):
            batch = order[start_at : start_at + settings.batch_size]
            logits = F.linear(torch.tensor(embedding[batch]), weight, bias)
            optimizer.zero_grad()
            targets = torch.tensor(labels[batch])
            own = torch.ones(len(batch)) if weights is None else weights[targets]
            ((configured(settings)(logits, targets) * own).sum() / own.sum()).backward()
            optimizer.step()
        scheduler.step()
    return Head(weight.detach().numpy(), bias.detach().numpy())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"weight_decay": 0.01, "step_size": 2},
        {"class_weights": True},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
        {"batch_size": 1000},
        {"loss": "label_smoothing", "label_smoothing": 0.2},
        {"loss": "focal", "focal_gamma": 1.5, "class_weights": True},
    ],
)
def test_equals_autograd(fields: dict[str, Any]) -> None:
    settings, train = config(**fields), data()
    head, summary = fit_head(settings, seed=3, num_classes=C, **train)
    expected = with_autograd(settings, train["embedding"], train["labels"], 3)
    np.testing.assert_allclose(head.weight, expected.weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(head.bias, expected.bias, rtol=1e-3, atol=1e-5)
    assert summary.best_epoch == 5 and summary.val_accuracy is None


def test_learns_and_repeats_bit_for_bit() -> None:
    train, held_out = data(), validation()
    first, summary = fit_head(config(), seed=0, num_classes=C, **train, **held_out)
    second, again = fit_head(config(), seed=0, num_classes=C, **train, **held_out)
    other, _ = fit_head(config(), seed=1, num_classes=C, **train, **held_out)
    assert np.array_equal(first.weight, second.weight) and np.array_equal(first.bias, second.bias)
    assert not np.array_equal(first.weight, other.weight)
    assert [epoch.loss for epoch in summary.history] == [epoch.loss for epoch in again.history]
    assert summary.val_accuracy is not None and summary.val_accuracy > 0.9
    assert summary.history[0].loss > summary.history[-1].loss > 0


def test_the_best_epoch_is_kept_and_training_stops() -> None:
    train, held_out = data(), validation()
    settings = config(epochs=50, patience=3, lr=3.0, weight_decay=0.2)  # a rate at which the accuracy jumps
    head, summary = fit_head(settings, seed=0, num_classes=C, **train, **held_out)
    accuracies = [epoch.val_accuracy for epoch in summary.history]
    best = max(a for a in accuracies if a is not None)
    assert summary.best_epoch == max(i for i, a in enumerate(accuracies) if a == best)
    assert summary.epochs == len(accuracies) == summary.best_epoch + 5 < 50
    predicted = (held_out["val_embedding"] @ head.weight.T + head.bias).argmax(1)
    assert np.mean(predicted == held_out["val_labels"]) == best == summary.val_accuracy > accuracies[-1]


def test_warm_start_continues_and_progress_is_told() -> None:
    train = data()
    head, _ = fit_head(config(), seed=0, num_classes=C, **train)
    told: list[dict[str, Any]] = []
    _, summary = fit_head(config(epochs=2), seed=0, num_classes=C, **train, start=head, progress=told.append)
    _, cold = fit_head(config(epochs=2), seed=0, num_classes=C, **train)
    assert summary.history[0].loss < cold.history[0].loss / 2
    assert [item["epoch"] for item in told] == [1, 2] and told[0]["epochs"] == 2


def test_half_precision_embeddings_are_read_as_they_are() -> None:
    train = data()
    half = {**train, "embedding": train["embedding"].astype(np.float16)}
    single = {**train, "embedding": half["embedding"].astype(np.float32)}
    a, _ = fit_head(config(), seed=0, num_classes=C, **half)
    b, _ = fit_head(config(), seed=0, num_classes=C, **single)
    assert np.array_equal(a.weight, b.weight) and a.weight.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.full(N, C)}, "0 to 3"),
        ({"labels": np.zeros(3, int)}, "labeled"),
        ({"embedding": np.zeros((0, D)), "labels": np.zeros(0, int)}, "labeled"),
        ({"embedding": np.full((N, D), np.nan)}, "not finite"),
        ({"val_embedding": np.zeros((2, D)), "val_labels": np.array([0, 9])}, "validation"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainError, match=words):
        fit_head(config(), seed=0, num_classes=C, **{**data(), **change})


def test_divergence_is_named() -> None:
    train = data()
    train["embedding"] *= 1e18
    with pytest.raises(TrainError, match=r"diverged.*train\.lr"):
        fit_head(config(lr=1e18), seed=0, num_classes=C, **train)
