"""Sweeps: one configuration, some of its fields varied, every trial the same `alray.rounds.run` on Ray Tune."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alray.config import SweepConfig
from alray.rundir import SWEEP
from alray.sweep.space import SpaceError, check_values, expand, parse_space

if TYPE_CHECKING:
    from alray.sweep.start import SweepResult, sweep
    from alray.sweep.trials import SweepError, Trial, plan

# Imported on first use, so that fields of a sweep are checked before torch is imported.
_LAZY = {
    "SweepError": "alray.sweep.trials",
    "SweepResult": "alray.sweep.start",
    "Trial": "alray.sweep.trials",
    "plan": "alray.sweep.trials",
    "sweep": "alray.sweep.start",
}

__all__ = [
    "SWEEP", "SpaceError", "SweepConfig", "SweepError", "SweepResult", "Trial", "check_values", "expand",
    "parse_space", "plan", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'alray.sweep' has no attribute {name!r}")
