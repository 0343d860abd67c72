"""Charts as SVG for the page: axes with units, one style per method, inks that follow the page's theme.

Colours are CSS variables, so that the same chart is readable on light and dark. A chart has no legend inside that could
cover data: the page has one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from alray.durations import duration, ticks, unit
from alray.report.comparisons import LEAST_SEEDS
from alray.report.panel import Curves, Panel
from alray.report.statistics import Floats, mean_interval
from alray.report.styles import REFERENCE_LINE, Style, css, styles

_INK, _GRID, _CARD = "#010203", "#040506", "#070809"  # placeholders that are replaced by CSS variables
_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "alray", "font.size": 9.5, "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "text.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False,
}  # fmt: skip
_SIZE = (4.7, 3.1)  # inches of 72 units
_MOST_MARKERS = 30
_FAR = 20  # times the shortest: a longer range of times has a logarithmic axis


def method_styles(panel: Panel) -> dict[str, Style]:
    """How each method is drawn in all charts of the page."""
    return styles({method: panel.strategy_of[method] for method in panel.methods})


def svg(draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE) -> Markup:
    """A drawing as an <svg> element that fills its container and uses the page's colours.

    This is the only text that the page does not escape: matplotlib has escaped all names in it.
    """
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
    return Markup(re.sub(r"(stroke|fill): (#[0-9a-f]{6})", lambda m: f"{m[1]}: {css(m[2])}", text))


def labels_axis(ax: Axes) -> None:
    """Make x the number of labels."""
    ax.set_xlabel("labels, seed set included")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def counts_axes(ax: Axes, smallest: float, largest: float, noun: str) -> None:
    """Make x the rank of a class and y the number of labeled images or pixels: linear where the classes are alike, else
    logarithmic. smallest, largest: of all counts that are drawn."""
    if largest <= 30 * max(smallest, 1):
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    elif smallest < 1:
        ax.set_yscale("symlog", linthresh=1)  # can show classes without a label, which a logarithm cannot
    else:
        ax.set_yscale("log")
    if ax.get_yscale() == "log":
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.set_xlabel(f"class, most {noun}s first")
    ax.set_ylabel(f"labeled {noun}s")


def line(ax: Axes, x: Floats, y: Floats, style: Style) -> None:
    """A line with markers, unless they would touch."""
    marker = style.marker if len(x) <= _MOST_MARKERS else None
    ax.plot(x, y, color=style.color, linestyle=style.dashes, marker=marker, markersize=4.5, linewidth=1.7)


def _fit(ax: Axes, grid: Floats) -> None:
    """Give all charts of a setting the same width, also where lines end early."""
    labels_axis(ax)
    if len(grid) == 1:
        ax.set_xticks(list(grid))
    else:
        margin = 0.04 * (grid[-1] - grid[0])
        ax.set_xlim(grid[0] - margin, grid[-1] + margin)


def _band(ax: Axes, curves: Curves, values: Floats, style: Style) -> None:
    """Mean over seeds with its 95 % confidence band, or with the single seeds where they are too few for a band."""
    mean = mean_interval(values)
    line(ax, curves.labels, mean.mean, style)
    if len(values) >= LEAST_SEEDS:
        ax.fill_between(curves.labels, mean.low, mean.high, color=style.color, alpha=0.14, linewidth=0)
    elif len(values) > 1:
        for row in values:
            ax.plot(curves.labels, row, color=style.color, linewidth=0.6, alpha=0.6)


def curves_chart(panel: Panel, setting: str, scalar: str, y: str, scale: float = 1.0, *, whole: bool = False) -> Markup:
    """A scalar against labels, a line per method. whole: the scalar counts things, so that its axis starts at 0."""

    def draw(ax: Axes) -> None:
        for method, style in method_styles(panel).items():
            curves = panel.curves(setting, method, scalar)
            if curves is not None:
                _band(ax, curves, curves.values * scale, style)
        _fit(ax, panel.grid(setting))
        ax.set_ylabel(y)
        if whole:
            ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            ax.set_ylim(bottom=0)

    return svg(draw)


def difference_chart(panel: Panel, setting: str, scalar: str, short: str) -> Markup:
    """Each method minus the reference, paired by seed, in percentage points. short: the name of the metric."""

    def draw(ax: Axes) -> None:
        ax.axhline(0, color=REFERENCE_LINE, linewidth=1.2)
        for method, style in method_styles(panel).items():
            pair = panel.paired(setting, method, panel.reference or "", scalar) if method != panel.reference else None
            if pair is not None:
                _band(ax, pair[0], 100 * (pair[0].values - pair[1].values), style)
        _fit(ax, panel.grid(setting))
        ax.set_ylabel(f"points of {short} over {panel.reference}")

    return svg(draw)


def efficiency_chart(panel: Panel, setting: str, ratios: Mapping[str, tuple[Floats, Floats]]) -> Markup:
    """Labels that the reference needs over labels used. ratios: method -> labels, ratio (above 1: labels saved)."""

    def draw(ax: Axes) -> None:
        ax.axhline(1, color=REFERENCE_LINE, linewidth=1.2)
        for method, style in method_styles(panel).items():
            if method in ratios:
                line(ax, *ratios[method], style)
        _fit(ax, panel.grid(setting))
        ax.set_ylabel(f"labels {panel.reference} needs / labels used")

    return svg(draw)


def counts_chart(panel: Panel, counts: Mapping[str, Floats]) -> Markup:
    """Labels per class in the last round, classes sorted. counts: method -> (seeds, classes), each row descending."""

    def draw(ax: Axes) -> None:
        means = {method: found.mean(axis=0) for method, found in counts.items()}
        for method, style in method_styles(panel).items():
            if method in means:
                line(ax, np.arange(1.0, len(means[method]) + 1), means[method], style)
        smallest = min((float(mean.min()) for mean in means.values()), default=np.inf)
        largest = max((float(mean.max()) for mean in means.values()), default=1.0)
        counts_axes(ax, smallest, largest, panel.counted.noun)

    return svg(draw)


def cost_chart(panel: Panel, points: Mapping[str, tuple[Floats, Floats]], x: str, y: str) -> Markup:
    """Accuracy against mean seconds spent up to each round. points: method -> seconds (r,), percent (r,). The axis is
    linear where the rounds take about as long as each other, else logarithmic, with a tick at round times."""
    spent = np.concatenate([seconds for seconds, _ in points.values()])

    def draw(ax: Axes) -> None:
        for method, style in method_styles(panel).items():
            if method in points:
                line(ax, *points[method], style)
        if spent.max() > _FAR * spent.min():
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(ticks(spent.min() / 1.1, spent.max() * 1.1)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
            ax.set_xlabel(f"{x}, log scale")
        else:
            _time_axis(ax, float(spent.max()), x)
        ax.set_ylabel(y)

    return svg(draw)


def stages_chart(seconds: Mapping[str, Mapping[str, float]]) -> Markup:
    """Mean time per run by stage, a bar per method. seconds: method -> stage -> seconds, the same stages for all.
    Stages are shades of the ink, because colours belong to strategies."""
    names = list(seconds)
    longest = max(sum(stages.values()) for stages in seconds.values())

    def draw(ax: Axes) -> None:
        left = np.zeros(len(names))
        for stage, shade in stage_shades(seconds).items():
            width = np.array([seconds[name][stage] for name in names])
            ax.barh(names, width, left=left, color=_INK, alpha=shade, height=0.62)
            ax.barh(names, width, left=left, color="none", edgecolor=_CARD, linewidth=0.8, height=0.62)
            left += width
        ax.invert_yaxis()
        ax.grid(visible=False)
        _time_axis(ax, longest, "time per run")

    return svg(draw, (_SIZE[0], max(1.8, 0.9 + 0.32 * len(names))))


def _time_axis(ax: Axes, longest: float, what: str) -> None:
    """Make x, which is in seconds, a linear axis in the unit that fits: seconds, minutes or hours."""
    size, symbol = unit(longest)
    step = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
    ax.xaxis.set_major_locator(FixedLocator([size * tick for tick in step.tick_values(0, longest / size)]))
    ax.set_xlim(0, 1.04 * longest)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:,g}"))
    ax.set_xlabel(f"{what} ({symbol})")


def stage_shades(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The opacity of each stage in `stages_chart`."""
    stages = list(next(iter(seconds.values()), {}))
    return dict(zip(stages, np.linspace(0.9, 0.15, len(stages)).tolist(), strict=True))
