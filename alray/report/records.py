"""The record of a comparison, with which it can be repeated: runs with hashes of their picks, configuration, versions,
machines, and the trials of a sweep that did not finish."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alray.config.fields import flat_tree
from alray.report.metrics import metric
from alray.report.panel import Line, Panel
from alray.report.runs import RunHistory
from alray.report.tables import NOTHING, Table
from alray.rundir import SWEEP, RunDir
from alray.store import Store, absolute


def runs_table(panel: Panel, measure: str) -> Table:
    """A row per run: strategy, setting, seed, progress, last accuracy and the hash of its picks. measure: a scalar,
    empty where no accuracy was measured."""
    rows = [_run_row(line, measure) for line in sorted((*panel.lines, *panel.incomplete), key=_order)]
    last = (f"last {metric(measure, panel.counted).short} %",) if measure else ()
    head = ("strategy", "setting", "seed", "rounds", "labels", *last, "hash of the picks", "directory")
    return Table("Runs", head, tuple(rows))


def _order(line: Line) -> tuple[str, str, int]:
    return line.setting, line.method, line.seed


def _run_row(line: Line, measure: str) -> tuple[str, ...]:
    values = line.scalars.get(measure, (None,))
    last = (NOTHING if values[-1] is None else f"{100 * values[-1]:.2f}",) if measure else ()
    picks = picks_hash(line.run) if line.run else NOTHING
    where = line.run.dir.rsplit("/", 1)[1] if line.run else NOTHING
    return (line.method, line.setting or "all", str(line.seed), str(len(line.labels)), f"{line.labels[-1]:,.0f}", *last,
            picks, where)  # fmt: skip


def picks_hash(run: RunHistory) -> str:
    """12 hex digits of the rows that were chosen (a cold start's first), in order of choice. Equal picks have equal
    hashes on every machine."""
    digest = hashlib.blake2b(digest_size=6)
    start = run.files.cold_start()
    for step in [*([start] if start else []), *run.files.bought()]:
        digest.update(np.ascontiguousarray(step.rows, np.int64).tobytes())
    return digest.hexdigest()


def configuration_tables(runs: Sequence[RunHistory]) -> list[Table]:
    """The fields that differ between runs, with their values; the fields that do not; versions and machines."""
    trees = [flat_tree(run.about["identity"]) for run in runs]
    every = dict.fromkeys(path for tree in trees for path in tree)
    # A mapping that is empty in one run and not in another is shown by its fields alone.
    paths = [path for path in every if not any(other.startswith(f"{path}.") for other in every)]
    shared: list[tuple[str, str]] = []
    differ: list[tuple[str, str]] = []
    for path in paths:
        values = list(dict.fromkeys(_text(tree.get(path)) for tree in trees))
        (shared if len(values) == 1 else differ).append((path, ", ".join(values[:20]) + (" …" if values[20:] else "")))
    tables = [Table("Options in which the runs differ", ("field", "values"), tuple(differ))] if differ else []
    return [*tables, Table("Options that all runs share", ("field", "value"), tuple(shared)), _machines(runs)]


def _has(cluster: Mapping[str, Any]) -> str:
    kinds = f" ({', '.join(cluster['accelerators'])})" if cluster.get("accelerators") else ""
    return f"{cluster['cpus']:g} CPUs, {cluster['gpus']:g} GPUs{kinds}"


def _machines(runs: Sequence[RunHistory]) -> Table:
    kinds: dict[tuple[str, str], int] = {}
    for run in runs:
        versions = ", ".join(f"{name} {number}" for name, number in run.about.get("versions", {}).items())
        machine = dict(run.about.get("machine", {}))
        found = RunDir(run.dir).cluster()
        machine |= {"cluster": _has(found)} if found else {}
        key = versions, ", ".join(f"{name} {value}" for name, value in machine.items())
        kinds[key] = kinds.get(key, 0) + 1
    rows = tuple((*key, str(count)) for key, count in kinds.items())
    return Table("Versions and machines", ("versions", "machine", "runs"), rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def unfinished_trials(dirs: Sequence[str]) -> Table:
    """Trials of sweeps (folders with a sweep.json) that failed, were stopped early, or have not been run yet. dirs: as
    given to `report`."""
    rows = []
    for folder in dirs:
        store = Store(absolute(folder))
        for trial in store.read_json(SWEEP)["trials"] if store.has(SWEEP) else []:
            if trial["status"] != "finished":
                what = ", ".join(f"{path} {value}" for path, value in trial["fields"].items())
                rows.append((what, trial["status"], f"{trial['rounds']}/{trial['of']}", trial["error"], trial["run"]))
    return Table("Trials that did not finish", ("trial", "status", "rounds", "error", "directory"), tuple(rows))
