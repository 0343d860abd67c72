"""Rounds as tables: aligned text for the terminal, Markdown and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alray.report.runs import PEEKING, Group, top_ks
from alray.scalars import csv_text

NOTHING = "–"
_LEGEND = (
    "top-k, balanced: accuracy on the test set; val.: top-1 on the validation set. Of the labeled set: entropy of the\n"
    "class shares (1 = balanced), largest over smallest class, KL divergence from the pool, classes without a label."
)
_LEGEND_OF_PIXELS = (
    "mIoU: mean intersection over union of the classes on the test set; pixel, class: accuracy of its pixels, mean of\n"
    "the classes' accuracies; val.: accuracy of the validation set's pixels. Of labeled pixels: entropy of the\n"
    "class shares (1 = balanced), largest over smallest class, classes without a pixel."
)


@dataclass(frozen=True)
class Column:
    """A scalar (a name of `runs.flat`) as a table shows it; its title is short to fit a terminal, see `legend`."""

    scalar: str
    title: str
    digits: int
    scale: float = 1.0


@dataclass(frozen=True)
class Table:
    """A title, the head and the cells of a table, all of them text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def legend(groups: Sequence[Group]) -> str:
    """What the columns of a report are."""
    peeking = "\n* looks at labels nobody has paid for: a bound, not a strategy."
    marked = any(group.strategy in PEEKING for group in groups)
    return f"{_LEGEND_OF_PIXELS if groups[0].pixels else _LEGEND}{peeking if marked else ''}"


def columns(groups: Sequence[Group]) -> list[Column]:
    """The columns of a report, the measured top-k among them; test or validation is left out where no run has it."""
    rounds = [metrics for group in groups for run in group.runs for metrics in run.rounds]
    averaged, pixels = any(len(group.runs) > 1 for group in groups), groups[0].pixels
    test = [Column("test_miou", "mIoU %", 2, 100)] if pixels else []
    test += [Column("test_top1", "pixel %" if pixels else "top-1 %", 2, 100)]
    test += [Column(f"test_top{k}", f"top-{k} %", 2, 100) for k in top_ks(rounds)]
    test += [Column("test_balanced_accuracy", "class %" if pixels else "balanced %", 2, 100)]
    validation = [Column("validation_top1", "val. %", 2, 100)]
    return [
        *(test if any(metrics["test"] for metrics in rounds) else []),
        *(validation if any(metrics["validation"] for metrics in rounds) else []),
        Column("labeled_normalised_entropy", "entropy", 4),
        Column("labeled_max_min_ratio", "max/min", 2),
        *([] if pixels else [Column("labeled_kl_to_pool", "KL", 4)]),  # there are no masks of the pool to compare with
        Column("labeled_empty_classes", "empty", 1 if averaged else 0),
        Column("seconds_total", "seconds", 1),
    ]


def mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; (None, None) when a seed has no value.

    A missing value may stand for infinity (max/min with an empty class): the mean of the rest would look too good.
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


def per_round(group: Group) -> Table:
    """All columns of one strategy, a line per round: means over the seeds that finished it, and how many those are."""
    shown = columns([group])
    several = len(group.runs) > 1
    rows = []
    for round in range(group.num_rounds):
        labels = group.values("labels", round)
        seeds = (str(len(labels)),) if several else ()
        cells = tuple(cell(group.values(column.scalar, round), column) for column in shown)
        rows.append((str(round), _labels(labels), *seeds, *cells))
    head = ("round", "labels", *(("seeds",) if several else ()), *(column.title for column in shown))
    detail = "mean±standard deviation over seeds" if several else f"run {group.runs[0].name}"
    return Table(f"{group.title}, {detail}", head, tuple(rows))


def _labels(labels: Sequence[float | None]) -> str:
    return cell([labels[0]] if len(set(labels)) == 1 else labels, Column("labels", "labels", 0))


def side_by_side(groups: Sequence[Group], column: Column) -> Table:
    """One column of several strategies, a line per number of labels, so that a line compares equal costs."""
    cells: dict[int, dict[str, str]] = {}
    for group in groups:
        for round in range(group.num_rounds):
            labels, _ = mean_std(group.values("labels", round))
            assert labels is not None
            text = cell(group.values(column.scalar, round), column)
            reached = len(group.values("labels", round))
            if reached < len(group.runs):
                text += f" (n={reached})"
            cells.setdefault(int(labels), {})[group.title] = text
    titles = [group.title for group in groups]
    rows = tuple((str(labels), *(cells[labels].get(title, NOTHING) for title in titles)) for labels in sorted(cells))
    return Table(column.title, ("labels", *titles), rows)


def tables(groups: Sequence[Group]) -> list[Table]:
    """A table per strategy, then, where there are several, accuracy and class balance side by side."""
    compared = {"test_miou", "test_top1", "test_balanced_accuracy", "labeled_normalised_entropy"}
    shown = columns(groups)
    if all(column.scalar != "test_top1" for column in shown):
        compared.add("validation_top1")
    each = [per_round(group) for group in groups]
    if len(groups) == 1:
        return each
    return each + [side_by_side(groups, column) for column in shown if column.scalar in compared]


def as_text(table: Table) -> str:
    """Aligned to the right under a title, for a terminal."""
    lines = [table.head, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]
    head, *rows = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([table.title, head, "-" * len(head), *rows])


def as_markdown(table: Table) -> str:
    """A heading and a table of GitHub's Markdown."""
    lines = [[text.replace("|", "\\|") for text in line] for line in (table.head, *table.rows)]
    head, *rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([f"### {table.title}", "", head, "|" + " ---: |" * len(table.head), *rows])


def as_csv(groups: Sequence[Group]) -> str:
    """A line per strategy and round with mean and standard deviation of every column, unscaled (fractions)."""
    records: list[dict[str, Any]] = []
    for group in groups:
        for round in range(group.num_rounds):
            labels = group.values("labels", round)
            record: dict[str, Any] = {"group": group.label, "strategy": group.strategy, "round": round}
            record |= {"labels": mean_std(labels)[0] if len(set(labels)) > 1 else labels[0], "seeds": len(labels)}
            for column in columns(groups):
                mean, std = mean_std(group.values(column.scalar, round))
                record |= {column.scalar: mean, f"{column.scalar}_std": std}
            records.append(record)
    return csv_text(records)
