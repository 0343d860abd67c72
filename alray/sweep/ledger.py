"""`sweep.json`: the trials of a sweep and how many rounds each has finished, derived from the run directories at every
start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from alray.rundir import SWEEP, RunDir
from alray.stop import ended
from alray.store import Store
from alray.sweep.trials import SweepPlan, Trial, committed, metrics_of

Status = Literal["waiting", "running", "finished", "stopped", "failed"]


class Ledger:
    """The varied fields, and for each trial its run directory, status, rounds and error.

    Trials of earlier starts with other fields stay in the file as long as their directories exist, because a report on
    the folder reads them. rule: how the scheduler stops trials. A trial that was stopped is not continued under the
    same rule and number of rounds.
    """

    def __init__(self, plan: SweepPlan, about: Mapping[str, Any], rule: str = "") -> None:
        self.store, self.rule = Store(plan.dir), rule
        before = self.store.read_json(SWEEP) if self.store.has(SWEEP) else {"trials": []}
        self.entries = [_entry(trial) for trial in plan.trials]
        known = {entry["run"]: entry for entry in before["trials"]}
        for entry in self.entries:
            self._take_up(entry, known.pop(entry["run"], {}))
        self.others = [entry for entry in known.values() if RunDir(self.store.at(entry["run"])).exists]
        self.about = dict(about)
        if about.get("scheduler") == "none" and any(e["status"] == "stopped" for e in self.others):
            self.about["scheduler"] = before.get("scheduler", "none")  # the report warns of trials that it stopped
        self.settle()

    def _take_up(self, entry: dict[str, Any], before: Mapping[str, Any]) -> None:
        same = before.get("rule") == self.rule and before.get("of") == entry["of"]
        if before.get("status") == "stopped" and entry["status"] != "finished" and same and entry["rounds"]:
            entry.update(status="stopped", rule=self.rule)

    def set(self, number: int, **changes: Any) -> None:
        """Change a trial's entry. The file is written only when the status changes."""
        entry = self.entries[number]
        changed = changes.get("status", entry["status"]) != entry["status"]
        entry.update(changes)
        if changed:
            entry["rule"] = self.rule if entry["status"] == "stopped" else ""
            self.write()

    def settle(self) -> None:
        """After the sweep, set the status of running trials by the rounds in their directories."""
        for entry in (*self.entries, *self.others):
            if entry["status"] == "running":
                run = RunDir(self.store.at(entry["run"]))
                entry.update(_progress(run, entry["of"], ended(run)))
        self.write()

    def write(self) -> None:
        """Write the file."""
        self.store.write_json(SWEEP, {**self.about, "trials": [*self.entries, *self.others]})

    def numbers(self, *statuses: Status) -> list[int]:
        """The numbers of the trials that have one of these statuses."""
        return [number for number, entry in enumerate(self.entries) if entry["status"] in statuses]


def _entry(trial: Trial) -> dict[str, Any]:
    run = trial.run.rsplit("/", 1)[1]  # only the last part, because the folder may be moved
    progress = _progress(RunDir(trial.run), trial.config.rounds, trial.finished)
    return {"fields": dict(trial.fields), "run": run, "of": trial.config.rounds, "error": "", "rule": "", **progress}


def _progress(run: RunDir, of: int, finished: bool) -> dict[str, Any]:
    rounds = min(committed(run.uri), of)  # an earlier sweep may have run more rounds
    last = accuracy(metrics_of(run.uri, rounds - 1)) if rounds else None
    return {"status": "finished" if finished else "waiting", "rounds": rounds, "accuracy": last}


def accuracy(metrics: Mapping[str, Any]) -> float | None:
    """The top-1 accuracy of a round on the test set, or else on the validation set; None if there is neither."""
    for section in ("test", "validation"):
        if metrics.get(section):
            return float(metrics[section]["top1"])
    return None
