"""A sweep on Ray Tune: trials in actors that are used again, with fractions of CPUs and GPUs, a scheduler where asked.

A trial is `alray.rounds.run` and nothing else; Tune says which runs when, and stops early those a scheduler gives up.
"""

from __future__ import annotations

import logging
import math
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from alray import cluster
from alray.cluster import Cluster, ClusterError
from alray.config import ResourceConfig, RunConfig
from alray.report.runs import flat
from alray.rounds import run
from alray.store import Store, join, read_bytes
from alray.sweep.space import Space
from alray.sweep.table import Screen
from alray.sweep.tracking import mlflow_callback
from alray.sweep.trials import Ledger, Plan, SweepError, Trial, plan, share_features

METRIC = "validation_top1"
ERRORS = "errors"  # folder of the messages and tracebacks of trials that failed


@dataclass(frozen=True)
class Options:
    """How a sweep is run; nothing here changes what a trial picks, but a scheduler may end it before its last round."""

    samples: int = 1
    """Draws from the search spaces; each draw goes through the whole grid."""
    cpus_per_trial: float = 1.0
    """CPUs a trial reserves for itself; fractions are fine. Its training workers and selection actors come on top."""
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


@dataclass(frozen=True)
class SweepResult:
    """A sweep that came to its end: its folder, its trials as sweep.json lists them, seconds of this start."""

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
    options: Options | None = None,
    *,
    callbacks: Sequence[tune.Callback] = (),
    quiet: bool = False,
) -> SweepResult:
    """Run a configuration over all combinations of the given fields, or go on where an earlier start stopped.

    space: field by path -> list of values, or a domain of Tune's. Finished trials are not run again; those that failed
    are. callbacks: Tune's. Raises SpaceError, SweepError, ClusterError and what a run refuses before any trial starts.
    """
    options = options or Options()
    _check(options, config)
    began = time.monotonic()
    planned = plan(config, space, options.samples)
    if not quiet:
        print("\n".join(planned.notes), end="\n" if planned.notes else "", flush=True)
    ledger = Ledger(planned, space, {"name": config.name, "scheduler": options.scheduler})
    again = options.scheduler != "none"  # a scheduler compares with what finished before: its rounds are told anew
    todo = [
        number
        for number, entry in enumerate(ledger.entries)
        if entry["status"] == "waiting" or (again and entry["status"] == "finished")
    ]
    if any(ledger.entries[number]["status"] == "waiting" for number in todo):
        joins = ray.is_initialized() or config.resources.address or os.environ.get("RAY_ADDRESS")
        cores = math.inf if joins else os.cpu_count() or 1
        found = cluster.start(_resources(planned, options))
        share_features(planned, quiet)
        watch = _Watch(ledger, planned, Screen(), quiet)
        _fit(planned, todo, options, concurrency(planned, options, found, cores), [watch, *callbacks])
    if not quiet:
        Screen(began=began).show(config.name, ledger.entries, now=True)
    return SweepResult(planned.dir, ledger.entries, time.monotonic() - began)


def _check(options: Options, config: RunConfig) -> None:
    for name, least in (("samples", 1), ("cpus_per_trial", 0), ("gpus_per_trial", 0), ("max_concurrent", 0)):
        if getattr(options, name) < least:
            raise SweepError(f"{name}: expected {least} or more, got {getattr(options, name)}")
    if options.scheduler not in ("none", "asha", "median"):
        raise SweepError(f"scheduler: expected none, asha or median, got {options.scheduler!r}")
    if options.scheduler != "none" and config.split.val_size == 0:
        raise SweepError(
            f"scheduler: {options.scheduler} stops trials by validation accuracy, but split.val_size=0: give "
            "validation images (the test set chooses nothing)"
        )
    if options.mlflow:
        mlflow_callback(options.mlflow, config.name)


def _inside(config: RunConfig) -> float:
    """CPUs that a trial's own workers take while it runs, besides the trial itself."""
    resources = config.resources
    select = resources.select_shards * resources.cpus_per_shard if resources.select_workers == "ray" else 0.0
    if config.train.mode == "linear":
        return select
    train = resources.train_workers * resources.cpus_per_train_worker
    return max(select, max(train, float(resources.extract_actors)) + resources.decode_cpus)


def _resources(planned: Plan, options: Options) -> ResourceConfig:
    """Of a cluster started here: logical CPUs for one trial and its workers at least."""
    config = max((trial.config for trial in planned.trials), key=_inside)
    if config.resources.num_cpus:
        return config.resources
    cpus = max(cluster.logical_cpus(config.resources), math.ceil(options.cpus_per_trial + _inside(config)))
    return config.resources.model_copy(update={"num_cpus": cpus})


