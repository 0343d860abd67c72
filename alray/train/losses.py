"""The losses by name (`train.loss`). A new loss is one function here and one line in `LOSSES`.

A loss takes logits (b, c, ...) float32 and class numbers (b, ...) int64 and returns the loss of every image or pixel,
(b, ...). Class weights, void pixels and the mean over an image's pixels are applied outside of it.

Keyword-only parameters of a loss are fields of the section train: `focal_gamma` is `train.focal_gamma`.

A loss may have a second function in `CLOSED_FORMS` that returns losses and gradient without autograd. Linear training
uses it, because there autograd costs more than the arithmetic. Without one, autograd gives the gradient.

Letters: b images, s their side in pixels, c classes, p the predicted probability of the target class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from alray.config import ConfigError, TrainConfig

Loss = Callable[..., torch.Tensor]
WithGradient = Callable[..., tuple[torch.Tensor, torch.Tensor]]  # losses (b,), their gradient by the logits (b, c)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p, in nats."""
    return F.cross_entropy(logits, targets, reduction="none")


def smoothed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy against (1 - e) of the target and e / c of every class, e = label_smoothing in [0, 1] (Szegedy et
    al. 2016, section 7)."""
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)


def focal(logits: torch.Tensor, targets: torch.Tensor, *, focal_gamma: float) -> torch.Tensor:
    """-(1 - p)^gamma log p (Lin et al. 2017, equation 4): the larger gamma >= 0, the less do easy images count."""
    log_p = logits.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return -_complement(log_p).pow(focal_gamma) * log_p


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": smoothed_cross_entropy,
    "focal": focal,
}


def cross_entropy_closed(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient is softmax(logits) - onehot(target)."""
    log_p = logits.log_softmax(1)
    target = targets.unsqueeze(1)
    losses = -log_p.gather(1, target)
    gradient = log_p.exp_().scatter_add_(1, target, torch.full_like(losses, -1.0))
    return losses.squeeze(1), gradient


def smoothed_cross_entropy_closed(
    logits: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient is softmax(logits) - (1 - e) onehot(target) - e / c, e = label_smoothing."""
    log_p = logits.log_softmax(1)
    target = targets.unsqueeze(1)
    own = log_p.gather(1, target)
    losses = -(1 - label_smoothing) * own - label_smoothing * log_p.mean(1, keepdim=True)
    gradient = log_p.exp_().scatter_add_(1, target, torch.full_like(own, label_smoothing - 1))
    gradient -= label_smoothing / logits.shape[1]
    return losses.squeeze(1), gradient


def focal_closed(
    logits: torch.Tensor, targets: torch.Tensor, *, focal_gamma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient is that of cross-entropy times (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p."""
    losses, gradient = cross_entropy_closed(logits, targets)
    rest = _complement(-losses)
    weight = rest.pow(focal_gamma) + focal_gamma * (-losses).exp() * rest.pow(focal_gamma - 1) * losses
    return rest.pow(focal_gamma) * losses, gradient * weight.unsqueeze(1)


CLOSED_FORMS: dict[str, WithGradient] = {
    "cross_entropy": cross_entropy_closed,
    "label_smoothing": smoothed_cross_entropy_closed,
    "focal": focal_closed,
}


def check_loss(name: str) -> None:
    """Raise ConfigError if there is no loss of this name."""
    if name not in LOSSES:
        raise ConfigError(f"train.loss: expected one of {', '.join(LOSSES)}, got {name}")


def configured(config: TrainConfig) -> Loss:
    """The configured loss as a function of (logits (b, c, ...), targets (b, ...))."""
    return partial(LOSSES[config.loss], **_options(config))


def configured_with_gradient(config: TrainConfig) -> WithGradient:
    """The configured loss as a function of (logits (b, c), targets (b,)) that returns losses (b,) and the gradient of
    each by its own logits, (b, c). It may be called under `torch.no_grad`."""
    if config.loss in CLOSED_FORMS:
        return partial(CLOSED_FORMS[config.loss], **_options(config))
    loss = configured(config)

    def by_autograd(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            losses = loss(leaf, targets)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient

    return by_autograd


def _options(config: TrainConfig) -> dict[str, float]:
    """The fields of the section train that the configured loss takes."""
    parameters = inspect.signature(LOSSES[config.loss]).parameters.values()
    return {one.name: getattr(config, one.name) for one in parameters if one.kind is one.KEYWORD_ONLY}


def image_losses(loss: Loss, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Every image's loss times the weight of its class, (b,). logits (b, c), targets (b,) int64, weights (c,)."""
    losses: torch.Tensor = loss(logits, targets) * weights[targets]
    return losses


def pixel_losses(loss: Loss, logits: torch.Tensor, masks: torch.Tensor, void: int) -> torch.Tensor:
    """Every image's mean loss over its pixels, (b,). logits (b, c, s, s), masks (b, s, s) of any integer type.

    Pixels of the number `void` do not count. The loss of an image without other pixels is 0.
    """
    counted = masks != void
    losses = loss(logits, masks.long().masked_fill(~counted, 0)).masked_fill(~counted, 0.0)
    return losses.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


def total(losses: torch.Tensor) -> torch.Tensor:
    """The sum of losses (b,), added up in the order of torch's own `cross_entropy(reduction="sum")`.

    `Tensor.sum` adds in another order, and float32 sums depend on it in the last digit.
    """
    zeros = torch.zeros(len(losses), dtype=torch.int64, device=losses.device)
    return F.nll_loss(-losses.unsqueeze(1), zeros, reduction="sum")


def _complement(log_p: torch.Tensor) -> torch.Tensor:
    """1 - p, never exactly 0: there the power 0 < gamma < 1 has no finite derivative."""
    return (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
