"""Draw report.png: accuracy and class balance against labels, with unfinished runs (layout as in Emam et al. 2021)."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alray.report import charts
from alray.report.charts import counts_axes, labels_axis
from alray.report.metrics import Metric, metric
from alray.report.panel import Line, Panel
from alray.report.statistics import Floats
from alray.report.styles import Style, styles
from alray.report.tables import measured, title

Drawn = list[tuple[list[Line], Style]]
"""The runs of each method in each setting, and their style."""


def picture(panel: Panel) -> bytes:
    """The picture as PNG, 1320 x 990 pixels (without an accuracy, 1320 x 495) or a little more for long legends.

    Lines are means over seeds, bands reach from the lowest to the highest seed. Rounds that only some seeds have
    finished are dotted.
    """
    with mpl.rc_context({"text.parse_math": False}):  # names may contain dollar signs
        return _draw(panel)


def _draw(panel: Panel) -> bytes:
    every = sorted(panel.every(), key=lambda lines: _place(panel, lines[0]))
    found = styles({number: lines[0].strategy for number, lines in enumerate(every)})
    drawn = list(zip(every, found.values(), strict=True))
    above = upper_metrics(panel)
    rows = 2 if above else 1
    figure = Figure(figsize=(12, 4.5 * rows), dpi=110, layout="constrained")
    boxes = figure.add_gridspec(rows, 2)
    for number, shown in enumerate(above):
        ax = figure.add_subplot(boxes[0, number] if len(above) > 1 else boxes[0, :])
        _against_labels(ax, drawn, shown.scalar, shown.axis, 100.0)
        ax.set_title(shown.name, fontsize=12)
    entropy, counts = (figure.add_subplot(boxes[rows - 1, number]) for number in (0, 1))
    _against_labels(entropy, drawn, "labeled_normalised_entropy", "normalised entropy (1 = balanced)", 1.0)
    entropy.set_title(f"class balance of the labeled {panel.counted.noun}s", fontsize=12)
    _class_counts(counts, drawn, panel.counted.noun)
    handles = [
        counts.plot([], [], color=s.color, marker=s.marker, linestyle=s.dashes, label=title(lines))[0]
        for lines, s in drawn
    ]
    per_line = max(1, 110 // (max(len(title(lines)) for lines in every) + 8))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(every), per_line), frameon=False, fontsize=11,
        title=_note(every), title_fontsize=10,
    )  # fmt: skip
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _place(panel: Panel, line: Line) -> tuple[bool, int, int]:
    """The sort key that orders methods as on the page, so that they get the same markers. Methods without a complete
    run come last."""
    known = line.method in panel.methods
    return not known, panel.methods.index(line.method) if known else 0, panel.settings.index(line.setting)


def upper_metrics(panel: Panel) -> list[Metric]:
    """The accuracies of the upper charts: two on the test set, or that on the validation set if no run has a test set,
    or none."""
    known = measured(panel.every())
    first, second = panel.counted.accuracies
    shown = (first, second) if first in known else ("validation_top1",)
    return [metric(scalar, panel.counted) for scalar in shown if scalar in known]


def _note(every: list[list[Line]]) -> str | None:
    """The explanation of lines, bands and dotted lines; None if every method has only one run."""
    if all(len(lines) == 1 for lines in every):
        return None
    uneven = any(len({len(line.labels) for line in lines}) > 1 for lines in every)
    dotted = "; dotted: rounds that not all seeds have finished" if uneven else ""
    return f"line: mean over seeds; band: lowest to highest seed{dotted}"


def _against_labels(ax: Axes, drawn: Drawn, scalar: str, y: str, scale: float) -> None:
    for lines, style in drawn:
        _curve(ax, lines, style, scalar, scale)
    labels_axis(ax)
    ax.set_ylabel(y)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(alpha=0.25)
    if len(labels := {count for lines, _ in drawn for line in lines for count in line.labels}) == 1:
        ax.set_xticks(list(labels))  # A single round gives no scale: show the whole range.
        ax.set_ylim(0, 1.02 * scale)


def _curve(ax: Axes, lines: list[Line], style: Style, scalar: str, scale: float) -> None:
    """Draw one method, if it has any values."""
    rounds = max(len(line.labels) for line in lines)
    xs, ys = np.full((2, len(lines), rounds), np.nan)
    for i, one in enumerate(lines):
        xs[i, : len(one.labels)] = one.labels
        values = one.scalars.get(scalar, (None,) * len(one.labels))
        ys[i, : len(values)] = [np.nan if value is None else scale * value for value in values]
    if np.isnan(ys).all():
        return
    together = min(len(line.labels) for line in lines)
    x, y = xs[:, :together].mean(axis=0), ys[:, :together]
    charts.line(ax, x, y.mean(axis=0), style)
    if len(lines) > 1:
        ax.fill_between(x, y.min(axis=0), y.max(axis=0), color=style.color, alpha=0.16, linewidth=0)
    for run_x, run_y in zip(xs[:, together - 1 :], ys[:, together - 1 :], strict=True):
        if run_x.size > 1 and not np.isnan(run_x[1]):
            ax.plot(run_x, run_y, color=style.color, linestyle=":", linewidth=1.2)


def _class_counts(ax: Axes, drawn: Drawn, noun: str) -> None:
    last = min(len(line.labels) for lines, _ in drawn for line in lines) - 1
    largest, smallest = 1.0, np.inf
    for lines, style in drawn:
        rounds = [line.run.rounds[last] for line in lines if line.run is not None]
        counts: Floats = np.array([sorted(m["labeled_set"]["counts"], reverse=True) for m in rounds], np.float64)
        rank = np.arange(1.0, counts.shape[1] + 1)
        charts.line(ax, rank, counts.mean(axis=0), style)
        if len(lines) > 1:
            ax.fill_between(rank, counts.min(axis=0), counts.max(axis=0), color=style.color, alpha=0.16, linewidth=0)
        largest, smallest = max(largest, counts.max()), min(smallest, counts.min())
    counts_axes(ax, smallest, largest, noun)
    ax.set_title(f"labeled {noun}s per class, round {last}", fontsize=12)
    ax.grid(alpha=0.25)
