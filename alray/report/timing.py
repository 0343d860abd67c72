"""What rounds cost: seconds by stage, and accuracy against the seconds that workers were busy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alray.report.panel import Line, Panel
from alray.report.runs import RunHistory
from alray.report.statistics import Floats
from alray.report.tables import Table
from alray.store import Store

STAGES = ("extract", "train", "evaluate", "select", "label")


@dataclass(frozen=True)
class Timing:
    """Means over runs. stages: method -> stage -> seconds per run; costs: setting -> method -> (busy seconds up to each
    round, accuracy in percent); unit: what busy seconds are of."""

    stages: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, Mapping[str, tuple[Floats, Floats]]]
    unit: str
    notes: tuple[str, ...]
    table: Table


def timing_section_parts(panel: Panel, measure: str) -> Timing:
    """Everything the section on time shows."""
    known = {id(line): _workers(line.run) for line in panel.lines if line.run is not None}
    stages, rows = {}, []
    for method in panel.methods:
        lines = [line for line in panel.lines if line.method == method and line.run is not None]
        if not lines:
            continue
        stages[method] = {stage: float(np.mean([sum(_seconds(line, stage)) for line in lines])) for stage in STAGES}
        busy = float(np.mean([_busy(line, known[id(line)])[-1] for line in lines]))
        cells = [f"{stages[method][stage]:.2f}" for stage in STAGES]
        rows.append((method, str(len(lines)), *cells, f"{sum(stages[method].values()):.2f}", f"{busy:.2f}"))
    gpu = bool(known) and all(workers.gpu for workers in known.values())
    unit = "GPU-seconds" if gpu else "worker-seconds"
    costs = {setting: _costs(panel, setting, measure, known) for setting in panel.settings}
    head = ("strategy", "runs", *STAGES, "sum", unit)
    notes = (
        f"Wall seconds of the stages, mean per run; {unit}: training and extraction times their workers"
        f"{'' if gpu else ' (not all runs had GPUs)'}. An extraction that a sweep shares is made before its trials and "
        "in none of their times. Runs on shared machines are timed as they were: compare with care.",
    )
    return Timing(stages, costs, unit, notes, Table("Seconds per run, mean", head, tuple(rows)))


@dataclass(frozen=True)
class _Workers:
    train: int
    extract: int
    gpu: bool


def _workers(run: RunHistory) -> _Workers:
    store = Store(run.dir)
    resources = store.read_json("config.json").get("resources", {}) if store.has("config.json") else {}
    cluster = store.read_json("cluster.json") if store.has("cluster.json") else {}
    linear = run.about["identity"]["train"]["mode"] == "linear"
    train = 1 if linear else int(resources.get("train_workers", 1))
    return _Workers(train, int(resources.get("extract_actors", 1)), bool(cluster.get("use_gpu")))


def _seconds(line: Line, stage: str) -> list[float]:
    assert line.run is not None
    return [float(metrics["seconds"].get(stage, 0.0)) for metrics in line.run.rounds]


def _busy(line: Line, workers: _Workers) -> Floats:
    """(r,) seconds of workers up to and with the training of each round."""
    train = np.array(_seconds(line, "train")) * workers.train
    extract = np.array(_seconds(line, "extract")) * workers.extract
    return np.asarray(np.cumsum(train + extract))


def _costs(panel: Panel, setting: str, measure: str, known: Mapping[int, _Workers]) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for method in panel.methods:
        lines = [line for line in panel.select(setting, method) if id(line) in known and measure in line.scalars]
        values = [line.scalars[measure] for line in lines]
        if lines and all(v is not None for row in values for v in row):
            seconds = np.mean([_busy(line, known[id(line)]) for line in lines], axis=0)
            if seconds[0] > 0:
                found[method] = seconds, 100 * np.mean(np.array(values, np.float64), axis=0)
    return found
