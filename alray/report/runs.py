"""What finished rounds wrote down, read back from run directories on local disk or any object store."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from alray.config import fingerprint, full_identity
from alray.scalars import SECTIONS, Metrics, flat
from alray.store import Store, absolute

_ROUND = re.compile(r"round_(\d+)")
PEEKING = ("balanced_random", "balancing")
"""Strategies that look at labels nobody has paid for: marked with an asterisk wherever they are named."""

_log = logging.getLogger(__name__)


class ReportError(ValueError):
    """Nothing to report on, or runs that cannot stand in one report; the message names the directory."""


@dataclass(frozen=True)
class RunHistory:
    """One run as far as it got: its committed rounds, in order, as `metrics.json` has them."""

    dir: str
    name: str
    strategy: str
    seed: int
    classes: tuple[str, ...]
    rounds: list[Metrics]
    setting: str
    """Fingerprint of everything but the seed: runs that share it differ by chance alone."""
    about: Metrics = field(default_factory=dict)
    """run.json: what the run is, with versions and machine."""

    @property
    def task(self) -> str:
        """classification or segmentation: what its accuracies are of."""
        return str(self.about.get("identity", {}).get("task", "classification"))

    @property
    def data(self) -> str:
        """Fingerprint of the catalog, images, labels and test set, and of the masks."""
        same = self.about.get("identity", {})
        return f"{same.get('data_fingerprint', '')}{same.get('masks_fingerprint', '')}"


@dataclass(frozen=True)
class Group:
    """Runs of one strategy and one setting that differ in their seed; what a table or a picture shows as one."""

    label: str
    strategy: str
    runs: tuple[RunHistory, ...]

    @property
    def title(self) -> str:
        """The label with its seeds, e.g. 'base (3 seeds)'."""
        mark = "*" if self.strategy in PEEKING else ""
        return f"{self.label}{mark} ({len(self.runs)} seed{'s' if len(self.runs) > 1 else ''})"

    @property
    def pixels(self) -> bool:
        """Whether accuracies and classes are counted in pixels."""
        return self.runs[0].task == "segmentation"

    @property
    def num_rounds(self) -> int:
        """Rounds that at least one seed has finished."""
        return max(len(run.rounds) for run in self.runs)

    def values(self, scalar: str, round: int) -> list[float | None]:
        """A scalar (a name of `flat`) at a round, one per seed that finished it; None where not measured."""
        return [flat(run.rounds[round]).get(scalar) for run in self.runs if round < len(run.rounds)]


def top_ks(rounds: Sequence[Metrics]) -> list[int]:
    """The k of the top-k accuracies that were measured on the test set besides top-1, ascending."""
    names = {name for metrics in rounds for name in metrics["test"] or {}}
    found = (re.fullmatch(r"top(\d+)", name) for name in names)
    return sorted(k for match in found if match and (k := int(match[1])) > 1)


def load(run_dir: str) -> RunHistory:
    """Read one run directory. Raises ReportError when it is no run or no round of it is committed."""
    store = Store(absolute(run_dir))
    if not store.has("run.json"):
        raise ReportError(f"{run_dir}: no run there (expected run.json in it)")
    rounds = _committed(store)
    if not rounds:
        raise ReportError(f"{run_dir}: the run has no committed round yet (expected round_00/metrics.json)")
    run = store.read_json("run.json")
    missing = [name for name in ("name", "classes", "identity") if name not in run]
    if missing:
        raise ReportError(f"{store.at('run.json')}: expected the fields {', '.join(missing)}, they are missing")
    run["identity"] = full_identity(run["identity"])
    same = dict(run["identity"])
    strategy, seed = same["strategy"], same.pop("seed")
    return RunHistory(store.uri, run["name"], strategy, seed, tuple(run["classes"]), rounds, fingerprint(same), run)


def _committed(store: Store) -> list[Metrics]:
    numbers = sorted((int(match[1]), match[0]) for match in map(_ROUND.fullmatch, store.names()) if match)
    there = [(number, name) for number, name in numbers if store.child(name).has("metrics.json")]
    for expected, (number, name) in enumerate(there):
        if number != expected:
            raise ReportError(f"{store.uri}: {name} is committed, but round {expected} is not; was a round deleted?")
    rounds = [store.child(name).read_json("metrics.json") for _, name in there]
    for metrics, (_, name) in zip(rounds, there, strict=True):
        missing = {"round", "labels", "labels_bought", *SECTIONS} - set(metrics)
        if missing:
            raise ReportError(
                f"{store.at(name, 'metrics.json')}: expected the fields {sorted(missing)}, they are missing"
            )
    return rounds


def load_all(dirs: Sequence[str]) -> list[RunHistory]:
    """Read run directories, and all runs directly inside the folders that are not run directories themselves.

    A run inside a folder that has no committed round yet is left out with a warning; one that was named itself is an
    error. Raises ReportError also when a folder holds no run, or none with a committed round, and for runs of different
    tasks.
    """
    histories: dict[str, RunHistory] = {}
    for given in dirs:
        store = Store(absolute(given))
        found = [load(given)] if store.has("run.json") else _inside(store)
        histories.update({run.dir: run for run in found})
    if not histories:
        raise ReportError("no run directory given")
    _check_tasks(list(histories.values()))
    return list(histories.values())


def _check_tasks(histories: Sequence[RunHistory]) -> None:
    first = {run.task: run for run in reversed(histories)}
    if len(first) > 1:
        got = " and ".join(f"{task} ({run.dir})" for task, run in sorted(first.items()))
        raise ReportError(
            f"expected runs of one task, whose accuracies are of one kind, got {got}; make a report of each"
        )


def _inside(folder: Store) -> list[RunHistory]:
    above, name = folder.uri.rsplit("/", 1)
    if Store(above).has(name):
        raise ReportError(f"{folder.uri}: expected run directories, folders of them, or one .csv alone; got a file")
    names = folder.names()
    runs = [folder.child(name) for name in names if folder.child(name).has("run.json")]
    if not runs:
        got = f"got {', '.join(names[:5])}{' ...' if names[5:] else ''}" if names else "it is empty or does not exist"
        raise ReportError(f"{folder.uri}: no run there (expected run.json in it, or run directories inside; {got})")
    started = [run for run in runs if _committed(run)]
    if not started:
        raise ReportError(f"{folder.uri}: none of its {len(runs)} runs has a committed round yet")
    for run in runs:
        if run not in started:
            _log.warning("%s: no committed round yet, left out of the report", run.uri)
    return [load(run.uri) for run in started]


def grouped(histories: Sequence[RunHistory]) -> list[Group]:
    """Seeds of one strategy and setting together, in order of strategy. Raises ReportError on the same run twice.

    A group is called by its strategy; where several settings of one strategy or several data sets are compared, by the
    run's name too.
    """
    members: dict[tuple[str, str], list[RunHistory]] = {}
    for run in sorted(histories, key=lambda run: (run.strategy, run.name, run.seed, run.dir)):
        group = members.setdefault((run.strategy, run.setting), [])
        if group and group[-1].seed == run.seed:
            raise ReportError(
                f"{group[-1].dir} and {run.dir}: the same strategy, seed and settings; give only one of them, "
                "they would be counted as two seeds"
            )
        group.append(run)
    return [Group(_label(key, members), key[0], tuple(runs)) for key, runs in members.items()]


def _label(key: tuple[str, str], members: dict[tuple[str, str], list[RunHistory]]) -> str:
    strategy, setting = key
    firsts = [runs[0] for runs in members.values()]
    own, rivals = members[key][0], [run for run in firsts if run.strategy == strategy]
    data = {run.data for run in firsts}
    if len(rivals) == 1 and len(data) == 1:
        return strategy
    if [run.name for run in rivals].count(own.name) > 1:
        return f"{strategy} · {own.name} · {setting[:4]}"
    told = len({run.name for run in firsts}) >= len(data)
    return f"{strategy} · {own.name}" if told else f"{strategy} · {own.name} · data {own.data[:4]}"
