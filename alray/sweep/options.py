"""How a sweep is run, and what of that is refused before any trial starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alray.config import DataConfig, RunConfig
from alray.sweep.tracking import mlflow_callback
from alray.sweep.trials import Plan, SweepError

_LEAST = {
    "samples": 1, "cpus_per_trial": 0.1, "gpus_per_trial": 0, "max_concurrent": 0, "grace_rounds": 1, "retries": 0,
}  # fmt: skip
# What changes accuracy at a round for reasons a trial cannot help: under one scheduler all must have the same.
_ALIKE = (
    "task", "budget", "split.seed_set_size", "split.val_size", "split.val_how", "split.test_share",
    *(f"data.{field}" for field in DataConfig.model_fields),
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How a sweep is run; nothing here changes what a trial picks, but a scheduler may end it before its last round."""

    samples: int = 1
    """Draws from the search spaces; each draw goes through the whole grid."""
    cpus_per_trial: float = 1.0
    """CPUs a trial reserves for itself, 0.1 at least. Its training workers and selection actors come on top."""
    gpus_per_trial: float = 0.0
    """GPUs (or a fraction) for the linear head of a trial. Fine-tuning reserves a GPU per training worker by itself."""
    max_concurrent: int = 0
    """Most trials at a time; 0: as many as the cluster has room for."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """Stop bad trials early, by validation accuracy per round: asynchronous halving, or worse than the median."""
    grace_rounds: int = 2
    """Rounds that no scheduler cuts off."""
    retries: int = 0
    """How often a trial that failed is started again (it goes on where it was), as on machines that may go away."""
    mlflow: str = ""
    """Tracking URI of MLflow, where every trial becomes a run; needs the extra alray[mlflow]."""

    @property
    def rule(self) -> str:
        """What may stop a trial; empty: nothing."""
        return "" if self.scheduler == "none" else f"{self.scheduler} after {self.grace_rounds}"


def check_options(options: Options, name: str) -> None:
    """What can be said before there are trials. Raises SweepError."""
    for field, least in _LEAST.items():
        value = getattr(options, field)
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= least):
            raise SweepError(f"{field}: expected {least} or more, got {value}")
    if options.gpus_per_trial > 1 and not float(options.gpus_per_trial).is_integer():
        raise SweepError(f"gpus_per_trial: expected a fraction of one or whole GPUs, got {options.gpus_per_trial}")
    if options.scheduler not in ("none", "asha", "median"):
        raise SweepError(f"scheduler: expected none, asha or median, got {options.scheduler!r}")
    if options.mlflow:
        mlflow_callback(options.mlflow, name)


def check_scheduler(options: Options, planned: Plan) -> None:
    """That a scheduler has something to compare, and compares like with like, in all trials. Raises SweepError."""
    if options.scheduler == "none":
        return
    configs = [trial.config for trial in planned.trials]
    for trial in planned.trials:
        if trial.config.split.val_size == 0:
            raise SweepError(
                f"scheduler: {options.scheduler} stops trials by validation accuracy, but split.val_size=0 ("
                f"{trial.title}): give validation images (the test set chooses nothing)"
            )
    for path in _ALIKE:
        if len(values := _values(configs, path)) > 1:
            raise SweepError(
                f"scheduler: {options.scheduler} compares trials of the same round, expected one {path} in all of "
                f"them, got {', '.join(values[:5])}; make a sweep of each, or take scheduler none"
            )


def _values(configs: Sequence[RunConfig], path: str) -> list[str]:
    found: dict[str, None] = {}
    for config in configs:
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        found[str(value)] = None
    return list(found)