def concurrency(planned: Plan, options: Options, found: Cluster, cores: float) -> int:
    """Trials at a time, so that none waits for ever for workers that the others' drivers leave no room for.

    cores: of this machine, where the cluster is started here; its logical CPUs may be more (see `logical_cpus`).
    """
    inside = max(_inside(trial.config) for trial in planned.trials)
    each = options.cpus_per_trial + inside
    room = math.floor(found.cpus / each + 1e-9) if each else len(planned.trials)
    if options.cpus_per_trial and room > 1:
        room = max(1, min(room, math.floor(min(cores / options.cpus_per_trial, room) + 1e-9)))
    if found.use_gpu and any(trial.config.train.mode == "finetune" for trial in planned.trials):
        most = max(max(t.config.resources.train_workers, t.config.resources.extract_actors) for t in planned.trials)
        room = min(room, math.floor(found.gpus / most))
    if room < 1 or options.gpus_per_trial > found.gpus:
        raise ClusterError(
            f"the cluster has {found.cpus:g} CPUs and {found.gpus:g} GPUs, a trial needs {each:g} CPUs (of them "
            f"{inside:g} for its workers) and {options.gpus_per_trial:g} GPUs"
        )
    return min(room, options.max_concurrent or room)


def _fit(
    planned: Plan, todo: Sequence[int], options: Options, concurrent: int, callbacks: Sequence[tune.Callback]
) -> None:
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner comes at any verbosity
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(concurrent))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are listed, not shown as they come
    trials = planned.trials
    texts = {number: trials[number].config.to_json() for number in todo}
    trainable = tune.with_resources(
        tune.with_parameters(_run_trial, configs=texts, errors=join(planned.dir, ERRORS)),
        {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial},
    )
    if options.mlflow:
        callbacks = [*callbacks, mlflow_callback(options.mlflow, trials[0].config.name)]
    grid = [{"number": number, **trials[number].fields} for number in todo]
    tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(grid)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            scheduler=_scheduler(options, max(trial.config.rounds for trial in trials)),
            trial_dirname_creator=lambda trial: f"{trial.config['trial']['number']:05d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=join(planned.dir, "tune"),
            callbacks=list(callbacks),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=options.retries),
        ),
    ).fit()


def _run_trial(space: dict[str, Any], configs: Mapping[int, str], errors: str) -> None:
    """What a trial does. Rounds that are committed already are told to Tune and not computed."""
    number = space["trial"]["number"]
    store, name = Store(errors), f"{number:05d}.txt"
    store.delete(name)
    try:
        run(RunConfig.from_json(configs[number]), quiet=True, on_round=_tell)
    except Exception as error:
        about = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        store.write_bytes(name, about.encode())
        raise


def _tell(metrics: dict[str, Any]) -> None:
    scalars = {name: value for name, value in flat(metrics).items() if isinstance(value, int | float)}
    tune.report({METRIC: 0.0, **scalars})


def _scheduler(options: Options, rounds: int) -> Any:
    if options.scheduler == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    if options.scheduler == "asha":
        return ASHAScheduler(metric=METRIC, mode="max", grace_period=min(options.grace_rounds, rounds), max_t=rounds)
    return MedianStoppingRule(
        time_attr="training_iteration", metric=METRIC, mode="max", grace_period=options.grace_rounds
    )


@dataclass
class _Watch(tune.Callback):  # type: ignore[misc]
    """Keeps sweep.json and the table on the terminal up to date."""

    ledger: Ledger
    planned: Plan
    screen: Screen
    quiet: bool
    round: dict[int, int] = field(default_factory=dict)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._set(trial, status="running", error="")

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        accuracy = result.get("test_top1", result.get(METRIC))
        self._set(trial, rounds=int(result["round"]) + 1, accuracy=accuracy)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._set(trial, status="finished" if self._trial(trial).finished else "stopped")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        number = trial.config["trial"]["number"]
        self._set(trial, status="failed", error=_why(Store(join(self.planned.dir, ERRORS)), f"{number:05d}.txt"))

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._show()

    def _trial(self, trial: TuneTrial) -> Trial:
        number: int = trial.config["trial"]["number"]
        return self.planned.trials[number]

    def _set(self, trial: TuneTrial, **changes: Any) -> None:
        self.ledger.set(trial.config["trial"]["number"], **changes)
        self._show()

    def _show(self) -> None:
        if not self.quiet:
            self.screen.show(self.ledger.about["name"], self.ledger.entries)


def _why(store: Store, name: str) -> str:
    """The message a trial left when it failed; a process that was killed leaves none."""
    text = read_bytes(store.at(name)).decode() if store.has(name) else ""
    return text.partition("\n\n")[0] or "its process died"
