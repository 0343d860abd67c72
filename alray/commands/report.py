"""The command ``alray report``."""

from __future__ import annotations

from typing import Literal

from alray.commands.command import Command


class Report(Command):
    """Compare runs: curves, paired differences, areas, wins, label efficiency, balance, coverage, time, pictures.
    Writes report.html (one file, which loads nothing from the network), report.md, report.csv, report.png and
    tables/*.csv."""

    positional = ("runs",)
    usage = "alray report RUN ... [--option value ...]"
    runs: tuple[str, ...]
    """Run directories, folders of them (of a sweep, too), or one CSV of curves with strategy, seed, labels and
    test_top1."""
    out: str = ""
    """Where the files go; empty: into the run directory, or ./report for several runs."""
    test: Literal["t", "wilcoxon"] = "t"
    """Paired t test or Wilcoxon's signed ranks."""
    measure: str = ""
    """What is compared, a column of metrics.csv; empty: test top-1 accuracy."""

    def work(self) -> None:
        """Write the report."""
        from alray.report import report

        print(report(list(self.runs), self.out or None, test=self.test, measure=self.measure))
