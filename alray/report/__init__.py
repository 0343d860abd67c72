"""Reports on finished rounds: one HTML file, tables for the terminal, Markdown and CSV, a picture."""

from __future__ import annotations

from collections.abc import Sequence

from alray.report.comparisons import Test
from alray.report.panel import Panel, arrange, panel
from alray.report.runs import Group, ReportError, RunHistory, grouped, load_all
from alray.report.tables import Table, as_csv, as_markdown, as_text, legend, tables
from alray.scalars import csv_text
from alray.store import Store, absolute

__all__ = ["ReportError", "report", "write_page"]

_NOTHING = "no run has an accuracy (test or validation) for every round: nothing to compare"


def report(dirs: Sequence[str], out: str | None = None, *, test: Test = "t", measure: str = "") -> str:
    """Write report.html (everything, in one file), report.md, report.csv, report.png and tables/*.csv; returns the
    tables for a terminal and where the files are.

    dirs: run directories, folders of them, or one CSV of somebody else's curves; several seeds of one strategy are
    shown as mean and spread. out: where to write; by default into the directory when one is given, else into ./report.
    test: of paired differences; measure: what is compared (an accuracy of metrics.csv), by default test top-1 accuracy,
    in segmentation mIoU. Raises ReportError when there is no run or no committed round, for runs of different tasks and
    for a measure that is none; StoreError where the output cannot be written.
    """
    if len(dirs) == 1 and dirs[0].endswith(".csv"):
        return _report_on_curves(dirs[0], out or "report", test, measure)
    from alray.report.curves import draw  # matplotlib, which a loop that only writes scalars does not need

    histories = load_all(dirs)
    groups, lines = grouped(histories), panel(histories)
    comparable = _comparable(lines, measure)
    store = Store(absolute(out or (dirs[0] if len(dirs) == 1 else "report")))
    store.write_bytes("report.png", draw(groups))
    store.write_bytes("report.csv", as_csv(groups).encode())
    added: list[Table] = []
    said: tuple[str, ...] = ()
    written = [store.at(name) for name in ("report.png", "report.md", "report.csv")]
    if comparable:
        added, said = write_page(store, lines, dirs, test=test, measure=measure)
        written.insert(0, store.at("report.html"))
    else:
        written.append(f"no report.html: {_NOTHING}")
    store.write_bytes("report.md", "\n\n".join([_markdown(groups), *map(as_markdown, added), *said, ""]).encode())
    texts = [as_text(table) for table in (*tables(groups), *added)]
    return "\n\n".join([*texts, legend(groups), *said, "\n".join(written)])


def _comparable(lines: Panel, measure: str) -> bool:
    """Whether there is an accuracy to compare runs by. Raises ReportError when the one that was asked for is none."""
    from alray.report.measures import measures

    found = bool(measures(lines))
    if measure and not found:
        raise ReportError(_NOTHING)
    return found and bool(measures(lines, measure))


def _report_on_curves(path: str, out: str, test: Test, measure: str) -> str:
    from alray.report.csv_curves import read_curves

    lines = arrange(read_curves(path))
    _comparable(lines, measure)
    store = Store(absolute(out))
    added, said = write_page(store, lines, [], test=test, measure=measure)
    store.write_bytes("report.md", "\n\n".join(["# Report", *map(as_markdown, added), *said, ""]).encode())
    return "\n\n".join([*map(as_text, added), *said, f"{store.at('report.html')}\n{store.at('report.md')}"])


def write_page(
    store: Store, lines: Panel, dirs: Sequence[str], *, test: Test = "t", measure: str = ""
) -> tuple[list[Table], tuple[str, ...]]:
    """Write report.html and tables/*.csv; returns the tables of statistics, and what their marks mean and what keeps
    them from saying more."""
    from alray.report.analysis import MARKS
    from alray.report.gallery import gallery
    from alray.report.page import page
    from alray.report.records import unfinished_trials
    from alray.report.sections import sections

    parts, found = sections(lines, test, measure)
    walls, note = gallery(lines)
    unfinished = unfinished_trials(dirs)
    title = ", ".join(sorted({line.run.name for line in lines.lines if line.run})) or "Learning curves"
    html = page(lines, found, parts, walls, note, unfinished, f"{title}: which labels to buy")
    store.write_bytes("report.html", html.encode())
    shown = [(part.id, number, table) for part in parts for number, table in enumerate(part.tables)]
    for name, number, table in shown:
        text = csv_text([dict(zip(table.head, row, strict=True)) for row in table.rows])
        store.write_bytes(f"tables/{name}{f'-{number}' if number else ''}.csv", text.encode())
    extra = [unfinished] if unfinished.rows else []
    compared = [table for name, _, table in shown if name not in ("records", "time", "balance", "coverage")]
    return [*extra, *compared], (MARKS, *found.warnings)


def _markdown(groups: Sequence[Group]) -> str:
    parts = [
        "# Report",
        "![accuracy and class balance against labels](report.png)",
        *map(as_markdown, tables(groups)),
        legend(groups).replace("\n*", "\n\n\\*"),
    ]
    runs = [
        f"* {run.strategy}, seed {run.seed}: {run.name}, {len(run.rounds)} rounds, `{run.dir}`{_worst(run)}"
        for group in groups
        for run in group.runs
    ]
    return "\n\n".join([*parts, "### Runs", "\n".join(runs)]) + "\n"


def _worst(run: RunHistory) -> str:
    test = run.rounds[-1]["test"]
    if not test or not test["worst_classes"]:
        return ""
    named = ", ".join(f"{item['class']} {100 * item['accuracy']:.1f} %" for item in test["worst_classes"])
    return f"; worst classes of the last round{' by pixel' if run.task == 'segmentation' else ''}: {named}"
