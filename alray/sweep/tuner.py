"""A sweep on Ray Tune: trials in actors that are used again, with fractions of CPUs and GPUs, a scheduler where asked.

A trial is one call of `alray.rounds.run`. Tune starts the trials and stops early those that its scheduler rejects.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from alray import cluster, demand
from alray.cluster_state import any_pending, name_trial
from alray.config import RunConfig, SweepConfig, replace
from alray.demand import COUNTED, Bundle
from alray.joining import check_nodes
from alray.models.no_gpu import for_workers
from alray.process import death
from alray.reservation import Share, Waiting
from alray.rounds import run
from alray.rundir import RunDir
from alray.scalars import flat
from alray.stop import ended
from alray.store import Store, join
from alray.sweep.capacity import beside_workers, cluster_for, concurrency, reserved
from alray.sweep.failures import last_failure, message
from alray.sweep.ledger import Ledger
from alray.sweep.sharing import share
from alray.sweep.table import Screen
from alray.sweep.tracking import mlflow_callback
from alray.sweep.trials import SweepPlan, metrics_of

METRIC = "validation_top1"
ERRORS = "errors"  # folder of the messages and tracebacks of trials that failed


def work(
    planned: SweepPlan,
    ledger: Ledger,
    options: SweepConfig,
    screen: Screen,
    callbacks: Sequence[tune.Callback],
    quiet: bool,
) -> None:
    """Compute what trials share, then run the trials that are not finished. The caller holds the lease of the folder.
    Raises ClusterError."""
    todo = ledger.numbers("waiting")
    if not todo:
        return
    resources = planned.settings[0].config.resources
    joins = ray.is_initialized() or resources.address or os.environ.get("RAY_ADDRESS")
    cores = math.inf if joins else os.cpu_count() or 1
    found = cluster.start(cluster_for(planned, options))
    first = planned.settings[0]
    check_nodes(first.config, first.catalog, first.pool_rows)
    options, fewer = beside_workers(planned, options, found)
    if fewer and not quiet:
        print(fewer, flush=True)
    concurrent = concurrency(planned, options, found, cores)
    failed = share(planned, {planned.trials[number].setting for number in todo}, quiet)
    for number in todo:
        if planned.trials[number].setting in failed:
            ledger.set(number, status="failed", error=failed[planned.trials[number].setting])
    todo = ledger.numbers("waiting")
    if not todo:
        return
    # A scheduler compares with earlier trials: their metrics are reported to it again, before new trials start.
    told = ledger.numbers("finished", "stopped") if options.scheduler != "none" else []
    watch = _Watch(ledger, tuple(trial.run for trial in planned.trials), frozenset(told), screen, quiet)
    try:
        with _own_interrupts():
            room = _Room(planned.trials[0].config, reserved(planned.settings[0], options, found.use_gpu), quiet)
            _fit(planned, ledger, told, todo, options, concurrent, found.use_gpu, [watch, room, *callbacks])
    finally:
        ledger.settle()


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Restore the signal handlers that Tune replaces and does not put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fit(
    planned: SweepPlan,
    ledger: Ledger,
    told: Sequence[int],
    todo: Sequence[int],
    options: SweepConfig,
    concurrent: int,
    use_gpu: bool,
    callbacks: Sequence[tune.Callback],
) -> None:
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner comes at any verbosity
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(concurrent))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are listed, not shown as they come
    trials = planned.trials
    if options.mlflow:
        callbacks = [*callbacks, mlflow_callback(options.mlflow, trials[0].config.name)]
    grid = [{"number": number, **trials[number].fields} for number in (*told, *todo)]
    tune.Tuner(
        _trainable(planned, ledger, told, todo, options, use_gpu),
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


def _trainable(
    planned: SweepPlan, ledger: Ledger, told: Sequence[int], todo: Sequence[int], options: SweepConfig, use_gpu: bool
) -> Any:
    """The function that Tune runs, with all that each trial reserves."""
    trials = planned.trials
    bundles = [reserved(planned.settings[trial.setting], options, use_gpu) for trial in trials]

    def resources(space: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(bundles[space["trial"]["number"]])

    return tune.with_resources(
        tune.with_parameters(
            _run_trial,
            configs={number: _one_each(trials[number].config).to_json() for number in todo},
            told={number: (trials[number].run, ledger.entries[number]["rounds"]) for number in told},
            errors=join(planned.dir, ERRORS),
        ),
        resources,
    )


def _one_each(config: RunConfig) -> RunConfig:
    """The configuration of a trial: the cluster is shared among trials, so "auto" is one worker, actor and shard."""
    return replace(config, {f"resources.{name}": 1 for name in COUNTED if getattr(config.resources, name) == "auto"})


def _run_trial(
    space: dict[str, Any], configs: Mapping[int, str], told: Mapping[int, tuple[str, int]], errors: str
) -> None:
    """Run one trial. Rounds that are committed already are reported to Tune and not computed."""
    number = space["trial"]["number"]
    if number in told:
        folder, rounds = told[number]
        for earlier in range(rounds):
            _tell(metrics_of(folder, earlier))
        return
    _hide_gpus()
    config = RunConfig.from_json(configs[number])
    name_trial(config.name)
    store, name = Store(errors, sums=""), f"{number:05d}.txt"  # all trials write there
    store.delete(name)
    try:
        run(config, quiet=True, on_round=_tell)
    except Exception as error:
        about = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        store.write_bytes(name, about.encode())
        raise


def _hide_gpus() -> None:
    """A trial without a GPU of its own takes none: `alray.cluster` has Ray leave all of them visible. A trial with one
    may use it, whatever Ray's processes have inherited. Its training workers are processes of Ray's, not of this
    one."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        os.environ.update(for_workers(gpus=1))


