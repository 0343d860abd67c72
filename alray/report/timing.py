"""The cost of rounds: seconds by stage, and accuracy against the seconds that workers were busy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alray.config import fingerprint
from alray.durations import duration, unit
from alray.report.panel import Line, Panel
from alray.report.runs import RunHistory
from alray.report.statistics import Floats
from alray.report.tables import Table
from alray.rundir import PLAN, RunDir

_STAGES = ("pretext", "extract", "train", "evaluate", "vaal", "select", "label")
_MADE_OF = ("data", "model", "transform", "features", "pretext")


@dataclass(frozen=True)
class Timing:
    """Means over runs. stages: method -> stage -> seconds per run, for every stage that any run had; costs: setting ->
    method -> (busy seconds up to each round, accuracy in percent), empty without an accuracy; busy: GPU time or worker
    time. short: every run took less than a second; a sentence in `notes` then says all."""

    stages: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, Mapping[str, tuple[Floats, Floats]]]
    busy: str
    notes: tuple[str, ...]
    table: Table
    short: bool


def timing_section_parts(panel: Panel, measure: str = "") -> Timing:
    """Everything that the section on time shows. measure: the scalar that runs are compared by, if there is one."""
    spent = _spent([line for line in panel.lines if line.run is not None])
    names = _stages(spent.values())
    stages, busy = {}, {}
    for method in panel.methods:
        known = [spent[id(line)] for line in panel.lines if line.method == method and id(line) in spent]
        if not known:
            continue
        stages[method] = {name: float(np.mean([run.seconds[name].sum() for run in known])) for name in names}
        busy[method] = len(known), float(np.mean([run.busy[-1] for run in known]))
    stages = _joined(stages)
    gpu = bool(spent) and all(run.gpu for run in spent.values())
    kind = "GPU time" if gpu else "worker time"
    costs = {setting: _costs(panel, setting, measure, spent) for setting in panel.settings if measure}
    sums = [sum(of_stage.values()) for of_stage in stages.values()]
    if max(sums, default=0.0) < 1:
        said = f"A run took {duration(min(sums, default=0.0))} to {duration(max(sums, default=0.0))} of wall time."
        return Timing(stages, costs, kind, (said,), Table("Time per run", (), ()), True)
    notes = (
        f"Wall time of each stage, summed over the rounds, mean per run. {kind[0].upper()}{kind[1:]}: time of training "
        f"and extraction, times the number of workers{'' if gpu else ' (not all runs had GPUs)'}. Work that the first "
        "of several runs does for all of them (embeddings of a frozen backbone, a pretext task) counts in full for "
        "each. A sweep does this work before its trials, so that no trial's time contains it. Times on machines with "
        "other load are not comparable.",
        *planned_sentences([line.run for line in panel.lines if line.run is not None]),
        *restart_sentences([line.run for line in panel.lines if line.run is not None]),
    )
    return Timing(stages, costs, kind, notes, _table(stages, busy, kind), False)


def planned_sentences(runs: Sequence[RunHistory]) -> list[str]:
    """A sentence that holds the plans of the runs against what they took, if they were planned."""
    planned: dict[str, list[float]] = {}
    taken: dict[str, list[float]] = {}
    for run in {run.dir: run for run in runs}.values():
        if (plan := run.files.noted(PLAN)) is None:
            continue
        for stage, seconds in plan["seconds"].items():
            planned.setdefault(stage, []).append(sum(seconds))
            taken.setdefault(stage, []).append(sum(float(m["seconds"].get(stage, 0.0)) for m in run.rounds))
    if not planned:
        return []
    count = max(map(len, planned.values()))
    pairs = [(stage, sum(planned[stage]) / count, sum(taken[stage]) / count) for stage in planned]
    pairs.append(("in all", sum(pair[1] for pair in pairs), sum(pair[2] for pair in pairs)))
    said = "; ".join(f"{stage} {duration(before)}, took {duration(after)}" for stage, before, after in pairs)
    return [f"Planned before the start, mean per run that was planned: {said}. Stops before the last epoch take less."]


def restart_sentences(runs: Sequence[RunHistory]) -> list[str]:
    """A sentence that says how often workers of the runs were lost and started again, if any were."""
    different = {run.dir: run for run in runs}.values()
    seconds = [float(one["seconds"]) for run in different for m in run.rounds for one in m.get("restarts", [])]
    if not seconds:
        return []
    times = "once" if len(seconds) == 1 else f"{len(seconds)} times"
    return [
        f"Training lost workers and went on from its last checkpoint {times}; from there until it trained again this "
        f"took {duration(sum(seconds))} in all, which is in the times above."
    ]


def _joined(stages: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The stages with those joined to 'other' that are less than a hundredth of the time of every method."""
    names = list(next(iter(stages.values()), {}))
    small = [name for name in names if all(one[name] < sum(one.values()) / 100 for one in stages.values())]
    if len(small) < 2:
        return {method: dict(one) for method, one in stages.items()}
    return {
        method: {name: one[name] for name in names if name not in small} | {"other": sum(one[name] for name in small)}
        for method, one in stages.items()
    }


