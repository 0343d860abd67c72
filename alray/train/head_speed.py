"""How long it takes to fit a linear head, measured on random numbers."""

from __future__ import annotations

import time

import numpy as np

from alray.config import TrainConfig
from alray.train.linear import fit_head

_LONG = 0.1  # seconds that a measurement must take
_NUMBERS = 1 << 24  # of the features that it is measured on, at most


def head_seconds(config: TrainConfig, width: int, classes: int, labels: int) -> float:
    """Seconds of all epochs on so many labels: those of some epochs on random features, and as many more as the run
    has."""
    random = np.random.default_rng(0)
    count = min(labels, max(256, _NUMBERS // width))
    x, y = random.standard_normal((count, width), np.float32), np.arange(count) % classes
    few = [config.model_copy(update={"epochs": min(n, config.epochs), "patience": 0}) for n in (3, 40)]
    fit_head(few[0], seed=0, num_classes=classes, embedding=x[:8], labels=y[:8])  # torch starts
    for part in few:
        begun, used = time.perf_counter(), time.process_time()
        fit_head(part, seed=0, num_classes=classes, embedding=x, labels=y)
        # Other work on the machine lengthens the first, several threads lengthen the second.
        took = min(time.perf_counter() - begun, time.process_time() - used)
        if took > _LONG:
            break
    return took / part.epochs * config.epochs * labels / count
