"""The published protocols of the three papers on CIFAR-10, and how much of each fits into the time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

PUBLISHED_EPOCHS, PRETEXT_EPOCHS = 200, 15
_FORWARD = 1 / 3  # of the time of a training step that scoring an image takes


@dataclass(frozen=True)
class Size:
    """Images of the pool and of the test set, generated where not real; labels of the smallest round; the network;
    limits."""

    images: int
    tests: int
    labels: int
    real: bool
    batch: int
    pretext_batch: int
    options: dict[str, Any]  # of timm's resnet18
    strategies: int = 9  # of each protocol, at most
    rounds: int = 10
    epochs: int = PUBLISHED_EPOCHS
    pretext_epochs: int = PRETEXT_EPOCHS


_NARROW = {"channels": [16, 16, 32, 32]}
FULL = Size(50_000, 10_000, 1_000, True, 128, 256, {})
SMALL = Size(500, 200, 20, True, 16, 32, _NARROW, strategies=2, rounds=3, epochs=6, pretext_epochs=1)  # on a CPU
TINY = Size(200, 50, 4, False, 8, 32, _NARROW, strategies=1, rounds=2, epochs=1, pretext_epochs=1)


@dataclass(frozen=True)
class Protocol:
    """One paper's protocol. strategies: the first is the paper's own. labels: of a round, in those of the smallest one.
    rounds: as many as are tried, most first. least: epochs of the last round below which fewer rounds are made. drop:
    where the learning rate drops to a tenth; 0: it follows a cosine. encoder: whether all rounds start from the pretext
    task's network. scored: share of the pool that is looked at in a round. overhead: seconds of a round beside the
    passes over images."""

    title: str
    strategies: tuple[str, ...]
    labels: int
    rounds: tuple[int, ...]
    least: int
    drop: float
    encoder: bool
    scored: float
    overhead: float
    published: str

    def step(self, size: Size) -> int:
        """Labels that a round adds."""
        return self.labels * size.labels

    def train(self, epochs: int, encoder: bool, size: Size, amp: str) -> dict[str, Any]:
        """The section `train` of the configuration. Fine-tuning with a published rate of 0.001 gets a higher one where
        it has fewer epochs, so that rate times epochs stays the same, up to 0.01."""
        fine = self.encoder and encoder
        lr = 1e-3 * min(10.0, PUBLISHED_EPOCHS / epochs) if fine else 0.1
        schedule = {"schedule": "step", "step_size": max(1, int(self.drop * epochs))}
        return {
            "epochs": epochs,
            "batch_size": size.batch,
            "lr": lr,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "freeze_bn": fine,
            "amp": amp,
            **(schedule if self.drop else {"schedule": "cosine"}),
        }


PROTOCOLS = {
    "pt4al": Protocol(
        "PT4AL (Yi et al. 2022)", ("pt4al", "random"), 1, (10, 8, 6, 4), 4, 0.8, False, 0.1, 2.0,
        "Published: ResNet-18, rotation for 15 epochs, ten rounds of 1,000 labels, 200 epochs a round. Other than "
        "published: losses are sorted as numbers, every round begins with fresh weights, the last epoch counts and not "
        "the one with the best test accuracy, and logits are not normalised.",
    ),
    "base": Protocol(
        "BASE (Emam et al. 2021)", ("base", "margin", "random"), 1, (10, 8, 6, 4), 5, 0.0, True, 1.0, 2.0,
        "Published: ResNet-18 from SimCLR, 1,000 random labels and 29 rounds of 1,000, 200 epochs by cosine at 0.001, "
        "BatchNorm frozen, early stopping on a balanced validation set of 10 %. Here: the encoder is that of the "
        "rotation task, at most ten rounds, no validation set (the last epoch counts).",
    ),
    "core_set": Protocol(
        "Core-Set (Sener & Savarese 2018)", ("k_center", "random"), 5, (4, 3, 2), 5, 0.75, False, 1.0, 5.0,
        "Published: VGG-16 with a penultimate layer of 512 numbers, rounds of 5,000 labels. Here: ResNet-18, whose "
        "penultimate layer has 512, too (timm's VGG-16 has two layers of 4,096 numbers for larger images); features "
        "without augmentation, shuffled batches.",
    ),
}  # fmt: skip


def jobs(size: Size) -> list[tuple[str, str]]:
    """(protocol, strategy) of every process."""
    return [(name, strategy) for name, one in PROTOCOLS.items() for strategy in one.strategies[: size.strategies]]


def epochs_of(labels: int, most: int, last: int, size: Size) -> int:
    """The epochs of a round, if the last round, with the most labels, has `last`. Earlier rounds have more: with as few
    labels as theirs, as many epochs are too few steps to learn anything."""
    return min(size.epochs, math.ceil(last * math.sqrt(most / labels)))


def seconds_of(protocol: Protocol, size: Size, rounds: int, last: int, rate: float) -> float:
    """What all rounds of a strategy take at so many trained images a second."""
    labels = [protocol.step(size) * (number + 1) for number in range(rounds)]
    trained = sum(count * epochs_of(count, labels[-1], last, size) for count in labels)
    scored = rounds * size.tests + (rounds - 1) * protocol.scored * size.images
    return (trained + _FORWARD * scored) / rate + rounds * protocol.overhead


def fitting(protocol: Protocol, size: Size, rate: float, seconds: float) -> tuple[int, int]:
    """(rounds, epochs of the last round) that fit: as many rounds as leave `least` epochs."""
    found = (1, 1)
    for wanted in protocol.rounds:
        rounds = min(wanted, size.rounds)
        fits = [last for last in range(1, size.epochs + 1) if seconds_of(protocol, size, rounds, last, rate) <= seconds]
        found = rounds, max(fits, default=1)
        if found[1] >= min(protocol.least, size.epochs):
            break
    return found
