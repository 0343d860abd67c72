"""The sections of a report: which charts, tables and sentences stand under which heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alray.report import charts
from alray.report.analysis import MARKS, Analysis, analyse, method_note, overall_ranks
from alray.report.comparisons import LEAST_SEEDS, Test
from alray.report.coverage import Coverage, cover
from alray.report.panel import Panel
from alray.report.records import configuration_tables, runs_table
from alray.report.runs import RunHistory
from alray.report.statistics import Floats, labels_for
from alray.report.tables import NOTHING, Table
from alray.report.timing import timing_section_parts

NAMES = {
    "test_top1": "test top-1 accuracy", "test_balanced_accuracy": "balanced test accuracy",
    "validation_top1": "validation top-1 accuracy",
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart with what stands above it."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One heading of a report."""

    id: str
    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


def measures(panel: Panel) -> list[str]:
    """The accuracies worth showing: test (else validation) top-1, and balanced accuracy where it is another number."""
    main = "test_top1" if panel.has("test_top1") else "validation_top1"
    balanced = "test_balanced_accuracy"
    differs = any(
        abs((a or 0) - (b or 0)) > 1e-3
        for line in panel.lines
        for a, b in zip(line.scalars.get(main, ()), line.scalars.get(balanced, ()), strict=False)
    )
    found = [name for name in (main, balanced) if panel.has(name)]
    return found[:1] if len(found) == 2 and not differs else found


def sections(panel: Panel, test: Test = "t", measure: str = "") -> tuple[list[Section], Analysis]:
    """All sections that the data of a panel allow, and the analysis of the main measure."""
    shown = measures(panel)
    found = analyse(panel, measure or shown[0], test)
    runs = [line.run for line in panel.lines if line.run is not None]
    parts = [
        _curves(panel, shown),
        _areas(panel, shown, found),
        _differences(panel, found),
        _wins(panel, found),
        _efficiency(panel, found),
        *([_balance(panel), _coverage(panel, runs), _time(panel, found.measure)] if runs else []),
        *([_records(panel, found.measure, runs)] if runs else []),
    ]
    return [part for part in parts if part.charts or part.tables or part.notes], found


def _titled(setting: str, text: str) -> str:
    return f"{text} · {setting}" if setting else text


def _curves(panel: Panel, shown: Sequence[str]) -> Section:
    drawn = [
        Chart(_titled(s, NAMES.get(m, m)), charts.curves_chart(panel, s, m, "accuracy (%)", 100.0))
        for s in panel.settings for m in shown
    ]  # fmt: skip
    seeds = min(
        (len(panel.select(s, m)) for s in panel.settings for m in panel.methods if panel.select(s, m)), default=0
    )
    band = "band: 95 % confidence interval of the mean" if seeds >= LEAST_SEEDS else (
        f"thin lines: single seeds (a band needs {LEAST_SEEDS})"
    )  # fmt: skip
    return Section("curves", "Learning curves", (f"Line: mean over seeds; {band}.",), tuple(drawn))


def _areas(panel: Panel, shown: Sequence[str], found: Analysis) -> Section:
    notes = [
        f"The area under a curve over the width of its budget is an accuracy: the mean over the budget, each label "
        f"(linear) or each doubling of labels (log) counting the same. {MARKS}",
        method_note(found.everyone, "of every pair in every setting"),
    ]
    tables = [found.tables[name] for name in ("area",) if name in found.tables]
    for other in shown:
        if other != found.measure:
            table = analyse(panel, other, found.everyone.test).tables.get("area")
            tables += [Table(f"{table.title}, {NAMES.get(other, other)}", table.head, table.rows)] if table else []
    ranks, p, blocks = overall_ranks(panel, found.measure)
    if ranks:
        rows = tuple((name, f"{rank:.2f}") for name, rank in sorted(ranks.items(), key=lambda item: item[1]))
        tables.append(Table(f"Mean rank over {blocks} blocks (a seed of a setting each)", ("strategy", "rank"), rows))
        if not np.isnan(p):
            notes.append(
                f"Friedman's test that all strategies rank alike: p = {p:.2g} (blocks of one seed are related)."
            )
    return Section("areas", "Area under the budget curve", tuple(notes), (), tuple(tables))


def _differences(panel: Panel, found: Analysis) -> Section:
    reference = panel.reference
    if reference is None or "differences" not in found.tables:
        return Section("differences", "Difference to random")
    drawn = [
        Chart(_titled(s, f"{NAMES.get(found.measure, found.measure)} minus {reference}'s, paired by seed"),
              charts.difference_chart(panel, s, found.measure))
        for s in panel.settings
    ]  # fmt: skip
    notes = (
        method_note(found.to_reference, f"against {reference}"),
        "Detectable: the true difference that this many seeds find four times in five, given how much the differences "
        "vary (one test, uncorrected).",
    )
    return Section("differences", f"Difference to {reference}", notes, tuple(drawn), (found.tables["differences"],))


def _wins(panel: Panel, found: Analysis) -> Section:
    if "wins" not in found.tables:
        return Section("wins", "Win matrix")
    note = "A cell counts the settings in which the strategy of the row is better than that of the column, of those in "
    note += "which both were compared. " + method_note(found.everyone, "of every pair in every setting")
    return Section("wins", "Win matrix", (note,), (), (found.tables["wins"],))


