"""Reports on finished rounds: one HTML file, tables for the terminal, Markdown and CSV, a picture."""

from __future__ import annotations

from collections.abc import Sequence

from alray.checksums import REPORT_LIST
from alray.report.comparisons import Test
from alray.report.escape import code, markdown
from alray.report.panel import Line, Panel, arrange, panel
from alray.report.runs import ReportError, load_all
from alray.report.tables import Table, as_csv, as_markdown, as_text, legend, table_csv, tables
from alray.store import Store, absolute

__all__ = ["ReportError", "report", "write_page"]

_NOTHING = "no run has an accuracy (test or validation) for every round: nothing to compare"


def report(dirs: Sequence[str], out: str | None = None, *, test: Test = "t", measure: str = "") -> str:
    """Write report.html (everything, in one file), report.md, report.csv, report.png and tables/*.csv.

    dirs: run directories, folders of them, or one CSV of learning curves; several seeds of one strategy are shown as
    mean and spread. out: where to write; by default the directory if one is given, else ./report. test: of paired
    differences. measure: the accuracy (a column of metrics.csv) that runs are compared by; by default test top-1
    accuracy, in segmentation mIoU. Returns the tables for a terminal and the paths of the files. Raises ReportError
    when there is no run or no committed round, for runs of different tasks and when runs cannot be compared by
    `measure`; StoreError where the output cannot be written.
    """
    if len(dirs) == 1 and dirs[0].endswith(".csv"):
        return _report_on_curves(dirs[0], out or "report", test, measure)
    from alray.report.picture import picture  # imports matplotlib, which runs without a report do not need

    lines = panel(load_all(dirs))
    comparable = _comparable(lines, measure)
    store = Store(absolute(out or (dirs[0] if len(dirs) == 1 else "report")), REPORT_LIST)
    store.write_bytes("report.png", picture(lines))
    store.write_bytes("report.csv", as_csv(lines).encode())
    compared: list[Table] = []
    notes: tuple[str, ...] = ()
    written = [store.at(name) for name in ("report.png", "report.md", "report.csv")]
    if comparable:
        compared, notes = write_page(store, lines, dirs, test=test, measure=measure)
        written.insert(0, store.at("report.html"))
    else:
        written.append(f"no report.html: {_NOTHING}")
    _write_markdown(store, _markdown(lines), compared, notes)
    texts = [as_text(table) for table in (*tables(lines), *compared)]
    return "\n\n".join([*texts, "\n".join(legend(lines)), *notes, "\n".join(written)])


def _comparable(lines: Panel, measure: str) -> bool:
    """Whether there is an accuracy to compare runs by. Raises ReportError when they cannot be compared by `measure`."""
    from alray.report.metrics import metrics

    found = bool(metrics(lines))
    if measure and not found:
        raise ReportError(_NOTHING)
    return found and bool(metrics(lines, measure))


def _report_on_curves(path: str, out: str, test: Test, measure: str) -> str:
    from alray.report.csv_curves import read_curves

    lines = arrange(read_curves(path))
    _comparable(lines, measure)
    store = Store(absolute(out), REPORT_LIST)
    compared, notes = write_page(store, lines, [], test=test, measure=measure)
    _write_markdown(store, ["# Report"], compared, notes)
    return "\n\n".join([*map(as_text, compared), *notes, f"{store.at('report.html')}\n{store.at('report.md')}"])


def write_page(
    store: Store, lines: Panel, dirs: Sequence[str], *, test: Test = "t", measure: str = ""
) -> tuple[list[Table], tuple[str, ...]]:
    """Write report.html and tables/*.csv. dirs: folders that may contain a sweep.json.

    Returns the tables of statistics, and the notes that go with them: the meaning of marks, and warnings.
    """
    from alray.report.analysis import MARKS
    from alray.report.gallery import gallery
    from alray.report.page import page
    from alray.report.records import unfinished_trials
    from alray.report.sections import sections

    parts, found = sections(lines, test, measure)
    walls, note = gallery(lines)
    unfinished = unfinished_trials(dirs)
    title = ", ".join(sorted({line.run.name for line in lines.lines if line.run})) or "Learning curves"
    html = page(lines, found, parts, walls, note, unfinished, f"{title}: comparison of labeling strategies")
    store.write_bytes("report.html", html.encode())
    shown = [(part.id, number, table) for part in parts for number, table in enumerate(part.tables)]
    files = {f"{name}{f'-{number}' if number else ''}.csv": table_csv(table).encode() for name, number, table in shown}
    if files:
        store.child("tables").write_together(files, last=True)
    extra = [unfinished] if unfinished.rows else []
    compared = [table for name, _, table in shown if name not in ("records", "time", "balance", "coverage")]
    return [*extra, *compared], (MARKS, *found.warnings)


def _write_markdown(store: Store, first: Sequence[str], compared: Sequence[Table], notes: Sequence[str]) -> None:
    paragraphs = [*first, *map(as_markdown, compared), *map(markdown, notes), ""]
    store.write_together({"report.md": "\n\n".join(paragraphs).encode()}, last=True)


def _markdown(lines: Panel) -> list[str]:
    """The paragraphs of report.md before the statistics."""
    return [
        "# Report",
        "![accuracy and class balance against labels](report.png)",
        *map(as_markdown, tables(lines)),
        "\n".join(f"* {markdown(text)}" for text in legend(lines)),
        "### Runs",
        "\n".join(_run(line) for every in lines.every() for line in every),
    ]


def _run(line: Line) -> str:
    run = line.run
    assert run is not None
    test = run.rounds[-1]["test"]
    worst = test["worst_classes"] if test else []
    named = ", ".join(f"{markdown(item['class'])} {100 * item['accuracy']:.1f} %" for item in worst)
    more = f"; worst classes of the last round by accuracy of their {line.counted.noun}s: {named}" if worst else ""
    strategy, name = markdown(run.strategy), markdown(run.name)
    return f"* {strategy}, seed {run.seed}: {name}, {len(run.rounds)} rounds, {code(run.dir)}{more}"
