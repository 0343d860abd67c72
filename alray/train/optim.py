"""The optimizers' steps, the learning-rate schedule and class weights (Emam et al. 2021, published code)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from alray.config import OptimisationConfig, TrainConfig

_BETAS, _EPS = (0.9, 0.999), 1e-8  # torch's defaults for AdamW


def learning_rate(config: OptimisationConfig, epoch: int) -> float:
    """The learning rate of an epoch (from 0). It depends on the epoch's number alone: there is no state to save."""
    if config.schedule == "step":
        return config.lr * float(config.gamma ** (epoch // config.step_size))
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return config.lr


def make_optimizer(config: OptimisationConfig, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """SGD with momentum (weight decay as L2 penalty) or AdamW (decoupled decay), in fused kernels."""
    if config.optimizer == "sgd":
        return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)
    return AdamW(parameters, lr=config.lr, betas=_BETAS, eps=_EPS, weight_decay=config.weight_decay, fused=True)


class ModelOptimizer:
    """The optimizer of one model with gradient scaling (float16) and clipping: one call of `step` per batch."""

    def __init__(self, config: OptimisationConfig, model: nn.Module, device: torch.device) -> None:
        self.config, self.model = config, model
        self.optimizer = make_optimizer(config, [p for p in model.parameters() if p.requires_grad])
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        if self.scaler.is_enabled() and config.optimizer == "sgd" and config.momentum:
            self._still()

    def _still(self) -> None:
        """Begin with momenta of zero. The fused SGD otherwise makes them out of unwritten memory when the scaler lets
        it skip the first step, as the first step in float16 often is (seen in torch 2.11 and later)."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def begin(self, epoch: int) -> float:
        """Set the learning rate of an epoch (from 0) and return it."""
        lr = learning_rate(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def step(self, loss: torch.Tensor) -> None:
        """Change the model's weights by the gradient of a loss (a scalar)."""
        torch.autograd.backward(self.scaler.scale(loss))
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Everything that the next step needs beside the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


@dataclass
class Stepper:
    """The steps of `make_optimizer` on bare tensors.

    The first torch Optimizer of a process costs seconds, because it imports torch's compiler.
    """

    config: TrainConfig
    parameters: Sequence[torch.Tensor]
    momenta: list[Any] = field(init=False)
    squares: list[torch.Tensor] = field(init=False)
    counts: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if self.config.optimizer == "sgd":
            self.momenta = [None for _ in self.parameters]
        else:
            self.momenta = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.counts = [torch.zeros((), device=p.device) for p in self.parameters]

    def step(self, gradients: Sequence[torch.Tensor], lr: float) -> None:
        """Change the parameters in place."""
        config = self.config
        if config.optimizer == "sgd":
            sgd(
                list(self.parameters), list(gradients), self.momenta, foreach=False, fused=True, dampening=0.0,
                nesterov=False, maximize=False, weight_decay=config.weight_decay, momentum=config.momentum, lr=lr,
            )  # fmt: skip
        else:
            adamw(
                list(self.parameters), list(gradients), self.momenta, self.squares, [], self.counts,
                foreach=False, fused=True, amsgrad=False, maximize=False, beta1=_BETAS[0], beta2=_BETAS[1], eps=_EPS,
                weight_decay=config.weight_decay, lr=lr,
            )  # fmt: skip


def class_weights(labels: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.float32]:
    """Weights of the loss, (c,) float32 that sum to 1: total / n_c for classes with labels, 1 for those without, then
    normalised. labels (n,) integer."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.where(counts > 0, len(labels) / np.maximum(counts, 1), 1.0)
    return np.asarray(weights / weights.sum(), np.float32)


def loss_weights(config: TrainConfig, labels: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.float32]:
    """`class_weights` if train.class_weights is set, else ones; (c,) float32. labels (n,) integer."""
    return class_weights(labels, num_classes) if config.class_weights else np.ones(num_classes, np.float32)
