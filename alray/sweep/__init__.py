"""Sweeps: one configuration, some of its fields varied, every trial the same `alray.rounds.run` on Ray Tune."""

from __future__ import annotations

from alray.config import SweepConfig
from alray.rundir import SWEEP
from alray.sweep.space import SpaceError, expand, parse_space
from alray.sweep.trials import SweepError, Trial, plan
from alray.sweep.tuner import SweepResult, sweep

__all__ = [
    "SWEEP", "SpaceError", "SweepConfig", "SweepError", "SweepResult", "Trial", "expand", "parse_space", "plan",
    "sweep",
]  # fmt: skip
