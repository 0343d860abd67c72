"""The section on single classes: how well each is recognised, and how many of the labels it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alray.labeling.state import without_image
from alray.report.layout import Section, titled
from alray.report.panel import Panel
from alray.report.runs import RunHistory
from alray.report.statistics import Floats
from alray.report.tables import NOTHING, Table

MOST = 10
"""With more than twice as many classes, only so many of the worst and of the best are shown."""


@dataclass(frozen=True)
class _PerClass:
    """Of one method in one setting, means over seeds after the last round: values (c,) fractions, NaN where a class is
    not in the test set, None without a test set; labels (c,)."""

    values: Floats | None
    labels: Floats
    seeds: int


def classes_section(panel: Panel) -> Section:
    """Accuracy (segmentation: intersection over union) and labels of each class, by strategy."""
    tables, notes = [], []
    noun, (_, name) = panel.counted.noun, panel.counted.per_class
    for setting in panel.settings:
        runs = {method: _runs(panel, setting, method) for method in panel.methods}
        found = {method: _per_class(of_method) for method, of_method in runs.items() if of_method}
        first = next((of_method[0] for of_method in runs.values() if of_method), None)
        if first is None or len({len(one.labels) for one in found.values()}) > 1:
            continue
        made, left_out = _tables(setting, first, found)
        tables += made
        notes += [left_out] if left_out else []
    measured = any(len(table.bars) for table in tables)
    title = f"{name[0].upper()}{name[1:]}"
    about = f"{title} on the test set and l" if measured else "L"
    about += f"abeled {noun}s of each class, seed set included, after the last round"
    named = [line.run for line in panel.lines if line.run is not None]
    notes += [f"{run.name}: {said}." for run in named if (said := without_image(run.files))]
    notes.insert(0, f"{about}{'' if panel.one_seed else '; means over seeds'}.")
    title = f"{title} per class" if measured else "Labels per class"
    return Section("classes", title, tuple(dict.fromkeys(notes)) if tables else (), (), tuple(tables))


def _runs(panel: Panel, setting: str, method: str) -> list[RunHistory]:
    return [line.run for line in panel.select(setting, method) if line.run is not None]


def _per_class(runs: Sequence[RunHistory]) -> _PerClass:
    key = runs[0].counted.per_class[0]
    labels = np.mean([run.rounds[-1]["labeled_set"]["counts"] for run in runs], axis=0)
    measured = [test[key] for run in runs if (test := run.rounds[-1]["test"]) and key in test]
    if not measured:
        return _PerClass(None, labels, len(runs))
    values = np.array([[np.nan if value is None else value for value in one] for one in measured], np.float64)
    return _PerClass(_mean(values), labels, len(runs))


def _mean(values: Floats) -> Floats:
    """(k, c) -> (c,), without the NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=0) / known.sum(axis=0))


def _tables(setting: str, run: RunHistory, found: dict[str, _PerClass]) -> tuple[list[Table], str]:
    """The tables of a setting, and a sentence on classes that are left out."""
    noun, name = run.counted.noun, run.counted.per_class[1]
    values = [one.values for one in found.values() if one.values is not None]
    by = _mean(np.array(values)) if values else np.mean([one.labels for one in found.values()], axis=0)
    test = (run.rounds[-1]["test"] or {}).get("per_class_count")
    sizes = np.zeros(len(by)) if test is None else np.asarray(test)
    known = np.flatnonzero(~np.isnan(by))
    # Of classes with equal values, those with more images in the test set say more: they come first.
    lowest, highest = (known[np.lexsort((-sizes[known], sign * by[known]))].tolist() for sign in (1, -1))
    missing = len(by) - len(known)
    said = f"{missing:,} of {len(by):,} classes have no test {noun}: they are not in the tables." if missing else ""
    what = name if values else f"number of labeled {noun}s"
    if len(known) <= 2 * MOST:
        chosen = {f"All classes, lowest {what} first": lowest}
    else:
        chosen = {
            f"The {MOST} classes with the lowest {what}": lowest[:MOST],
            f"The {MOST} classes with the highest {what}": highest[:MOST],
        }
    return [_table(title, setting, run, found, test, order) for title, order in chosen.items()], said


def _table(
    title: str,
    setting: str,
    run: RunHistory,
    found: dict[str, _PerClass],
    test: Sequence[int] | None,
    order: Sequence[int],
) -> Table:
    head = ["setting", "class", *([f"test {run.counted.noun}s"] if test else [])]
    bars, several = [], any(one.seeds > 1 for one in found.values())
    for method, one in found.items():
        if one.values is not None:
            bars.append(f"{method} %")
            head.append(bars[-1])
        head.append(f"{method} labels")
    rows = []
    for number in order:
        row = [setting or "all", run.classes[number], *([_short(test[number])] if test else [])]
        for one in found.values():
            if one.values is not None:
                row.append(NOTHING if np.isnan(one.values[number]) else f"{100 * one.values[number]:.1f}")
            row.append(_short(float(one.labels[number]), several))
        rows.append(tuple(row))
    return Table(titled(setting, title), tuple(head), tuple(rows), frozenset(bars))


def _short(count: float, mean: bool = False) -> str:
    """'12', '3,100', '1.2 M'; means below 100 have a digit after the point."""
    if count >= 1e6:
        return f"{count / 1e6:,.1f} M"
    return f"{count:.1f}" if mean and count < 100 else f"{count:,.0f}"
