"""Finished rounds as runs wrote them, read back from run directories on local disk or any object store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from alray.config import full_identity
from alray.labeling.drawn import Tested, tests
from alray.labeling.state import classes
from alray.rundir import METRICS, RUN, SWEEP, RunDir
from alray.scalars import SECTIONS, Metrics
from alray.store import Store, absolute, folder_of, is_file

_log = logging.getLogger(__name__)


class ReportError(ValueError):
    """There is nothing to report on, or the runs do not fit into one report; the message names the directory."""


@dataclass(frozen=True)
class Counted:
    """What the accuracies and class counts of a task are counted in, and how a report names and shows them."""

    task: str
    noun: str
    """One of the things that have a label: image or pixel."""
    accuracies: tuple[str, str]
    """The two test accuracies (names of `scalars.flat`) that a report shows; runs are compared by the first."""
    names: Mapping[str, str]
    """Kind of accuracy, e.g. top1 -> what readers call it, where that is not '<kind> accuracy'."""
    class_per_image: bool
    """Whether an image has exactly one class, which the gallery names; else it has a mask, which the gallery draws."""
    per_class: tuple[str, str]
    """The list of metrics.json with one number per class on the test set, and what readers call that number."""
    balance_note: str = ""
    """A sentence on how the class balance was counted."""


_NAMES = {"balanced_accuracy": "balanced accuracy", "normalised_entropy": "class entropy", "miou": "mIoU"}
IMAGES = Counted(
    task="classification",
    noun="image",
    accuracies=("test_top1", "test_balanced_accuracy"),
    names=_NAMES,
    class_per_image=True,
    per_class=("per_class_accuracy", "accuracy"),
)
PIXELS = Counted(
    task="segmentation",
    noun="pixel",
    accuracies=("test_miou", "test_top1"),
    names={**_NAMES, "top1": "pixel accuracy", "balanced_accuracy": "class accuracy"},
    class_per_image=False,
    per_class=("per_class_iou", "IoU"),
    balance_note="Each image contains several classes. Classes are counted in the mask pixels of the labeled images.",
)


def counted(identity: Mapping[str, Any]) -> Counted:
    """What the numbers of a run are counted in. identity: of run.json. Raises ReportError for an unknown task."""
    task = identity.get("task", IMAGES.task)
    for known in (IMAGES, PIXELS):
        if task == known.task:
            return known
    raise ReportError(f"task: expected {IMAGES.task} or {PIXELS.task}, got {task}")


@dataclass(frozen=True)
class RunHistory:
    """One run with its committed rounds, in order, as `metrics.json` has them."""

    dir: str
    name: str
    strategy: str
    seed: int
    classes: tuple[str, ...]
    rounds: list[Metrics]
    about: Metrics = field(default_factory=dict)
    """run.json: the identity of the run, versions and machine."""

    @property
    def counted(self) -> Counted:
        """What the accuracies and class counts of this run are counted in."""
        return counted(self.about.get("identity", {}))

    @property
    def files(self) -> RunDir:
        """The run directory."""
        return RunDir(self.dir)

    @cached_property
    def tests(self) -> list[Tested]:
        """Its closed tests with their estimates. They are read once, because several parts of a report tell them."""
        return tests(self.files)

    @property
    def frozen(self) -> bool:
        """Whether all rounds share one table of embeddings."""
        return bool(self.about.get("frozen", False))

    @property
    def peeks(self) -> bool:
        """Whether the strategy reads labels before they are bought."""
        return bool(self.about.get("peeks", False))


def load(run_dir: str) -> RunHistory:
    """Read one run directory. Raises ReportError when it is not a run or none of its rounds is committed."""
    store = RunDir(absolute(run_dir))
    if not store.exists:
        raise ReportError(f"{run_dir}: no run there (expected run.json in it)")
    rounds = _committed(store)
    if not rounds:
        raise ReportError(
            f"{run_dir}: no round of this run is finished yet, so there is nothing to report; `alray status {run_dir}` "
            "says where it stands"
        )
    run = store.about()
    missing = [name for name in ("name", "classes", "identity") if name not in run]
    if missing:
        raise ReportError(f"{store.at(RUN)}: expected the fields {', '.join(missing)}, they are missing")
    same = run["identity"] = full_identity(run["identity"])
    names = tuple(classes(store))  # with those that people named while the run went on
    return RunHistory(store.uri, run["name"], same["strategy"], same["seed"], names, rounds, run)


def _committed(store: RunDir) -> list[Metrics]:
    rounds = []
    for expected, number in enumerate(store.committed()):
        if number != expected:
            raise ReportError(
                f"{store.uri}: round {number} is committed, but round {expected} is not; was a round deleted?"
            )
        metrics = store.round(number).metrics()
        missing = {"round", "labels", "labels_bought", *SECTIONS} - set(metrics)
        if missing:
            where = store.round(number).at(METRICS)
            raise ReportError(f"{where}: expected the fields {sorted(missing)}, they are missing")
        rounds.append(metrics)
    return rounds


def load_all(dirs: Sequence[str]) -> list[RunHistory]:
    """Read run directories, and all runs directly inside the folders that are not run directories themselves.

    A run inside a folder that has no committed round yet is left out with a warning; one that was named directly is an
    error. Raises ReportError also when a folder contains no run, or none with a committed round, and when the runs
    have different tasks.
    """
    histories: dict[str, RunHistory] = {}
    for given in dirs:
        store = RunDir(absolute(given))
        found = [load(given)] if store.exists else _inside(store)
        histories.update({run.dir: run for run in found})
    if not histories:
        raise ReportError("no run directory given")
    _check_tasks(list(histories.values()))
    return list(histories.values())


def _check_tasks(histories: Sequence[RunHistory]) -> None:
    first = {run.counted.task: run for run in reversed(histories)}
    if len(first) > 1:
        got = " and ".join(f"{task} ({run.dir})" for task, run in sorted(first.items()))
        raise ReportError(f"expected runs of one task, got {got}; make a report of each")


def _inside(folder: Store) -> list[RunHistory]:
    if is_file(folder.uri):
        raise ReportError(f"{folder.uri}: expected run directories, folders of them, or one .csv alone; got a file")
    names = folder.names()
    runs = [run for name in names if (run := RunDir(folder.at(name))).exists]
    if not runs:
        got = f"got {', '.join(names[:5])}{' ...' if names[5:] else ''}" if names else "it is empty or does not exist"
        raise ReportError(f"{folder.uri}: no run there (expected run.json in it, or run directories inside; {got})")
    started = [run for run in runs if _committed(run)]
    if not started:
        raise ReportError(f"{folder.uri}: none of its {len(runs)} runs has a finished round yet")
    for run in runs:
        if run not in started:
            _log.warning("%s: no finished round yet, left out of the report", run.uri)
    return [load(run.uri) for run in started]


def stopped_by(runs: Sequence[RunHistory]) -> dict[str, str]:
    """Run directory -> the scheduler that stopped the run, which has not been brought to its end since."""
    rounds = {run.dir: len(run.rounds) for run in runs}
    found = {}
    for folder in filter(None, dict.fromkeys(folder_of(run.dir) for run in runs)):
        store = Store(folder)
        sweep = store.read_json(SWEEP) if store.has(SWEEP) else {"trials": []}
        name = sweep.get("scheduler", "none")
        for trial in sweep["trials"]:
            run = f"{folder}/{trial['run']}"
            if trial["status"] == "stopped" and rounds.get(run, trial["of"]) < trial["of"]:
                found[run] = "a scheduler" if name == "none" else str(name)  # none: started again without one
    return found
