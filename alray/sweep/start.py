"""Start a sweep: everything is checked before Ray is imported, then `alray.sweep.tuner` runs the trials."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alray.config import RunConfig, SweepConfig
from alray.lease import lease
from alray.store import Store
from alray.sweep.checks import check_other_trials, check_scheduler
from alray.sweep.ledger import Ledger
from alray.sweep.space import Space
from alray.sweep.table import Screen
from alray.sweep.trials import SweepError, plan

if TYPE_CHECKING:
    from ray import tune


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: its folder, its trials as sweep.json lists them, and how many seconds this start took."""

    dir: str
    trials: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        """Trials that raised, with their `error`."""
        return [trial for trial in self.trials if trial["status"] == "failed"]


def sweep(
    config: RunConfig,
    space: Space,
    options: SweepConfig | None = None,
    *,
    callbacks: Sequence[tune.Callback] = (),
    quiet: bool = False,
) -> SweepResult:
    """Run a configuration over all combinations of the given fields, or go on where an earlier start stopped.

    space: field by path -> list of values, or a domain of Tune's. Finished trials are not run again; those that failed
    are. callbacks: Tune's. Raises SpaceError, SweepError, ClusterError and what a run refuses before any trial starts,
    KeyboardInterrupt where it was stopped before its end.
    """
    options, screen = options or SweepConfig(), Screen()
    if options.mlflow:
        from alray.sweep.tracking import mlflow_callback

        mlflow_callback(options.mlflow, config.name)  # refused now, not after the first trial
    planned = plan(config, space, options.samples)
    check_scheduler(options, planned)
    check_other_trials(planned)
    if not quiet and planned.notes:
        print("\n".join(planned.notes), flush=True)
    with lease(Store(planned.dir), busy=lambda holder: _refuse(planned.dir, holder)):
        about = {"fields": list(planned.trials[0].fields), "name": config.name, "scheduler": options.scheduler}
        ledger = Ledger(planned, about, options.rule)
        if ledger.numbers("waiting"):
            from alray.sweep.tuner import work  # imports Ray Tune, which takes seconds: after everything is checked

            work(planned, ledger, options, screen, callbacks, quiet)
    if not quiet:
        screen.show(config.name, ledger.entries, now=True)
    if left := ledger.numbers("waiting"):
        raise KeyboardInterrupt(f"stopped with {len(left)} trials to go: the same command goes on")
    return SweepResult(planned.dir, ledger.entries, time.monotonic() - screen.began)


def _refuse(folder: str, holder: str) -> None:
    raise SweepError(f"{folder}: another sweep is at work there, {holder}; wait for its end")
