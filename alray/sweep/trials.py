"""The trials of a sweep, checked before any of them runs, and the file that says how far each one is.

State lives in the run directories: a trial is finished when its last round is committed. `sweep.json` lists the trials,
names those that failed or were stopped early, and is made anew from the run directories by every start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alray.config import RunConfig, fingerprint, identity, replace
from alray.data.catalog import Catalog
from alray.prepare import Prepared, prepare
from alray.rounds import METRICS
from alray.store import Store, absolute, join
from alray.sweep.space import Space, expand
from alray.train.learner import weights_fingerprint

SWEEP = "sweep.json"
_SHARED = ("model", "transform", "features", "pretext")

Status = Literal["waiting", "running", "finished", "stopped", "failed"]


class SweepError(ValueError):
    """A sweep that cannot start; the message names the field or the trials."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: what it varies, its configuration, its run directory."""

    fields: Mapping[str, Any]
    config: RunConfig
    run: str

    @property
    def last_round(self) -> str:
        """Name of the last round's directory."""
        return f"round_{self.config.rounds - 1:02d}"

    @property
    def finished(self) -> bool:
        """Whether the last round is committed."""
        return Store(self.run).child(self.last_round).has(METRICS)

    @property
    def title(self) -> str:
        """E.g. 'seed 0, strategy margin, budget 50'."""
        return ", ".join(f"{path} {value}" for path, value in self.fields.items())


@dataclass(frozen=True)
class Plan:
    """A sweep that can start: its folder, its trials, and one prepared run per setting (seeds share it)."""

    dir: str
    trials: tuple[Trial, ...]
    prepared: tuple[Prepared, ...]
    notes: tuple[str, ...]


def plan(config: RunConfig, space: Space, samples: int = 1) -> Plan:
    """Make all trials, and check one of every setting as a single run would be checked.

    Run directories, catalog and features lie in <root>/<name>-sweep. Raises SpaceError, SweepError and whatever a run
    refuses (ConfigError, CatalogError, SelectionError ...), with the trial's fields in front.
    """
    for path in ("name", "root", "run_dir"):
        if path in space or (path == "run_dir" and config.run_dir):
            raise SweepError(f"{path}: a sweep names the directories of its trials itself; leave it out")
    folder = join(absolute(config.root), f"{config.name}-sweep")
    base = _absolute_paths(replace(config, {"root": folder}))
    ready: dict[str, Prepared] = {}
    trials = [_trial(base, fields, ready) for fields in expand(space, samples, config.seed)]
    kept, notes = _without_prefixes(trials)
    return Plan(folder, tuple(kept), tuple(ready.values()), tuple(notes))


def _absolute_paths(config: RunConfig) -> RunConfig:
    """Trials run in other directories than the driver. (train_list is part of what a run is: it stays as it is.)"""
    places = {f"data.{field}": getattr(config.data, field) for field in ("root", "test_root", "catalog")}
    places["model.checkpoint"] = config.model.checkpoint
    return replace(config, {path: absolute(value) for path, value in places.items() if value})


def _trial(base: RunConfig, fields: dict[str, Any], ready: dict[str, Prepared]) -> Trial:
    try:
        config = _absolute_paths(replace(base, fields))
        # The seed draws an imbalanced pool, and a pretext task is trained on the pool: then every seed is a setting.
        own = config.data.imbalance.kind != "none" and config.pretext.task != "none"
        setting = fingerprint(config.model_dump(mode="json", exclude=None if own else {"seed"}))
        if setting not in ready:
            ready[setting] = prepare(config)
    except ValueError as error:
        raise SweepError(f"trial {', '.join(f'{path}={value}' for path, value in fields.items())}: {error}") from error
    return Trial(fields, config, _run_uri(config, ready[setting].catalog))


def _run_uri(config: RunConfig, catalog: Catalog) -> str:
    mine = identity(config, catalog.fingerprint, weights_fingerprint(config.model.checkpoint))
    return join(config.root, f"{config.name}-{fingerprint(mine)}")


