"""The sections of a report: the charts, tables and sentences under each heading."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from alray.report import charts
from alray.report.analysis import MARKS, Analysis, analyse, overall_ranks, value_table
from alray.report.balance import balance_section
from alray.report.claims import detectable_note, method_note
from alray.report.classes import classes_section
from alray.report.comparisons import LEAST_SEEDS
from alray.report.coverage import Coverage, cover
from alray.report.layout import Chart, Section, last_values, titled
from alray.report.metrics import Metric
from alray.report.panel import Panel
from alray.report.records import configuration_tables, runs_table
from alray.report.runs import RunHistory
from alray.report.statistics import Floats, labels_needed
from alray.report.tables import Table
from alray.report.timing import timing_section_parts


def sections(panel: Panel, shown: Sequence[Metric], found: Analysis | None) -> list[Section]:
    """All sections for which a panel has data, the most important first.

    shown: the accuracies, as `metrics` gives them; found: the analysis of the first of them; both are empty where no
    accuracy was measured.
    """
    main = shown[0] if shown else None
    runs = [line.run for line in panel.lines if line.run is not None]
    parts = []
    if main is not None and found is not None:
        parts = [_curves(panel, shown)]
        statistics = [_differences(panel, main, found), _wins(found), _efficiency(panel, main, found)]
        parts += [classes_section(panel), _areas(panel, shown, found), *statistics]
    elif runs:
        parts = [classes_section(panel)]
    if runs:
        coverage, why_not = _coverage(panel, runs)
        parts += [balance_section(panel), coverage, _time(panel, main), _records(panel, main, runs, why_not)]
    return [part for part in parts if part.charts or part.tables or part.notes]


def _curves(panel: Panel, shown: Sequence[Metric]) -> Section:
    drawn = [
        Chart(titled(s, m.name), charts.curves_chart(panel, s, m.scalar, m.axis, 100.0))
        for s in panel.settings for m in shown
        if any(panel.curves(s, method, m.scalar) for method in panel.methods)
    ]  # fmt: skip
    notes = [_about_seeds({len(panel.select(s, m)) for s in panel.settings for m in panel.methods} - {0})]
    if panel.cold_starts:
        notes.append("seed_set: how a strategy chose its seed set itself (a cold start); other seed sets were drawn.")
    if any(map(panel.stopped, panel.settings)):
        notes.append(
            "Where runs were stopped early because of their accuracy, lines show the survivors only: this is not a "
            "fair comparison."
        )
    return Section("curves", "Learning curves", tuple(notes), tuple(drawn))


def _about_seeds(numbers: Collection[int]) -> str:
    """What the lines and bands of a chart mean. numbers: of seeds, over all methods."""
    if max(numbers) == 1:
        return "Line: a single seed."
    band, thin = "Band: 95 % confidence interval of the mean", "Thin lines: single seeds"
    if min(numbers) >= LEAST_SEEDS:
        return f"Line: mean over seeds. {band}."
    if max(numbers) >= LEAST_SEEDS:
        return f"Line: mean over seeds. {band}, for strategies with {LEAST_SEEDS} or more seeds. {thin} of the others."
    return f"Line: mean over seeds. {thin}; a confidence band needs {LEAST_SEEDS} seeds."


def _values(panel: Panel, shown: Sequence[Metric]) -> Section:
    """The accuracies of single runs, without statistics."""
    table = value_table(panel, shown)
    note = "After the last round."
    if any("mean" in head for head in table.head):
        note += " Mean: over the labels, which is the area under the learning curve divided by the width of the budget."
    return Section("areas", table.title, (note,), (), (table,))


def _areas(panel: Panel, shown: Sequence[Metric], found: Analysis) -> Section:
    if panel.one_seed:
        return _values(panel, shown)
    notes = [
        f"The area under a learning curve, divided by the width of the budget, is the mean {shown[0].short} over the "
        f"budget. Linear: every label has the same weight. Log: every doubling of the labels has the same weight. "
        f"Last round: the {shown[0].short} after all labels were bought. {MARKS}",
    ]
    method = [
        method_note(found.everyone, "of every pair in every setting"),
        f"Bootstrap: the BCa interval, given for {LEAST_SEEDS} or more seeds. It is too narrow for few seeds: for "
        "normally distributed values the 95% interval contains the true mean in 83% of cases with 5 seeds and in 90% "
        "with 10; Student's interval contains it in 95%.",
    ]
    tables = [found.tables[name] for name in ("area",) if name in found.tables]
    for other in shown[1:]:
        table = analyse(panel, other.scalar, found.everyone.test).tables.get("area")
        tables += [Table(f"{table.title}, {other.name}", table.head, table.rows)] if table else []
    ranks = overall_ranks(panel, found.measure)
    if ranks.mean and len(panel.settings) > 1:  # with one setting, the table above has them
        rows = tuple((name, f"{rank:.2f}") for name, rank in sorted(ranks.mean.items(), key=lambda item: item[1]))
        over = f"{ranks.blocks} block{'s' if ranks.blocks > 1 else ''} (a seed of a setting each)"
        tables.append(Table(f"Mean rank over {over}", ("strategy", "rank"), rows))
    if not np.isnan(ranks.p):
        averaged = " (ranks averaged over the settings)" if ranks.blocks > ranks.seeds else ""
        method.append(
            f"Friedman's test of the hypothesis that all strategies have the same rank: p = {ranks.p:.2g}; "
            f"{ranks.seeds} blocks, one per seed{averaged}."
        )
    return Section("areas", "Area under the budget curve", tuple(notes), (), tuple(tables), tuple(method))


def _differences(panel: Panel, main: Metric, found: Analysis) -> Section:
    reference = panel.reference
    if reference is None or "differences" not in found.tables:
        return Section("differences", "Difference to random")
    drawn = [
        Chart(titled(s, f"{main.name} minus {reference}'s, paired by seed"),
              charts.difference_chart(panel, s, main.scalar, main.short))
        for s in panel.settings if panel.select(s, reference) and not panel.stopped(s)
    ]  # fmt: skip
    notes = (method_note(found.to_reference, f"against {reference}"), detectable_note(found.to_reference))
    title = f"Difference to {reference}"
    return Section("differences", title, (), tuple(drawn), (found.tables["differences"],), notes)


def _wins(found: Analysis) -> Section:
    if "wins" not in found.tables:
        enough = sum(pair.result.n >= found.everyone.needed for pair in found.everyone.pairs)
        if enough <= len(found.to_reference.pairs):  # the section on differences to the reference has said it
            return Section("wins", "Win matrix")
        note = f"None of the {enough} comparisons of two strategies with enough seeds shows a difference."
        return Section(
            "wins", "Win matrix", (note,), method=(method_note(found.everyone, "of every pair in every setting"),)
        )
    note = (
        "a/b: the strategy of the row is better than that of the column in a of the b settings in which both were "
        "compared."
    )
    method = [method_note(found.everyone, "of every pair in every setting")]
    if 0 < found.to_reference.comparisons < found.everyone.comparisons:
        method.append(
            "These are more comparisons than those with random sampling alone, and each p-value is corrected for all "
            "of them. A difference to random sampling that is claimed above may therefore not count as a win here."
        )
    return Section("wins", "Win matrix", (note,), (), (found.tables["wins"],), tuple(method))


def _efficiency(panel: Panel, main: Metric, found: Analysis) -> Section:
    reference = panel.reference
    if reference is None or "efficiency" not in found.tables:
        return Section("efficiency", "Label efficiency")
    drawn = [
        Chart(titled(s, f"labels {reference} needs for the same {main.short}"),
              charts.efficiency_chart(panel, s, _ratios(panel, s, main.scalar)))
        for s in panel.settings if panel.select(s, reference) and not panel.stopped(s)
    ]  # fmt: skip
    note = (
        f"How many labels {reference} needs for the accuracy of a strategy. A ratio above 1 means that the strategy "
        f"saves labels. A line ends where {reference} never reaches its accuracy."
    )
    method = (
        "Read from the mean curves, which isotonic regression makes non-decreasing. Intervals: bootstrap over paired "
        f"seeds (expanded percentiles), given for {LEAST_SEEDS} or more seeds."
    )
    tables = (found.tables["efficiency"],)
    return Section("efficiency", "Label efficiency", (note,), tuple(drawn), tables, (method,))


def _ratios(panel: Panel, setting: str, measure: str) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for method in panel.methods:
        pair = panel.paired(setting, method, panel.reference or "", measure) if method != panel.reference else None
        if pair is not None:
            ours, theirs = pair
            needed = labels_needed(ours.labels, ours.values.mean(axis=0), theirs.values.mean(axis=0))
            found[method] = ours.labels, np.where(np.isfinite(needed), needed / ours.labels, np.nan)
    return found


def _coverage(panel: Panel, runs: Sequence[RunHistory]) -> tuple[Section, str]:
    """The section, empty where no run has a coverage; then also a sentence on the reason."""
    found, left_out = cover(runs)
    about = (
        "The distance of a pool image to its nearest labeled image in embedding space: the largest (radius) and the "
        "mean over the pool."
    )
    notes: tuple[str, ...] = (about,)
    if not found:
        return Section("coverage", "Coverage"), f"There is no section on coverage: {left_out}."
    notes += (f"{left_out[0].upper()}{left_out[1:]}.",) if left_out else ()
    wide = _with_coverage(panel, found)
    drawn = [
        Chart(titled(s, title), charts.curves_chart(wide, s, scalar, title))
        for s in panel.settings if any(wide.select(s, method) for method in wide.methods)
        for scalar, title in (("coverage_radius", "radius (distance)"), ("coverage_mean", "mean distance"))
    ]  # fmt: skip
    columns = {"radius": ("coverage_radius", 4), "mean distance": ("coverage_mean", 4)}
    table = last_values(wide, "Coverage after the last round", columns)
    return Section("coverage", "Coverage", notes, tuple(drawn), (table,)), ""


def _with_coverage(panel: Panel, found: dict[str, Coverage]) -> Panel:
    """The runs whose coverage is known, with it as scalars."""
    lines = []
    for line in panel.lines:
        if line.run is not None and line.run.dir in found:
            own = found[line.run.dir]
            lines.append(replace(line, scalars={"coverage_radius": own.radius, "coverage_mean": own.mean}))
    return replace(panel, lines=tuple(lines))


def _time(panel: Panel, main: Metric | None) -> Section:
    parts = timing_section_parts(panel, main.scalar if main else "")
    if parts.short:
        return Section("time", "Time", parts.notes)
    drawn = [Chart("time by stage", charts.stages_chart(parts.stages), charts.stage_shades(parts.stages))]
    drawn += [
        Chart(titled(s, f"{main.short} against {parts.busy}"),
              charts.cost_chart(panel, points, f"{parts.busy} of training and extraction", main.axis))
        for s, points in parts.costs.items() if points and main
    ]  # fmt: skip
    return Section("time", "Time", (), tuple(drawn), (parts.table,), parts.notes)


def _records(panel: Panel, main: Metric | None, runs: Sequence[RunHistory], note: str) -> Section:
    tables = (runs_table(panel, main.scalar if main else ""), *configuration_tables(runs))
    return Section("records", "Runs and configuration", (note,) if note else (), (), tables)
