"""Charts as SVG to stand inside a page: axes with units, a colour per strategy, inks that follow the page's theme.

Colours are written as CSS variables, so that the same chart is read on light and dark; there is no legend inside: the
page has one, which cannot cover data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from alray.report.comparisons import LEAST_SEEDS
from alray.report.curves import DASHES, MARKERS, color, count_axis
from alray.report.panel import Curves, Panel
from alray.report.statistics import Floats, mean_interval

_INK, _GRID, _CARD = "#010203", "#040506", "#070809"  # stand-ins, replaced by CSS variables
_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "alray", "font.size": 9.5, "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "text.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
_SIZE = (4.7, 3.1)  # inches of 72 units


@dataclass(frozen=True)
class Look:
    """How a method is drawn everywhere."""

    color: str
    marker: str
    dashes: str


def looks(panel: Panel) -> dict[str, Look]:
    """Colour by strategy, the same in every report; methods of one colour differ in dashes, neighbours in marker."""
    seen: dict[str, int] = {}
    found = {}
    for number, method in enumerate(panel.methods):
        name = _shade(panel.strategy_of[method])
        nth = seen[name] = seen.get(name, -1) + 1
        found[method] = Look(name, MARKERS[number % len(MARKERS)], DASHES[nth % len(DASHES)])
    return found


def _shade(strategy: str) -> str:
    """The colour of a strategy; black a little off, because SVG leaves pure black out and CSS could not change it."""
    name = color(strategy).lower()
    return "#010101" if name == "#000000" else name


def variable(name: str) -> str:
    """The CSS variable of a palette colour: '#0072b2' -> '--c-0072b2'."""
    return f"--c-{name.lstrip('#').lower()}"


def svg(draw: Callable[[Axes], None], title: str, size: tuple[float, float] = _SIZE) -> str:
    """A drawing as an <svg> element that fills its container and reads the page's colours."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        ax = figure.subplots()
        ax.patch.set_alpha(0)
        ax.grid(color=_GRID, alpha=0.5, linewidth=0.6)
        ax.set_axisbelow(True)
        draw(ax)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = text.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)").replace(_CARD, "var(--card)")
    text = re.sub(r"(stroke|fill): (#[0-9a-f]{6})", lambda m: f"{m[1]}: var({variable(m[2])}, {m[2]})", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def _labels_axis(ax: Axes, grid: Floats) -> None:
    ax.set_xlabel("labels bought, seed set included")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if len(grid) == 1:
        ax.set_xticks(list(grid))
    else:  # the same width for all charts, also where lines end early
        margin = 0.04 * (grid[-1] - grid[0])
        ax.set_xlim(grid[0] - margin, grid[-1] + margin)


def _band(ax: Axes, curves: Curves, values: Floats, look: Look) -> None:
    """Mean over seeds with a 95 % band; where seeds are too few for a band, the seeds themselves."""
    mean = mean_interval(values)
    marker = look.marker if values.shape[1] <= 25 else None
    ax.plot(
        curves.labels, mean.mean, color=look.color, linestyle=look.dashes, marker=marker, markersize=4.5, linewidth=1.7
    )
    if len(values) >= LEAST_SEEDS:
        ax.fill_between(curves.labels, mean.low, mean.high, color=look.color, alpha=0.14, linewidth=0)
    elif len(values) > 1:
        for row in values:
            ax.plot(curves.labels, row, color=look.color, linewidth=0.6, alpha=0.6)


def curves_chart(panel: Panel, setting: str, scalar: str, y: str, scale: float = 1.0, *, whole: bool = False) -> str:
    """A scalar against labels, a line per method. whole: a number of things, which starts at 0."""

    def draw(ax: Axes) -> None:
        for method, look in looks(panel).items():
            curves = panel.curves(setting, method, scalar)
            if curves is not None:
                _band(ax, curves, curves.values * scale, look)
        _labels_axis(ax, panel.grid(setting))
        ax.set_ylabel(y)
        if whole:
            ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            ax.set_ylim(bottom=0)

    return svg(draw, f"{y} against labels. {setting}")


def difference_chart(panel: Panel, setting: str, scalar: str, short: str) -> str:
    """Each method minus the reference, paired by seed, in percentage points of what is called `short`."""

    def draw(ax: Axes) -> None:
        ax.axhline(0, color=_shade("random"), linewidth=1.2)
        for method, look in looks(panel).items():
            pair = panel.paired(setting, method, panel.reference or "", scalar) if method != panel.reference else None
            if pair is not None:
                _band(ax, pair[0], 100 * (pair[0].values - pair[1].values), look)
        _labels_axis(ax, panel.grid(setting))
        ax.set_ylabel(f"points of {short} over {panel.reference}")

    return svg(draw, f"Difference in {short} to {panel.reference}, paired by seed. {setting}")


def efficiency_chart(panel: Panel, setting: str, ratios: Mapping[str, tuple[Floats, Floats]]) -> str:
    """Labels the reference needs over labels used; above 1 labels are saved. ratios: method -> labels, ratio."""

    def draw(ax: Axes) -> None:
        ax.axhline(1, color=_shade("random"), linewidth=1.2)
        for method, look in looks(panel).items():
            if method in ratios:
                x, y = ratios[method]
                ax.plot(
                    x, y, color=look.color, linestyle=look.dashes, marker=look.marker, markersize=4.5, linewidth=1.7
                )
        _labels_axis(ax, panel.grid(setting))
        ax.set_ylabel(f"labels {panel.reference} needs / labels used")

    return svg(draw, f"Label efficiency. {setting}")


def counts_chart(panel: Panel, setting: str, counts: Mapping[str, Floats], unit: str) -> str:
    """Labels per class in the last round, classes sorted. counts: method -> (seeds, classes), each row descending;
    unit: what is counted, labels or pixels."""

    def draw(ax: Axes) -> None:
        largest, smallest = 1.0, np.inf
        for method, look in looks(panel).items():
            if method in counts:
                rank, mean = np.arange(1, counts[method].shape[1] + 1), counts[method].mean(axis=0)
                marker = look.marker if len(rank) <= 30 else None
                ax.plot(rank, mean, color=look.color, linestyle=look.dashes, marker=marker, markersize=4, linewidth=1.5)
                largest, smallest = max(largest, mean.max()), min(smallest, mean.min())
        count_axis(ax, smallest, largest)
        ax.set_xlabel(f"class, most {unit} first")
        ax.set_ylabel(f"labeled {unit} in the last round" if unit != "labels" else "labels in the last round")

    return svg(draw, f"{unit.capitalize()} per class, sorted. {setting}")


def cost_chart(panel: Panel, points: Mapping[str, tuple[Floats, Floats]], x: str, y: str) -> str:
    """What runs are compared by against mean seconds spent, round by round. points: method -> seconds (r,), % (r,)."""

    def draw(ax: Axes) -> None:
        for method, look in looks(panel).items():
            if method in points:
                ax.plot(
                    *points[method], color=look.color, linestyle=look.dashes, marker=look.marker, markersize=4.5,
                    linewidth=1.5,
                )  # fmt: skip
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(x)
        ax.set_ylabel(y)

    return svg(draw, f"{y} against {x}")


def stages_chart(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Mean seconds per run by stage, a bar per method: method -> stage -> seconds, the same stages for all. The shades
    are of the ink: colours belong to strategies."""
    names = list(seconds)

    def draw(ax: Axes) -> None:
        left = np.zeros(len(names))
        for stage, shade in _shades(seconds).items():
            width = np.array([seconds[name][stage] for name in names])
            ax.barh(names, width, left=left, color=_INK, alpha=shade, height=0.62)
            ax.barh(names, width, left=left, color="none", edgecolor=_CARD, linewidth=0.8, height=0.62)
            left += width
        ax.invert_yaxis()
        ax.grid(visible=False)
        ax.set_xlabel("seconds per run")

    return svg(draw, "Time by stage", (_SIZE[0], max(1.8, 0.9 + 0.32 * len(names))))


def _shades(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    stages = list(next(iter(seconds.values()), {}))
    return dict(zip(stages, np.linspace(0.9, 0.15, len(stages)).tolist(), strict=True))


def stage_key(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """What the shades of `stages_chart` mean, as HTML."""
    chips = "".join(
        f'<span class="chip"><i style="background:var(--ink);opacity:{shade:.2f}"></i>{stage}</span>'
        for stage, shade in _shades(seconds).items()
    )
    return f'<div class="legend">{chips}</div>'


_SHAPES = {
    "o": '<circle cx="17" cy="7" r="3.6"/>', "s": '<rect x="13.6" y="3.6" width="6.8" height="6.8"/>',
    "D": '<path d="M17 2.6 21.4 7 17 11.4 12.6 7Z"/>', "^": '<path d="M17 2.6 21.4 10.4H12.6Z"/>',
    "v": '<path d="M17 11.4 21.4 3.6H12.6Z"/>',
    "P": '<path d="M15.4 2.8h3.2v2.6h2.6v3.2h-2.6v2.6h-3.2V8.6h-2.6V5.4h2.6Z"/>',
    "X": '<path d="M14 2.6 17 5.4 20 2.6 21.4 4 18.6 7 21.4 10 20 11.4 17 8.6 14 11.4 12.6 10 15.4 7 12.6 4Z"/>',
    "*": '<path d="M17 2 18.3 5.4 22 5.5 19.1 7.8 20.1 11.4 17 9.3 13.9 11.4 14.9 7.8 12 5.5 15.7 5.4Z"/>',
}  # fmt: skip
_STROKES = {"-": "", "--": "6 3", "-.": "6 2 1.5 2", ":": "1.5 2.5"}


def legend(panel: Panel) -> str:
    """The legend of all charts of a page, as HTML: line, marker and name of each method."""
    chips = []
    for method, look in looks(panel).items():
        ink = f"var({variable(look.color)}, {look.color})"
        seeds = len({line.seed for line in panel.lines if line.method == method})
        chips.append(
            f'<span class="chip"><svg width="34" height="14" aria-hidden="true"><path d="M0 7H34" stroke="{ink}" '
            f'stroke-width="2" stroke-dasharray="{_STROKES[look.dashes]}"/>'
            f'<g fill="{ink}">{_SHAPES[look.marker]}</g></svg>'
            f"{escape(method)} <small>{seeds} seed{'s' if seeds > 1 else ''}</small></span>"
        )
    return f'<div class="legend">{"".join(chips)}</div>'