def _without_prefixes(trials: Sequence[Trial]) -> tuple[list[Trial], list[str]]:
    """Of trials that differ in nothing but how far they go, the longest: the shorter are its first rounds."""
    longest: dict[str, Trial] = {}
    notes = []
    for trial in trials:
        other = longest.get(trial.run)
        if other and other.config.rounds == trial.config.rounds:
            raise SweepError(
                f"{other.title} and {trial.title} are the same run: they differ in nothing that changes a pick"
            )
        if other:
            notes.append(f"{trial.title}: the first rounds of {other.title}; only the longer one is run")
        if not other or other.config.rounds < trial.config.rounds:
            longest[trial.run] = trial
    return list(longest.values()), notes


class Ledger:
    """`sweep.json`: what is varied, and for each trial its run directory, status, last round and error."""

    def __init__(self, plan: Plan, space: Space, about: Mapping[str, Any]) -> None:
        self.store = Store(plan.dir)
        self.about = {"fields": list(space), **about}
        self.entries = [_entry(trial) for trial in plan.trials]
        for entry, before in zip(self.entries, self._before(), strict=True):
            if before.get("status") == "stopped" and entry["status"] != "finished":
                entry.update(status="stopped", rounds=before["rounds"])
        self.write()

    def _before(self) -> list[dict[str, Any]]:
        there = self.store.read_json(SWEEP)["trials"] if self.store.has(SWEEP) else []
        known = {entry["run"]: entry for entry in there}
        return [known.get(entry["run"], {}) for entry in self.entries]

    def set(self, number: int, **changes: Any) -> None:
        """Change a trial's entry; the file is written when its status changes."""
        entry = self.entries[number]
        changed = changes.get("status", entry["status"]) != entry["status"]
        entry.update(changes)
        if changed:
            self.write()

    def write(self) -> None:
        """Replace the file."""
        self.store.write_json(SWEEP, {**self.about, "trials": self.entries})

    def count(self, status: Status) -> int:
        """Trials of a status."""
        return sum(entry["status"] == status for entry in self.entries)


def _entry(trial: Trial) -> dict[str, Any]:
    status: Status = "finished" if trial.finished else "waiting"
    last = Store(trial.run).child(trial.last_round).read_json(METRICS) if trial.finished else {}
    return {
        "fields": dict(trial.fields),
        "run": trial.run.rsplit("/", 1)[1],  # the folder may be moved
        "status": status,
        "rounds": trial.config.rounds if trial.finished else 0,
        "of": trial.config.rounds,
        "accuracy": accuracy(last),
        "error": "",
    }


def accuracy(metrics: Mapping[str, Any]) -> float | None:
    """The top-1 accuracy of a round for the table: test, else validation."""
    for section in ("test", "validation"):
        if metrics.get(section):
            return float(metrics[section]["top1"])
    return None


def share_features(plan: Plan, quiet: bool = False) -> int:
    """What trials share is made once, here, before any of them: pretext tasks and their losses, and with a frozen
    backbone the embedding of every image. Returns how many tables of embeddings there are.

    Trials find them complete: no image is decoded by any of them.
    """
    from alray import cluster
    from alray.progress import Stages
    from alray.train.columns import Columns
    from alray.train.learner import Linear

    tables = set()
    for ready in plan.prepared:
        config, images = ready.config, ready.catalog.format != "embeddings"
        linear, ordered = config.train.mode == "linear", ready.needs_pretext
        if not (linear or ordered or config.pretext.as_backbone):
            continue
        source = {part: getattr(config, part).model_dump(mode="json") for part in _SHARED}
        mark = fingerprint([ready.catalog.uri, source, linear, ordered])
        if mark in tables:
            continue
        tables.add(mark)
        stages = Stages(f"{config.name} · before the trials", quiet)
        columns = Columns(config, ready.catalog, cluster.start(config.resources) if images else None, ready.pool_rows)
        started = columns.with_backbone(stages)
        if ordered:
            columns.pretext_loss(ready.pool_rows[:1], stages)
        if linear:
            Linear(started, ready.catalog, columns.cluster).begin(stages)
    return len(tables)