def _table(stages: Mapping[str, Mapping[str, float]], busy: Mapping[str, tuple[int, float]], kind: str) -> Table:
    """A row per method, in the unit that fits all numbers. busy: method -> number of runs, mean busy seconds."""
    sums = [sum(of_stage.values()) for of_stage in stages.values()]
    size, symbol = unit(max(*sums, *(spent for _, spent in busy.values())))
    rows = []
    for method, of_stage in stages.items():
        runs, spent = busy[method]
        cells = [f"{seconds / size:,.2f}" for seconds in (*of_stage.values(), sum(of_stage.values()), spent)]
        rows.append((method, str(runs), *cells))
    names = next(iter(stages.values()), {})
    head = ("strategy", "runs", *(f"{name} ({symbol})" for name in (*names, "all stages", kind)))
    return Table("Time per run, mean", head, tuple(rows))


@dataclass(frozen=True)
class _Spent:
    """One run. seconds: stage -> (r,) for every stage that any run had; busy (r,): seconds of all workers together up
    to the end of each round's training."""

    seconds: Mapping[str, Floats]
    busy: Floats
    gpu: bool


def _spent(lines: Sequence[Line]) -> dict[int, _Spent]:
    """By id() of the line."""
    runs = {id(line): line.run for line in lines if line.run is not None}
    stages = {name for run in runs.values() for metrics in run.rounds for name in metrics["seconds"]}
    seconds = {
        key: {name: np.array([float(m["seconds"].get(name, 0.0)) for m in run.rounds]) for name in stages}
        for key, run in runs.items()
    }
    for stage in stages & {"extract", "pretext"}:
        together: dict[tuple[str, ...], list[Floats]] = {}
        for line in lines:
            together.setdefault(_sharers(line, stage), []).append(seconds[id(line)][stage])
        for members in together.values():
            most = max(values[0] for values in members)
            for values in members:
                values[0] = most
    return {key: _Spent(seconds[key], *_busy(run, seconds[key])) for key, run in runs.items()}


def _sharers(line: Line, stage: str) -> tuple[str, ...]:
    """The same for all runs that share this stage of the first round, which the first of them computes."""
    assert line.run is not None
    same = line.run.about["identity"]
    made_of = fingerprint([same.get(part) for part in ("data_fingerprint", "weights_fingerprint", *_MADE_OF)])
    if stage == "extract" and line.run.frozen:
        return (made_of,)
    if stage == "pretext":
        return (made_of,) if same["pretext"]["as_backbone"] else (made_of, line.strategy)
    return (line.setting, line.method, str(line.seed))


def _busy(run: RunHistory, seconds: Mapping[str, Floats]) -> tuple[Floats, bool]:
    cluster = RunDir(run.dir).cluster()
    taken = {**RunDir(run.dir).config().get("resources", {}), **cluster}
    workers, actors = (
        1 if (n := taken.get(name, 1)) == "auto" else int(n) for name in ("train_workers", "extract_actors")
    )
    each = {"train": 1 if run.frozen else workers, "extract": actors}
    each |= {"pretext": workers, "vaal": workers}
    spent = np.sum([seconds[stage] * number for stage, number in each.items() if stage in seconds], axis=0)
    return np.cumsum(spent), bool(cluster.get("use_gpu"))


def _stages(spent: Iterable[_Spent]) -> list[str]:
    """All stages of the runs, in the order in which a round has them."""
    found = {name for run in spent for name in run.seconds}
    return [name for name in _STAGES if name in found] + sorted(found.difference(_STAGES))


def _costs(panel: Panel, setting: str, measure: str, spent: Mapping[int, _Spent]) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for method in panel.methods:
        lines = [line for line in panel.select(setting, method) if id(line) in spent and measure in line.scalars]
        values = [line.scalars[measure] for line in lines]
        if lines and all(v is not None for row in values for v in row):
            seconds = np.mean([spent[id(line)].busy for line in lines], axis=0)
            if seconds[0] > 0:
                found[method] = seconds, 100 * np.mean(np.array(values, np.float64), axis=0)
    return found