def _tell(metrics: dict[str, Any]) -> None:
    scalars = {name: value for name, value in flat(metrics).items() if isinstance(value, int | float)}
    tune.report({METRIC: 0.0, **scalars})


def _scheduler(options: SweepConfig, rounds: int) -> Any:
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
    """Keeps sweep.json and the table on the terminal up to date. Tune pickles it again and again: numbers and names
    only."""

    ledger: Ledger
    runs: tuple[str, ...]  # the directory of each trial
    told: frozenset[int]
    screen: Screen
    quiet: bool

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._set(trial, status="running", error="")

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        accuracy = result.get("test_top1", result.get(METRIC))
        self._set(trial, rounds=int(result["round"]) + 1, accuracy=accuracy)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._set(trial, status="finished" if ended(RunDir(self.runs[_number(trial)])) else "stopped")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        left = message(Store(self.ledger.store.at(ERRORS), sums=""), f"{_number(trial):05d}.txt")
        self._set(trial, status="failed", error=left or death(last_failure(trial.error_file)))

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._show()

    def _set(self, trial: TuneTrial, **changes: Any) -> None:
        if _number(trial) not in self.told:  # its metrics are in the ledger already
            self.ledger.set(_number(trial), **changes)
        self._show()

    def _show(self) -> None:
        if not self.quiet:
            self.screen.show(self.ledger.about["name"], self.ledger.entries)


@dataclass
class _Room(tune.Callback):  # type: ignore[misc]
    """Tells that no trial has room to run, and who is in its place; ends the sweep if that goes on for too long."""

    config: RunConfig
    bundles: list[Bundle]  # of the first trial
    quiet: bool

    def __post_init__(self) -> None:
        self._waiting: Waiting | None = None
        self._next = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_waiting": None}

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1
        if any(trial.status == TuneTrial.RUNNING for trial in trials) or not any_pending():
            self._waiting = None
            return
        if self._waiting is None:
            share = Share(self.config.name, self.config.resources.wait_minutes, _ignore if self.quiet else _print)
            self._waiting = Waiting(share, "sweep", demand.total(self.bundles))
        self._waiting.on()


def _print(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    pass


def _number(trial: TuneTrial) -> int:
    number: int = trial.config["trial"]["number"]
    return number
