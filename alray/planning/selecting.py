"""Measure on random features how long a strategy takes to choose."""

from __future__ import annotations

import math
import time

import numpy as np

from alray.features.arrays import DISCRIMINATOR, EMBEDDING, LOGITS, PIXEL, Array, ArraySource
from alray.selection.protocol import Context, Strategy
from alray.selection.select import select_from

_ROWS = 1500  # of the smaller of two measurements
_STEEPEST = 2.0  # nothing here costs more than rows times picks


def select_seconds(strategy: Strategy, rows: int, labeled: int, budget: int, width: int, classes: int) -> float:
    """Seconds of one selection in one process: measured on two small pools of random features, whose labeled rows and
    budget are as many per row as in the run, and continued by the power of the rows at which the time grew."""
    small = min(rows, _ROWS)
    first = _seconds(strategy, small, labeled, budget, width, classes, rows)
    if small == rows:
        return first
    twice = min(rows, 2 * small)
    second = _seconds(strategy, twice, labeled, budget, width, classes, rows)
    power = min(max(math.log(max(second / first, 1e-9)) / math.log(twice / small), 1.0), _STEEPEST)
    return float(second * (rows / twice) ** power)


def _seconds(strategy: Strategy, n: int, labeled: int, budget: int, width: int, classes: int, rows: int) -> float:
    random, share = np.random.default_rng(n), n / rows
    known, picks = max(2, math.ceil(labeled * share)), min(n, max(1, math.ceil(budget * share)))
    weight = random.standard_normal((classes, width), np.float32)
    center = random.standard_normal((classes, width), np.float32)
    x = center[np.arange(n + known) % classes] + random.standard_normal((n + known, width), np.float32)
    columns: dict[str, Array] = {EMBEDDING: x, LOGITS: x @ weight.T, DISCRIMINATOR: random.random(n + known)}
    columns |= {name: random.random((n + known, 1), np.float32) for name in PIXEL.values()}
    at = np.arange(n + known, dtype=np.int64)
    context = Context(
        0, 1, classes, (weight, np.zeros(classes, np.float32)),
        ArraySource(at[n:], {name: column[n:] for name, column in columns.items()}),
        np.arange(known) % classes, lambda asked: (asked % classes).astype(np.int32), (at, random.random(n + known)),
    )  # fmt: skip
    source = ArraySource(at[:n], {name: column[:n] for name, column in columns.items()})
    window = strategy.window(context, at[:n], picks)
    source = ArraySource(window, {name: column[window] for name, column in columns.items()})
    begun = time.process_time()
    select_from([source], strategy, min(picks, len(window)), context)
    return time.process_time() - begun
