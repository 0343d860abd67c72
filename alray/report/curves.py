"""Accuracy and class balance against labels, as one picture (as Emam et al. 2021 show them)."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alray.report.measures import Measure, measure
from alray.report.runs import Group

# Okabe & Ito 2008, without the yellow: it cannot be seen as a line on white.
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _VERMILION, _PURPLE = _PALETTE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
# The strategies of one comparison get different colours; those that repeat one are told apart by marker and dashes.
_COLORS = {
    "random": _BLACK, "base": _VERMILION, "margin": _BLUE, "mase": _GREEN,
    "entropy": _SKY, "confidence": _ORANGE, "k_center": _PURPLE, "badge": _ORANGE,
    "balanced_random": _SKY, "balancing": _PURPLE, "robust_k_center": _GREEN, "partitioned_k_center": _SKY,
    "partitioned_badge": _BLUE, "cluster_margin": _GREEN, "vaal": _BLUE, "pt4al": _VERMILION,
}  # fmt: skip
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
_LABELS_AXIS = "labels bought, seed set included"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How one group is drawn, in every panel."""

    color: str
    marker: str
    dashes: str


def color(strategy: str) -> str:
    """The colour of a strategy, the same in every picture."""
    return _COLORS.get(strategy) or _PALETTE[zlib.crc32(strategy.encode()) % len(_PALETTE)]


def styles(groups: Sequence[Group]) -> list[Style]:
    """A style per group: colour by strategy; groups of one colour differ in dashes, neighbours in marker."""
    seen: dict[str, int] = {}
    chosen = []
    for number, group in enumerate(groups):
        name = color(group.strategy)
        nth = seen[name] = seen.get(name, -1) + 1
        chosen.append(Style(name, MARKERS[number % len(MARKERS)], DASHES[nth % len(DASHES)]))
    return chosen


def draw(groups: Sequence[Group]) -> bytes:
    """The picture as PNG, 1320 x 990 pixels or a little more for long legends.

    Panels: top-1 accuracy (on validation where no run has a test set) and balanced accuracy, or mIoU and pixel
    accuracy; normalised entropy of the labeled set, and its sorted class counts. Lines are means over seeds, bands
    reach from the lowest to the highest seed; dotted are rounds that only some seeds have finished.
    """
    figure = Figure(figsize=(12, 9), dpi=110, layout="constrained")
    above, (entropy, counts) = figure.subplots(2, 2)
    pixels = groups[0].pixels
    chosen = list(zip(groups, styles(groups), strict=True))
    for ax, shown in zip(above, upper_panels(groups), strict=True):
        _against_labels(ax, chosen, shown.scalar, shown.name, shown.axis, 100.0)
    balance = f"class balance of the labeled {'pixels' if pixels else 'set'}"
    _against_labels(entropy, chosen, "labeled_normalised_entropy", balance, "normalised entropy (1 = balanced)", 1.0)
    _class_counts(counts, chosen, "pixels" if pixels else "labels")
    handles = [_handle(counts, group, style) for group, style in chosen]
    per_line = max(1, 110 // (max(len(group.title) for group in groups) + 8))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(groups), per_line), frameon=False, fontsize=11,
        title=_note(groups), title_fontsize=10,
    )  # fmt: skip
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def upper_panels(groups: Sequence[Group]) -> tuple[Measure, Measure]:
    """The accuracies of the two upper panels."""
    pixels = groups[0].pixels
    tested = any(metrics["test"] for group in groups for run in group.runs for metrics in run.rounds)
    names = ("test_miou", "test_top1") if pixels else ("test_top1", "test_balanced_accuracy")
    first, second = names if tested else ("validation_top1", names[1])
    return measure(first, pixels), measure(second, pixels)


def _note(groups: Sequence[Group]) -> str | None:
    """What the marks mean, as far as they occur."""
    if all(len(group.runs) == 1 for group in groups):
        return None
    uneven = any(len({len(run.rounds) for run in group.runs}) > 1 for group in groups)
    dotted = "; dotted: rounds that not all seeds have finished" if uneven else ""
    return f"line: mean over seeds; band: lowest to highest seed{dotted}"