def _efficiency(panel: Panel, found: Analysis) -> Section:
    if panel.reference is None or "efficiency" not in found.tables:
        return Section("efficiency", "Label efficiency")
    drawn = [
        Chart(_titled(s, f"labels {panel.reference} needs for the same accuracy"),
              charts.efficiency_chart(panel, s, _ratios(panel, s, found.measure)))
        for s in panel.settings
    ]  # fmt: skip
    note = (
        f"The mean curve of {panel.reference} is made non-decreasing and read backwards. Above 1 labels are saved; a "
        f"line ends where {panel.reference} never gets that far. Intervals: bootstrap over paired seeds."
    )
    return Section("efficiency", "Label efficiency", (note,), tuple(drawn), (found.tables["efficiency"],))


def _ratios(panel: Panel, setting: str, measure: str) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for method in panel.methods:
        pair = panel.paired(setting, method, panel.reference or "", measure) if method != panel.reference else None
        if pair is not None:
            ours, theirs = pair
            needed = labels_for(ours.values.mean(axis=0), ours.labels, theirs.values.mean(axis=0))
            found[method] = ours.labels, np.where(np.isfinite(needed), needed / ours.labels, np.nan)
    return found


def _balance(panel: Panel) -> Section:
    drawn = []
    entropy = "labeled_normalised_entropy"
    for setting in panel.settings:
        chart = charts.curves_chart(panel, setting, entropy, "normalised entropy (1 = balanced)")
        drawn.append(Chart(_titled(setting, "class balance of the labeled set"), chart))
        if _any(panel, setting, "labeled_empty_classes"):
            chart = charts.curves_chart(panel, setting, "labeled_empty_classes", "classes without a label")
            drawn.append(Chart(_titled(setting, "empty classes"), chart))
        counts = {method: _counts(panel, setting, method) for method in panel.methods}
        counts = {method: found for method, found in counts.items() if len(found)}
        drawn.append(Chart(_titled(setting, "labels per class, sorted"), charts.counts_chart(panel, setting, counts)))
    table = _last_values(
        panel, "Class balance after the last round",
        {"entropy": ("labeled_normalised_entropy", 4), "empty classes": ("labeled_empty_classes", 1),
         "KL to the pool": ("labeled_kl_to_pool", 4)},
    )  # fmt: skip
    return Section("balance", "Class balance", (), tuple(drawn), (table,))


def _counts(panel: Panel, setting: str, method: str) -> Floats:
    """(seeds, classes) labels per class in the last round, each row descending."""
    runs = [line.run for line in panel.select(setting, method) if line.run is not None]
    counts = [sorted(run.rounds[-1]["labeled_set"]["counts"], reverse=True) for run in runs]
    return np.array(counts, np.float64)


def _any(panel: Panel, setting: str, scalar: str) -> bool:
    return any(
        any(curves.values.any() for curves in (panel.curves(setting, method, scalar),) if curves is not None)
        for method in panel.methods
    )


def _last_values(panel: Panel, title: str, columns: dict[str, tuple[str, int]]) -> Table:
    rows = []
    for setting in panel.settings:
        for method in panel.methods:
            found = {name: panel.curves(setting, method, scalar) for name, (scalar, _) in columns.items()}
            cells = [_spread(found[name], digits) for name, (_, digits) in columns.items()]
            if any(cell != NOTHING for cell in cells):
                rows.append((setting or "all", method, *cells))
    return Table(title, ("setting", "strategy", *columns), tuple(rows))


def _spread(curves: object, digits: int) -> str:
    values = getattr(curves, "values", None)
    if values is None:
        return NOTHING
    last = values[:, -1]
    spread = f" ± {last.std(ddof=1):.{digits}f}" if len(last) > 1 else ""
    return f"{last.mean():.{digits}f}{spread}"


def _coverage(panel: Panel, runs: Sequence[RunHistory]) -> Section:
    found, left_out = cover(runs)
    about = "Distance of a pool image to its nearest labeled image in embedding space: largest (radius) and mean."
    notes: tuple[str, ...] = (about,)
    notes += (f"{left_out[0].upper()}{left_out[1:]}.",) if left_out else ()
    if not found:
        return Section("coverage", "Coverage", notes)
    wide = _with_coverage(panel, found)
    drawn = [
        Chart(_titled(s, title), charts.curves_chart(wide, s, scalar, title))
        for s in panel.settings if any(wide.select(s, method) for method in wide.methods)
        for scalar, title in (("coverage_radius", "radius (distance)"), ("coverage_mean", "mean distance"))
    ]  # fmt: skip
    columns = {"radius": ("coverage_radius", 4), "mean distance": ("coverage_mean", 4)}
    table = _last_values(wide, "Coverage after the last round", columns)
    return Section("coverage", "Coverage", notes, tuple(drawn), (table,))


def _with_coverage(panel: Panel, found: dict[str, Coverage]) -> Panel:
    """The panel of the runs whose coverage is known, with it as scalars."""
    lines = []
    for line in panel.lines:
        if line.run is not None and line.run.dir in found:
            own = found[line.run.dir]
            lines.append(replace(line, scalars={"coverage_radius": own.radius, "coverage_mean": own.mean}))
    return replace(panel, lines=tuple(lines))


def _time(panel: Panel, measure: str) -> Section:
    parts = timing_section_parts(panel, measure)
    drawn = [Chart("seconds by stage", charts.stages_chart(parts.stages))]
    drawn += [
        Chart(_titled(s, f"accuracy against {parts.unit}"),
              charts.cost_chart(panel, points, f"{parts.unit} of training and extraction, log scale", "accuracy (%)"))
        for s, points in parts.costs.items() if points
    ]  # fmt: skip
    return Section("time", "Time", parts.notes, tuple(drawn), (parts.table,))


def _records(panel: Panel, measure: str, runs: Sequence[RunHistory]) -> Section:
    tables = (runs_table(panel, measure), *configuration_tables(runs))
    return Section("records", "Runs and configuration", (), (), tables)
