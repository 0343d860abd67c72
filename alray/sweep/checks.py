"""What a scheduler demands of the trials, checked before any of them starts."""

from __future__ import annotations

from collections.abc import Sequence

from alray.config import DataConfig, RunConfig, SweepConfig
from alray.config.tree import value_at
from alray.sweep.trials import SweepError, SweepPlan

# Fields that change the accuracy at a round whatever a trial does: under one scheduler all trials must share them.
_ALIKE = (
    "task", "budget", "split.seed_set_size", "split.val_size", "split.val_how", "split.test_share",
    *(f"data.{field}" for field in DataConfig.model_fields),
)  # fmt: skip


def check_scheduler(options: SweepConfig, planned: SweepPlan) -> None:
    """Check that all trials have validation images, and the same data and numbers of labels. Raises SweepError."""
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
    return list(dict.fromkeys(str(value_at(config, path)) for config in configs))
