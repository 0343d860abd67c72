"""Every loss against its formula in NumPy, and every closed-form gradient against autograd."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alray.config import ConfigError, RunConfig, TrainConfig
from alray.train import losses
from alray.train.learner import Learner
from alray.train.losses import (
    CLOSED_FORMS,
    LOSSES,
    configured,
    configured_with_gradient,
    image_losses,
    pixel_losses,
    total,
)

C, VOID = 5, 255
CASES: list[tuple[str, dict[str, float]]] = [
    ("cross_entropy", {}),
    *[("label_smoothing", {"label_smoothing": smoothing}) for smoothing in (0.0, 0.1, 1.0)],
    *[("focal", {"focal_gamma": gamma}) for gamma in (0.0, 0.5, 1.0, 2.0, 5.0)],
]


def data(n: int = 40, scale: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, C, generator=generator) * scale, torch.randint(0, C, (n,), generator=generator)


def config(name: str, options: dict[str, Any]) -> TrainConfig:
    return TrainConfig(loss=name, **options)


def by_hand(name: str, options: dict[str, float], logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Float64; logits (n, c), targets (n,)."""
    log_p = logits - logits.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    own = log_p[np.arange(len(targets)), targets]
    if name == "label_smoothing":
        share = np.full_like(log_p, options["label_smoothing"] / logits.shape[1])
        share[np.arange(len(targets)), targets] += 1 - options["label_smoothing"]
        return -(share * log_p).sum(1)
    return -((1 - np.exp(own)) ** options.get("focal_gamma", 0.0)) * own


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_loss_is_its_formula(name: str, options: dict[str, float]) -> None:
    logits, targets = data()
    found = configured(config(name, options))(logits, targets)
    np.testing.assert_allclose(found, by_hand(name, options, logits.double().numpy(), targets.numpy()), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 3.0, 200.0])  # equal logits, usual ones, probabilities of exactly 0 and 1
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_closed_form_has_the_gradient_of_autograd(name: str, options: dict[str, float], scale: float) -> None:
    logits, targets = data(scale=scale)
    leaf = logits.double().requires_grad_()
    expected = LOSSES[name](leaf, targets, **options)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    values, closed = configured_with_gradient(config(name, options))(logits, targets)
    assert values.shape == (40,) and closed.shape == logits.shape and torch.isfinite(closed).all()
    torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(closed.double(), gradient, rtol=1e-4, atol=1e-6)


def test_an_unknown_loss_is_refused_before_a_network_is_built() -> None:
    with pytest.raises(ConfigError, match=r"^train\.loss: expected one of cross_entropy, .*, got hinge$"):
        Learner.check(RunConfig(train={"loss": "hinge"}), None, pytest.fail)  # type: ignore[arg-type]


def test_every_loss_is_tested_and_a_closed_form_takes_the_options_of_its_loss() -> None:
    assert {name for name, _ in CASES} == LOSSES.keys()
    for name, closed in CLOSED_FORMS.items():
        assert inspect.signature(closed).parameters == inspect.signature(LOSSES[name]).parameters


def test_a_loss_without_closed_form_takes_its_gradient_from_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new loss is one function and one line."""
    logits, targets = data()
    expected = configured_with_gradient(config("focal", {}))(logits, targets)
    monkeypatch.setattr(losses, "CLOSED_FORMS", {})
    with torch.no_grad():
        found = configured_with_gradient(config("focal", {}))(logits, targets)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert not one.requires_grad


@pytest.mark.parametrize("count", [1, 16, 33, 300])
def test_the_sum_of_cross_entropies_is_torchs_to_the_last_bit(count: int) -> None:
    """With class weights, too: value and gradient of trainings before there was a choice of losses."""
    logits, targets = data(count)
    weights = torch.rand(C, generator=torch.Generator().manual_seed(1))
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = F.cross_entropy(one, targets, weights, reduction="sum")
    found = total(image_losses(LOSSES["cross_entropy"], other, targets, weights))
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(loss * 0.37, leaf)[0] for loss, leaf in ((expected, one), (found, other))]
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_void_pixels_count_in_no_loss(name: str, options: dict[str, Any]) -> None:
    logits = torch.randn(3, C, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    masks = torch.randint(0, C, (3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    masks[0, :2] = VOID
    masks[1] = VOID
    found = pixel_losses(configured(config(name, options)), logits, masks, VOID)
    for image in (0, 2):
        counted = (masks[image] != VOID).numpy()
        pixels = logits[image].detach().double().permute(1, 2, 0).numpy()[counted]
        expected = by_hand(name, options, pixels, masks[image].numpy()[counted])
        assert float(found[image].detach()) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(found[1].detach()) == 0.0
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert not gradient[1].any() and not gradient[0, :, :2].any() and gradient[2].all()
