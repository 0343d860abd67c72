"""Reports on finished rounds: one HTML file, tables for the terminal, Markdown and CSV, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alray.checksums import REPORT_LIST
from alray.reasons import terminal
from alray.report.escape import code, markdown
from alray.report.panel import Line, Panel, arrange, panel
from alray.report.runs import ReportError, load_all
from alray.report.tables import Table, as_csv, as_markdown, as_text, legend, table_csv, tables
from alray.store import Store, absolute

if TYPE_CHECKING:
    from alray.report.comparisons import Test  # imports SciPy, which takes half a second

__all__ = ["ReportError", "report", "write_page"]

_NOTHING = "no run has an accuracy (test or validation) for every round: nothing to compare"
_NOT_COMPARED = ("classes", "records", "time", "balance", "coverage")  # sections whose tables only the page has


def report(dirs: Sequence[str], out: str | None = None, *, test: Test = "t", measure: str = "") -> str:
    """Write report.html (everything, in one file), report.md, report.csv, report.png and tables/*.csv.

    dirs: run directories, folders of them, or one CSV of learning curves; several seeds of one strategy are shown as
    mean and spread. out: where to write; by default the directory if one is given, else ./report. test: of paired
    differences. measure: the accuracy (a column of metrics.csv) that runs are compared by; by default test top-1
    accuracy, in segmentation mIoU. Runs without any accuracy get a report of what was labeled. Returns the tables for a
    terminal and the paths of the files. Raises ReportError when there is no run or no committed round, for runs of
    different tasks and when runs cannot be compared by `measure`; StoreError where the output cannot be written.
    """
    if len(dirs) == 1 and dirs[0].endswith(".csv"):
        return _report_on_curves(dirs[0], out or "report", test, measure)
    lines = panel(load_all(dirs))
    _check(lines, measure)
    from alray.report.header import estimates
    from alray.report.picture import picture  # imports matplotlib, which runs without a report do not need

    store = Store(absolute(out or (dirs[0] if len(dirs) == 1 else "report")), REPORT_LIST)
    store.check_writable()
    store.write_bytes("report.png", picture(lines))
    store.write_bytes("report.csv", as_csv(lines).encode())
    page = write_page(store, lines, dirs, test=test, measure=measure)
    main = [page.headline, *estimates(lines)]
    _write_markdown(store, [f"# {markdown(page.title)}", *map(markdown, main), *_markdown(lines)], page)
    texts = [as_text(table) for table in (*tables(lines), *page.tables)]
    written = [store.at(name) for name in ("report.html", "report.png", "report.md", "report.csv")]
    said = [*texts, "\n".join(legend(lines)), *page.notes, *map(terminal, main), "\n".join(written)]
    return "\n\n".join(said)


def _check(lines: Panel, measure: str) -> None:
    """Raise ReportError when the runs cannot be compared by `measure`."""
    from alray.report.metrics import metrics

    if measure and not metrics(lines):
        raise ReportError(_NOTHING)
    metrics(lines, measure)


def _report_on_curves(path: str, out: str, test: Test, measure: str) -> str:
    from alray.report.csv_curves import read_curves

    lines = arrange(read_curves(path))
    _check(lines, measure)
    store = Store(absolute(out), REPORT_LIST)
    store.check_writable()
    page = write_page(store, lines, [], test=test, measure=measure, source=path.rsplit("/", 1)[-1])
    _write_markdown(store, [f"# {markdown(page.title)}", markdown(page.headline)], page)
    files = f"{store.at('report.html')}\n{store.at('report.md')}"
    return "\n\n".join([*map(as_text, page.tables), *page.notes, terminal(page.headline), files])


@dataclass(frozen=True)
class Written:
    """What a page says that other files say, too. tables: of statistics; notes: the meaning of marks, and warnings."""

    title: str
    headline: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def write_page(
    store: Store, lines: Panel, dirs: Sequence[str], *, test: Test = "t", measure: str = "", source: str = ""
) -> Written:
    """Write report.html and tables/*.csv.

    dirs: folders that may contain a sweep.json; source: the name of a file of curves, empty for runs.
    """
    from alray.report.analysis import MARKS, analyse
    from alray.report.gallery import gallery
    from alray.report.header import facts, title
    from alray.report.headline import headline
    from alray.report.metrics import metrics
    from alray.report.page import Head, page
    from alray.report.records import unfinished_trials
    from alray.report.sections import sections

    shown = metrics(lines, measure)
    main = shown[0] if shown else None
    found = analyse(lines, main.scalar, test) if main else None
    parts, unfinished = sections(lines, shown, found), unfinished_trials(dirs)
    head = Head(title(lines, source), headline(lines, main, test), facts(lines, main, source))
    html = page(lines, head, found, parts, gallery(lines), unfinished)
    store.write_bytes("report.html", html.encode())
    each = [(part.id, number, table) for part in parts for number, table in enumerate(part.tables)]
    files = {f"{name}{f'-{number}' if number else ''}.csv": table_csv(table).encode() for name, number, table in each}
    if files:
        store.child("tables").write_together(files, last=True)
    extra = [unfinished] if unfinished.rows else []
    compared = [table for name, _, table in each if name not in _NOT_COMPARED]
    marks = [] if lines.one_seed or found is None else [MARKS]
    return Written(head.title, head.headline, (*extra, *compared), (*marks, *(found.warnings if found else ())))


def _write_markdown(store: Store, first: Sequence[str], page: Written) -> None:
    paragraphs = [*first, *map(as_markdown, page.tables), *map(markdown, page.notes), ""]
    store.write_together({"report.md": "\n\n".join(paragraphs).encode()}, last=True)


def _markdown(lines: Panel) -> list[str]:
    """The paragraphs of report.md between the headline and the statistics."""
    return [
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
