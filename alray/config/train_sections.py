"""The sections of a configuration that say how networks are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from alray.config.fields import COMMON, OUTSIDE, Frozen


class OptimisationConfig(Frozen):
    """Steps of gradient descent."""

    epochs: Annotated[int, COMMON] = Field(60, ge=1)
    """Most epochs per round."""
    batch_size: Annotated[int, COMMON] = Field(128, ge=1)
    """Images per step over all workers together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: Annotated[float, COMMON] = Field(0.1, gt=0)
    """Learning rate at the first epoch."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (sgd) or decoupled decay (adamw)."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """Per epoch. step: times gamma every step_size epochs; cosine: to 0 at the last epoch."""
    step_size: int = Field(20, ge=1)
    """Epochs between two steps of the step schedule."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each step of the step schedule."""
    amp: Literal["none", "fp16", "bf16"] = "none"
    """Mixed precision."""
    clip_norm: float = Field(0.0, ge=0)
    """Clip the gradient to this norm; 0 does not."""
    checkpoint_every: Annotated[int, OUTSIDE] = Field(1, ge=1)
    """Epochs between the checkpoints from which a killed training goes on."""
    sync_bn: bool = False
    """Share BatchNorm statistics between GPU workers."""


class TrainConfig(OptimisationConfig):
    """How a round's model is trained."""

    mode: Annotated[Literal["finetune", "linear"], COMMON] = "finetune"
    """finetune: all weights, with Ray Train; linear: a head on cached embeddings of the frozen backbone."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs without a better validation accuracy; 0 trains all epochs."""
    loss: str = "cross_entropy"
    """What is minimised: cross_entropy, label_smoothing (Szegedy et al. 2016), focal (Lin et al. 2017), or one of your
    own (`alray.train.losses`). In segmentation it is the mean over an image's pixels."""
    label_smoothing: float = Field(0.1, ge=0, le=1)
    """Share of the target that the loss label_smoothing gives to all classes alike. Other losses do not use it."""
    focal_gamma: float = Field(2.0, ge=0)
    """How much less the loss focal counts images that are classified well; 0 is cross-entropy. Other losses do not use
    it."""
    class_weights: bool = False
    """Weight the loss by the inverse class frequency of the labeled set."""
    freeze_bn: bool = False
    """Keep the statistics of BatchNorm layers as the checkpoint has them."""
    warm_start: bool = False
    """Start from the previous round's weights instead of the checkpoint (or fresh weights)."""


class PretextConfig(OptimisationConfig):
    """A network trained without labels on the whole pool, once, before the first round (Yi et al. 2022)."""

    task: Annotated[Literal["none", "rotation", "colorization", "simsiam", "simclr"], COMMON] = "none"
    """What it learns; its loss per image orders the pool for the strategy pt4al and the seed set "pretext"."""
    as_backbone: bool = False
    """Let every round start from its encoder (frozen under linear evaluation), instead of model.checkpoint."""
    seed: int = Field(0, ge=0)
    """Seed of its weights, views and order of images: one task serves the runs of all seeds."""
    epochs: int = Field(15, ge=1)
    """Passes over the pool."""
    batch_size: int = Field(256, ge=2)
    """Images per step over all workers together."""
    lr: float = Field(0.1, gt=0)
    """Learning rate at the first epoch."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty (sgd) or decoupled decay (adamw)."""
    step_size: int = Field(30, ge=1)
    """Epochs between two steps of the step schedule."""
    temperature: float = Field(0.5, gt=0)
    """simclr: temperature of the NT-Xent loss."""


class VaalConfig(Frozen):
    """The networks of the strategy vaal (Sinha et al. 2019); the values are those of Emam et al. 2021 for ImageNet (for
    CIFAR-10: image_size 32, latent 32, adversary 1, lr 5e-4, lr_discriminator 5e-4)."""

    image_size: int = Field(64, ge=16, multiple_of=16)
    """Side in pixels that images are resized to."""
    latent: int = Field(64, ge=1)
    """Width of the latent code."""
    width: int = Field(128, ge=1)
    """Channels of the first convolution; each of the next three has twice as many."""
    adversary: float = Field(10.0, ge=0)
    """Weight of looking labeled in the autoencoder's loss."""
    lr: float = Field(5e-5, gt=0)
    """Learning rate of the autoencoder (Adam)."""
    lr_discriminator: float = Field(1e-3, gt=0)
    """Learning rate of the discriminator (Adam)."""
    epochs: int = Field(60, ge=1)
    """Passes over the labeled images, each beside as many unlabeled ones."""
    batch_size: int = Field(128, ge=2)
    """Labeled images per step over all workers together."""
    checkpoint_every: Annotated[int, OUTSIDE] = Field(1, ge=1)
    """Epochs between the checkpoints from which a killed training goes on."""
