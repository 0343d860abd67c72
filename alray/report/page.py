"""One HTML file with everything in it: no script, no server, no network; light or dark as the reader's system is.

The templates in `templates/` escape every text. The only exception are charts, which `charts.svg` marks as safe.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from alray.report.analysis import BEST, TIE, Analysis
from alray.report.charts import method_styles
from alray.report.claims import UNDECIDED
from alray.report.gallery import Wall
from alray.report.layout import Section
from alray.report.metrics import metric
from alray.report.panel import PEEKS, Panel
from alray.report.styles import Style
from alray.report.tables import Table

_LONG = 40  # tables with more rows are folded
_MANY = 6  # lists of comparisons without a claim that are longer are folded
_SHORT = 20  # letters up to which a cell is never broken into lines
_NUMBER = re.compile(r"[<>\[]?\s*[-+±–]?\d[^a-z]*( to .*)?$|–$|$")
_RATIO = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Cell:
    """A cell of an HTML table. kind: CSS classes; share: percent of the highlight colour behind it."""

    text: str
    kind: str
    share: int = 0


@dataclass(frozen=True)
class Grid:
    """A table as HTML shows it."""

    title: str
    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool


@dataclass(frozen=True)
class Key:
    """An entry of the legend. seeds: how many each setting has, in words."""

    method: str
    seeds: str
    style: Style


def page(
    panel: Panel,
    found: Analysis,
    parts: Sequence[Section],
    walls: Sequence[Wall],
    gallery_note: str,
    unfinished: Table,
    title: str,
) -> str:
    """The whole page.

    found: of the main accuracy; parts: its sections; walls, gallery_note: as `gallery` gives them; unfinished: trials
    of sweeps that did not finish.
    """
    environment = Environment(
        loader=PackageLoader("alray.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["grid"] = grid
    return environment.get_template("page.html.jinja").render(
        title=title,
        summary=_summary(panel, found),
        peeks=PEEKS if any(line.peeks for line in panel.lines) else "",
        warnings=found.warnings,
        unfinished=unfinished,
        claims=[text for text in found.verdicts if UNDECIDED not in text],
        undecided=[text for text in found.verdicts if UNDECIDED in text],
        many=_MANY,
        legend=list(_legend(panel)),
        parts=parts,
        walls=[(wall, _wall_title(wall)) for wall in walls],
        gallery_note=gallery_note,
    )


def _summary(panel: Panel, found: Analysis) -> str:
    counts = [len(panel.select(setting, method)) for setting in panel.settings for method in panel.methods]
    return (
        f"{_count(panel.methods, 'strategy', 'strategies')}, {_count(panel.settings, 'setting', 'settings')}, "
        f"{_seeds(counts)}, {_count(panel.lines, 'complete run', 'complete runs')}. "
        f"Measure: {metric(found.measure, panel.counted).name}."
    )


def _count(things: Collection[object], one: str, many: str) -> str:
    return f"{len(things):,} {one if len(things) == 1 else many}"


def _legend(panel: Panel) -> Iterator[Key]:
    for method, style in method_styles(panel).items():
        yield Key(method, _seeds([len(panel.select(setting, method)) for setting in panel.settings]), style)


def _seeds(counts: Sequence[int]) -> str:
    """'2 to 3 seeds'. counts: seeds of a method in a setting, 0 where it was not run."""
    fewest, most = min(filter(None, counts)), max(counts)
    return f"{fewest}{f' to {most}' if most > fewest else ''} seed{'s' if most > 1 else ''}"


def grid(table: Table) -> Grid:
    """A table with the CSS classes of its cells, without a column `setting` that is the same in all rows."""
    table = _without_setting(table)
    text = [any(_NUMBER.match(row[i]) is None for row in table.rows) for i in range(len(table.head))]
    head = tuple(Cell(cell, "text" if is_text else "") for cell, is_text in zip(table.head, text, strict=True))
    rows = tuple(tuple(_cell(*both) for both in zip(row, text, strict=True)) for row in table.rows)
    return Grid(table.title, head, rows, len(rows) > _LONG)


def _without_setting(table: Table) -> Table:
    at = table.head.index("setting") if "setting" in table.head else None
    if at is None or any(row[at] != "all" for row in table.rows):
        return table
    head, *rows = [line[:at] + line[at + 1 :] for line in (table.head, *table.rows)]
    return Table(table.title, head, tuple(rows))


def _cell(text: str, is_text: bool) -> Cell:
    if BEST in text or TIE in text:
        return Cell(text, "best" if BEST in text else "tie")
    if (match := _RATIO.fullmatch(text)) and int(match[2]):
        return Cell(text, "", round(60 * int(match[1]) / int(match[2])))
    short = " short" if len(text) <= _SHORT else ""
    return Cell(text, f"text{short}" if is_text else "")


def _wall_title(wall: Wall) -> str:
    shown = sum(len(pictures) for _, pictures in wall.classes)
    where = f", {wall.line.setting}" if wall.line.setting else ""
    unknown = " (the surprise is unknown)" if wall.by_class and wall.round is not None else ""
    order = "most surprising first" if wall.by_surprise else f"highest score first{unknown}"
    when = "seed set that it chose" if wall.round is None else f"round {wall.round}"
    return f"{wall.line.method}{where}, seed {wall.line.seed}, {when}: {shown} of {wall.of:,} picks, {order}"