def _handle(ax: Axes, group: Group, style: Style) -> object:
    return ax.plot([], [], color=style.color, marker=style.marker, linestyle=style.dashes, label=group.title)[0]


def _against_labels(ax: Axes, chosen: list[tuple[Group, Style]], scalar: str, title: str, y: str, scale: float) -> None:
    drawn = [_curve(ax, group, style, scalar, scale) for group, style in chosen]
    ax.set_title(title, fontsize=12)
    ax.set_xlabel(_LABELS_AXIS)
    ax.set_ylabel(y)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(alpha=0.25)
    if not any(drawn):
        ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes, color="0.4")
        ax.set_xticks([])
        ax.set_yticks([])
    elif len(labels := {metrics["labels"] for group, _ in chosen for run in group.runs for metrics in run.rounds}) == 1:
        ax.set_xticks(list(labels))  # a single round: no scale to guess, so show the whole range
        ax.set_ylim(0, 1.02 * scale)


def _curve(ax: Axes, group: Group, style: Style, scalar: str, scale: float) -> bool:
    xs, ys = _matrix(group, "labels"), _matrix(group, scalar) * scale
    if np.isnan(ys).all():
        return False
    together = min(len(run.rounds) for run in group.runs)
    x, y = xs[:, :together].mean(axis=0), ys[:, :together]
    ax.plot(
        x, y.mean(axis=0), color=style.color, marker=style.marker, linestyle=style.dashes, linewidth=1.8, markersize=5.5
    )
    if len(group.runs) > 1:
        ax.fill_between(x, y.min(axis=0), y.max(axis=0), color=style.color, alpha=0.16, linewidth=0)
    for run_x, run_y in zip(xs[:, together - 1 :], ys[:, together - 1 :], strict=True):
        if run_x.size > 1 and not np.isnan(run_x[1]):
            ax.plot(run_x, run_y, color=style.color, linestyle=":", linewidth=1.2)
    return True


def _matrix(group: Group, scalar: str) -> Floats:
    """(seeds, rounds) float64, NaN where a seed has no such round or value."""
    matrix = np.full((len(group.runs), group.num_rounds), np.nan)
    for i, run in enumerate(group.runs):
        alone = Group(group.label, group.strategy, (run,))
        for round in range(len(run.rounds)):
            (value,) = alone.values(scalar, round)
            matrix[i, round] = np.nan if value is None else value
    return matrix


def count_axis(ax: Axes, smallest: float, largest: float) -> None:
    """An axis of counts per class: logarithmic where they are far apart, and with zero where a class has none."""
    if largest <= 30 * max(smallest, 1):
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    elif smallest < 1:
        ax.set_yscale("symlog", linthresh=1)  # shows empty classes too, which a logarithm cannot
    else:
        ax.set_yscale("log")
    if ax.get_yscale() != "log":
        ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _class_counts(ax: Axes, chosen: list[tuple[Group, Style]], unit: str) -> None:
    last = min(len(run.rounds) for group, _ in chosen for run in group.runs) - 1
    largest, smallest = 1.0, np.inf
    for group, style in chosen:
        counts = np.array([sorted(run.rounds[last]["labeled_set"]["counts"], reverse=True) for run in group.runs])
        rank = np.arange(1, counts.shape[1] + 1)
        marker = style.marker if rank.size <= 30 else None
        ax.plot(rank, counts.mean(axis=0), color=style.color, linestyle=style.dashes, marker=marker, markersize=5.5)
        if len(group.runs) > 1:
            ax.fill_between(rank, counts.min(axis=0), counts.max(axis=0), color=style.color, alpha=0.16, linewidth=0)
        largest, smallest = max(largest, counts.max()), min(smallest, counts.min())
    count_axis(ax, smallest, largest)
    ax.set_title(f"{'labeled pixels' if unit == 'pixels' else 'labeled images'} per class, round {last}", fontsize=12)
    ax.set_xlabel(f"class, most {unit} first")
    ax.set_ylabel(unit)
    ax.grid(alpha=0.25)
