"""Reports on finished rounds: a table for the terminal, a picture, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from alray.report.runs import Group, ReportError, grouped, load_all
from alray.report.tables import LEGEND, as_csv, as_markdown, as_text, tables
from alray.store import Store, absolute

__all__ = ["ReportError", "report"]


def report(dirs: Sequence[str], out: str | None = None) -> str:
    """Write report.png, report.md and report.csv; returns the tables for a terminal and where the files are.

    dirs: run directories, or folders of them; several seeds of one strategy are shown as mean and spread.
    out: where to write; by default into the directory when one is given, else into ./report.
    Raises ReportError when there is no run or no committed round, StoreError where the output cannot be written.
    """
    from alray.report.curves import draw  # matplotlib, which a loop that only writes scalars does not need

    groups = grouped(load_all(dirs))
    store = Store(absolute(out or (dirs[0] if len(dirs) == 1 else "report")))
    store.write_bytes("report.png", draw(groups))
    store.write_bytes("report.csv", as_csv(groups).encode())
    store.write_bytes("report.md", _markdown(groups).encode())
    texts = [as_text(table) for table in tables(groups)]
    files = "\n".join(store.at(name) for name in ("report.png", "report.md", "report.csv"))
    return "\n\n".join([*texts, LEGEND, files])


def _markdown(groups: Sequence[Group]) -> str:
    parts = [
        "# Report",
        "![accuracy and class balance against labels](report.png)",
        *map(as_markdown, tables(groups)),
        LEGEND,
    ]
    runs = [
        f"* {run.strategy}, seed {run.seed}: {run.name}, {len(run.rounds)} rounds, `{run.dir}`{_worst(run.rounds[-1])}"
        for group in groups
        for run in group.runs
    ]
    return "\n\n".join([*parts, "### Runs", "\n".join(runs)]) + "\n"


def _worst(metrics: dict[str, object]) -> str:
    test = metrics["test"]
    if not isinstance(test, dict) or not test["worst_classes"]:
        return ""
    named = ", ".join(f"{item['class']} {100 * item['accuracy']:.1f} %" for item in test["worst_classes"])
    return f"; worst classes of the last round: {named}"
