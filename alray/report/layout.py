"""The parts of a report: sections of sentences, charts and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from alray.report.panel import Curves, Panel
from alray.report.tables import NOTHING, Table


@dataclass(frozen=True)
class Chart:
    """A chart with its caption. shades: name -> opacity, for a legend of its own."""

    caption: str
    svg: Markup
    shades: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """One heading of a report and what stands under it. method: how the numbers are computed, which a page folds."""

    id: str
    title: str
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    method: tuple[str, ...] = ()


def titled(setting: str, text: str) -> str:
    """A caption, with the setting where there are several."""
    return f"{text} · {setting}" if setting else text


def last_values(panel: Panel, title: str, columns: Mapping[str, tuple[str, int]]) -> Table:
    """Scalars after the last round, mean and standard deviation. columns: head -> name of `scalars.flat`, digits; those
    that no run has are left out."""
    columns = {name: column for name, column in columns.items() if panel.has(column[0])}
    rows = []
    for setting in panel.settings:
        for method in panel.methods:
            found = {name: panel.curves(setting, method, scalar) for name, (scalar, _) in columns.items()}
            cells = [_spread(found[name], digits) for name, (_, digits) in columns.items()]
            if any(cell != NOTHING for cell in cells):
                rows.append((setting or "all", method, *cells))
    return Table(title, ("setting", "strategy", *columns), tuple(rows))


def _spread(curves: Curves | None, digits: int) -> str:
    if curves is None:
        return NOTHING
    last = curves.values[:, -1]
    spread = f" ± {last.std(ddof=1):.{digits}f}" if len(last) > 1 else ""
    return f"{last.mean():,.{digits}f}{spread}"
