"""Rounds as tables: aligned text for the terminal, Markdown and CSV."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alray.reasons import terminal
from alray.report.escape import markdown, spreadsheet
from alray.report.metrics import metric
from alray.report.panel import PEEKS, Line, Panel
from alray.report.runs import Counted
from alray.scalars import csv_text

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A scalar (a name of `scalars.flat`) as a table shows it. title: short, to fit a terminal; meaning: for the
    legend."""

    scalar: str
    title: str
    digits: int
    scale: float = 1.0
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """A title, the head and the cells of a table, all of them text. bars: the columns of percentages behind which a
    page draws a bar."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: frozenset[str] = frozenset()


def title(lines: Sequence[Line]) -> str:
    """Method, setting and number of seeds, e.g. 'base · budget 50 (3 seeds)'. Seeds that have finished fewer rounds
    than the others are counted apart, because they are not in the last rows."""
    longest = num_rounds(lines)
    whole = sum(len(line.labels) == longest for line in lines)
    fewer = f", {len(lines) - whole} more with fewer rounds" if whole < len(lines) else ""
    return f"{lines[0].label} ({whole} seed{'s' if whole > 1 else ''}{fewer})"


def legend(panel: Panel) -> list[str]:
    """What each column means, and what an asterisk means."""
    every = panel.every()
    said = [f"Accuracies and class sizes are counted in {panel.counted.noun}s."]
    said += [f"{column.title}: {column.meaning}" for column in columns(every)]
    return said + ([PEEKS] if any(lines[0].peeks for lines in every) else [])


def measured(every: Iterable[Sequence[Line]]) -> set[str]:
    """The scalars that any of the runs measured in any round."""
    scalars = [item for lines in every for line in lines for item in line.scalars.items()]
    return {name for name, values in scalars if any(value is not None for value in values)}


def columns(every: Sequence[Sequence[Line]]) -> list[Column]:
    """The columns for some methods. Accuracies and the divergence from the pool are left out where no run has them.

    every: the runs of each method in each setting, as `Panel.every` gives them.
    """
    known, counted = measured(every), every[0][0].counted
    top = sorted(int(match[1]) for name in known if (match := re.fullmatch(r"test_top(\d+)", name)))
    accuracies = ["test_miou", *(f"test_top{k}" for k in top), "test_balanced_accuracy", "validation_top1"]
    digits = 1 if any(len(lines) > 1 for lines in every) else 0
    diverges = "Kullback-Leibler divergence of the labeled set's class shares from the pool's"
    return [
        *(_accuracy(name, counted) for name in accuracies if name in known),
        Column(
            "labeled_normalised_entropy",
            "entropy",
            4,
            meaning="normalised entropy of the labeled set's class shares (1 = balanced)",
        ),
        Column("labeled_max_min_ratio", "max/min", 2, meaning="largest over smallest class of the labeled set"),
        *([Column("labeled_kl_to_pool", "KL", 4, meaning=diverges)] if "labeled_kl_to_pool" in known else []),
        Column("labeled_empty_classes", "empty", digits, meaning=f"classes without a labeled {counted.noun}"),
        Column("seconds_total", "seconds", 1, meaning="wall time of the round"),
    ]


def _accuracy(scalar: str, counted: Counted) -> Column:
    known = metric(scalar, counted)
    name = "val." if scalar.startswith("validation") else known.short.removesuffix(" accuracy")
    return Column(scalar, f"{name} %", 2, 100, known.meaning)


def values(lines: Sequence[Line], scalar: str, round: int) -> list[float | None]:
    """A scalar at a round, one per seed that finished it; None where it was not measured."""
    return [line.at(scalar, round) for line in lines if round < len(line.labels)]


def labels_at(lines: Sequence[Line], round: int) -> list[float]:
    """Numbers of labels at a round, one per seed that finished it."""
    return [line.labels[round] for line in lines if round < len(line.labels)]


def num_rounds(lines: Sequence[Line]) -> int:
    """Rounds that at least one seed has finished."""
    return max(len(line.labels) for line in lines)


def mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; (None, None) when a seed has no value.

    A missing value may stand for infinity (max/min with an empty class): the mean of the others would be too low.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def cell(values: Sequence[float | None], column: Column) -> str:
    """'52.10' for one seed, '52.10±0.31' for several, a dash where there is no value."""
    mean, std = mean_std(values)
    if mean is None:
        return NOTHING
    text = f"{mean * column.scale:.{column.digits}f}"
    return text if std is None else f"{text}±{std * column.scale:.{column.digits}f}"


def per_round(lines: Sequence[Line]) -> Table:
    """All columns of one method in one setting, a row per round: means over the seeds that finished it, and how many
    those are."""
    shown = columns([lines])
    several = len(lines) > 1
    rows = []
    for round in range(num_rounds(lines)):
        labels = labels_at(lines, round)
        seeds = (str(len(labels)),) if several else ()
        cells = tuple(cell(values(lines, column.scalar, round), column) for column in shown)
        rows.append((str(round), _labels(labels), *seeds, *cells))
    head = ("round", "labels", *(("seeds",) if several else ()), *(column.title for column in shown))
    name = lines[0].run.name if lines[0].run else ""
    detail = "mean±standard deviation over seeds" if several else f"run {name}"
    return Table(f"{title(lines)}, {detail}", head, tuple(rows))


def _labels(labels: Sequence[float]) -> str:
    return cell(labels[:1] if len(set(labels)) == 1 else labels, Column("labels", "labels", 0))


def side_by_side(every: Sequence[Sequence[Line]], column: Column) -> Table:
    """One column for every method and setting, a row per number of labels, so that a row compares equal costs."""
    cells: dict[int, dict[str, str]] = {}
    for lines in every:
        for round in range(num_rounds(lines)):
            found = values(lines, column.scalar, round)
            text = cell(found, column) + (f" (n={len(found)})" if len(found) < len(lines) else "")
            cells.setdefault(int(statistics.fmean(labels_at(lines, round))), {})[title(lines)] = text
    titles = [title(lines) for lines in every]
    rows = tuple((str(labels), *(cells[labels].get(title, NOTHING) for title in titles)) for labels in sorted(cells))
    return Table(column.title, ("labels", *titles), rows)


def tables(panel: Panel) -> list[Table]:
    """A table per method and setting, then, where there are several, accuracies and class balance side by side."""
    compared = {"test_miou", "test_top1", "test_balanced_accuracy", "labeled_normalised_entropy"}
    every = panel.every()
    shown = columns(every)
    if all(column.scalar != "test_top1" for column in shown):
        compared.add("validation_top1")
    each = [per_round(lines) for lines in every]
    if len(every) == 1:
        return each
    return each + [side_by_side(every, column) for column in shown if column.scalar in compared]


def as_text(table: Table) -> str:
    """Aligned to the right under a title, for a terminal."""
    lines = [tuple(map(terminal, line)) for line in (table.head, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]
    head, *rows = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([terminal(table.title), head, "-" * len(head), *rows])


def as_markdown(table: Table) -> str:
    """A heading and a table of GitHub's Markdown."""
    lines = [list(map(markdown, line)) for line in (table.head, *table.rows)]
    head, *rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([f"### {markdown(table.title)}", "", head, "|" + " ---: |" * len(table.head), *rows])


def table_csv(table: Table) -> str:
    """The table as CSV for a spreadsheet."""
    head = [spreadsheet(text) for text in table.head]
    return csv_text([dict(zip(head, map(spreadsheet, row), strict=True)) for row in table.rows])


def as_csv(panel: Panel) -> str:
    """A row per method, setting and round with mean and standard deviation of every column, unscaled (fractions)."""
    every = panel.every()
    shown = columns(every)
    records: list[dict[str, Any]] = []
    for lines in every:
        for round in range(num_rounds(lines)):
            labels = labels_at(lines, round)
            record: dict[str, Any] = {"group": spreadsheet(lines[0].label), "strategy": spreadsheet(lines[0].strategy)}
            record |= {"round": round, "labels": statistics.fmean(labels) if len(set(labels)) > 1 else int(labels[0])}
            record |= {"seeds": len(labels)}
            for column in shown:
                mean, std = mean_std(values(lines, column.scalar, round))
                record |= {column.scalar: mean, f"{column.scalar}_std": std}
            records.append(record)
    return csv_text(records)
