"""One HTML file with everything in it: no script, no server, no network; light or dark as the reader's system is.

The templates in `templates/` escape every text. The only exception are charts, which `charts.svg` marks as safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from alray.report.analysis import BEST, TIE, Analysis
from alray.report.charts import method_styles
from alray.report.claims import UNDECIDED
from alray.report.gallery import Gallery, Wall
from alray.report.header import Facts
from alray.report.layout import Section
from alray.report.panel import PEEKS, Panel
from alray.report.styles import Style, inks
from alray.report.tables import NOTHING, Table

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
class Head:
    """What stands above everything. facts: (what, value)."""

    title: str
    headline: str
    facts: Facts


@dataclass(frozen=True)
class Key:
    """An entry of the legend. seeds: how many each setting has, in words."""

    method: str
    seeds: str
    style: Style


def page(
    panel: Panel, head: Head, found: Analysis | None, parts: Sequence[Section], gallery: Gallery, unfinished: Table
) -> str:
    """The whole page.

    found: of the main accuracy, None where none was measured; parts: the sections; unfinished: trials of sweeps that
    did not finish. The learning curves come first, then the gallery, then everything else.
    """
    environment = Environment(
        loader=PackageLoader("alray.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["grid"] = grid
    verdicts = found.verdicts if found else ()
    legend = list(_legend(panel))
    return environment.get_template("page.html.jinja").render(
        head=head,
        inks=inks(method_styles(panel)),
        peeks=PEEKS if any(line.peeks for line in panel.lines) else "",
        warnings=found.warnings if found else (),
        unfinished=unfinished,
        claims=[text for text in verdicts if UNDECIDED not in text],
        undecided=[text for text in verdicts if UNDECIDED in text],
        many=_MANY,
        legend=legend,
        first=[part for part in parts if part.id == "curves"],
        parts=[part for part in parts if part.id != "curves"],
        shelves=list(_shelves(gallery, legend, panel.reference)),
        gallery=gallery,
    )


@dataclass(frozen=True)
class Shelf:
    """The walls of one method with their titles, the last round first, which stands open. seed: of the run."""

    key: Key
    seed: int
    walls: tuple[tuple[str, Wall], ...]


def _shelves(gallery: Gallery, legend: Sequence[Key], reference: str | None) -> Iterator[Shelf]:
    """A shelf for each method that has pictures. Those of random sampling come last, because they show the pool."""
    for key in sorted(legend, key=lambda key: key.method == reference):
        walls = [wall for wall in gallery.walls if wall.line.method == key.method][::-1]
        if walls:
            yield Shelf(key, walls[0].line.seed, tuple((_wall_title(wall), wall) for wall in walls))


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
    bars = [name in table.bars for name in table.head]
    rows = tuple(tuple(map(_cell, row, text, bars)) for row in table.rows)
    return Grid(table.title, head, rows, len(rows) > _LONG)


def _without_setting(table: Table) -> Table:
    at = table.head.index("setting") if "setting" in table.head else None
    if at is None or any(row[at] != "all" for row in table.rows):
        return table
    head, *rows = [line[:at] + line[at + 1 :] for line in (table.head, *table.rows)]
    return Table(table.title, head, tuple(rows), table.bars)


def _cell(text: str, is_text: bool, bar: bool = False) -> Cell:
    if bar and text != NOTHING:
        return Cell(text, "bar", round(float(text)))
    if BEST in text or TIE in text:
        return Cell(text, "best" if BEST in text else "tie")
    if (match := _RATIO.fullmatch(text)) and int(match[2]):
        return Cell(text, "", round(60 * int(match[1]) / int(match[2])))
    short = " short" if len(text) <= _SHORT else ""
    return Cell(text, f"text{short}" if is_text else "")


def _wall_title(wall: Wall) -> str:
    shown = f"{len(wall.pictures)} of {wall.of:,} pictures" if len(wall.pictures) < wall.of else f"{wall.of:,} pictures"
    if wall.round is None:
        return f"Seed set that it chose before any training: {shown}, in the order of choice"
    when = f"Picked with {wall.labels:,} labels, round {wall.round}: {shown}"
    if wall.wrong is None:
        unseen = " (no predictions of the model are known)" if wall.line.counted.class_per_image else ""
        return f"{when}, in the order of choice{unseen}"
    return f"{when}; the model was wrong on {wall.wrong:,} of {wall.of:,}"
