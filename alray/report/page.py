"""One HTML file with everything in it: no script, no server, no network; light or dark as the reader's system is."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from html import escape
from importlib.resources import files

from alray.report import charts
from alray.report.analysis import BEST, TIE, Analysis
from alray.report.claims import UNDECIDED
from alray.report.gallery import Picture, Wall
from alray.report.layout import Section
from alray.report.measures import measure
from alray.report.panel import Panel
from alray.report.tables import Table

_LONG = 40  # lines from which a table is folded
_SHORT = 20  # letters of a cell that is not worth breaking
_NUMBER = re.compile(r"[<>\[]?\s*[-+±–]?\d[^a-z]*( to .*)?$|–$|$")
_RATIO = re.compile(r"(\d+)/(\d+)")


def page(
    panel: Panel,
    found: Analysis,
    parts: Sequence[Section],
    walls: Sequence[Wall],
    gallery_note: str,
    unfinished: Table,
    title: str,
) -> str:
    """The whole page."""
    legend = charts.legend(panel)
    links = [(part.id, part.title) for part in parts] + ([("gallery", "Gallery")] if walls or gallery_note else [])
    body = [
        f"<h1>{escape(title)}</h1>",
        _summary(panel, found, unfinished),
        "<nav>" + "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links) + "</nav>",
        *(_section(part, legend) for part in parts),
        _gallery(walls, gallery_note),
        "<footer>Made by alray. The same tables are beside this file as Markdown and CSV.</footer>",
    ]
    css = files("alray.report").joinpath("page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>\n{css}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _summary(panel: Panel, found: Analysis, unfinished: Table) -> str:
    seeds = {line.seed for line in panel.lines}
    what = (
        f"{_count(panel.methods, 'strategy', 'strategies')}, {_count(panel.settings, 'setting', 'settings')}, "
        f"{_count(seeds, 'seed', 'seeds')}, {_count(panel.lines, 'complete run', 'complete runs')}. "
        f"Measure: {measure(found.measure, panel.pixels).name}."
    )
    parts = [f"<p>{escape(what)}</p>"]
    if any(method.endswith("*") for method in panel.methods):
        parts.append("<p>* looks at labels nobody has paid for: a bound, not a strategy.</p>")
    parts += [f'<div class="warning">{escape(text)}</div>' for text in found.warnings]
    if unfinished.rows:
        parts.append(f'<div class="warning">{len(unfinished.rows)} trials did not finish:</div>{_table(unfinished)}')
    if found.verdicts:
        parts.append(f"<h3>What the seeds support</h3>{_verdicts(found.verdicts)}")
    return "\n".join(parts)


def _count(things: Collection[object], one: str, many: str) -> str:
    return f"{len(things):,} {one if len(things) == 1 else many}"


def _verdicts(texts: Sequence[str]) -> str:
    """Claims as a list; what could not be shown is folded where there is much of it."""
    claims = [text for text in texts if UNDECIDED not in text]
    rest = [text for text in texts if UNDECIDED in text]
    lists = ["".join(f"<li>{escape(text)}</li>" for text in group) for group in (claims, rest)]
    found = f"<ul>{lists[0]}</ul>" if claims else "<p>No difference to random sampling can be called real.</p>"
    if len(rest) > 6:
        return (
            f"{found}<details><summary>{len(rest)} comparisons without a claim</summary><ul>{lists[1]}</ul></details>"
        )
    return f"{found}<ul>{lists[1]}</ul>" if rest else found


def _section(part: Section, legend: str) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in part.notes)
    figures = "".join(
        f"<figure><figcaption>{escape(chart.caption)}</figcaption>{chart.key}{chart.svg}</figure>"
        for chart in part.charts
    )
    if figures:
        figures = f'<div class="charts">{figures}</div>'
    return (
        f'<section id="{part.id}"><h2>{escape(part.title)}</h2>{notes}{legend if part.charts else ""}{figures}'
        + "".join(f"<h3>{escape(table.title)}</h3>{_table(table)}" for table in part.tables)
        + "</section>"
    )


def _table(table: Table) -> str:
    table = _without_setting(table)
    text = [any(_NUMBER.match(row[i]) is None for row in table.rows) for i in range(len(table.head))]
    head = "".join(f"<th{_class(is_text)}>{escape(cell)}</th>" for cell, is_text in zip(table.head, text, strict=True))
    rows = "".join(
        "<tr>" + "".join(_cell(cell, is_text) for cell, is_text in zip(row, text, strict=True)) + "</tr>"
        for row in table.rows
    )
    html = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    if len(table.rows) > _LONG:
        return f"<details><summary>{len(table.rows)} lines</summary>{html}</details>"
    return html


def _without_setting(table: Table) -> Table:
    """The table without a column that tells nothing apart, because there is one setting."""
    at = table.head.index("setting") if "setting" in table.head else None
    if at is None or any(row[at] != "all" for row in table.rows):
        return table
    head, *rows = [line[:at] + line[at + 1 :] for line in (table.head, *table.rows)]
    return Table(table.title, head, tuple(rows))


def _class(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def _cell(text: str, is_text: bool) -> str:
    if BEST in text:
        return f'<td class="best">{escape(text)}</td>'
    if TIE in text:
        return f'<td class="tie">{escape(text)}</td>'
    if (match := _RATIO.fullmatch(text)) and int(match[2]) and int(match[1]):
        share = round(60 * int(match[1]) / int(match[2]))
        return f'<td style="background:color-mix(in srgb,var(--hit) {share}%,transparent)">{escape(text)}</td>'
    short = ' class="text short"' if is_text and len(text) <= _SHORT else _class(is_text)
    return f"<td{short}>{escape(text)}</td>"


def _gallery(walls: Sequence[Wall], note: str) -> str:
    if not walls and not note:
        return ""
    parts = ['<section id="gallery"><h2>Gallery</h2>']
    if walls:
        parts.append(f'<p class="note">{_BY_CLASS if _by_class(walls[0]) else _WHOLE}</p>')
    if note:
        parts.append(f'<p class="note">{escape(note)}</p>')
    for number, wall in enumerate(walls):
        parts.append(_wall(wall, opened=number == 0))
    return "\n".join([*parts, "</section>"])


_SCORE = "Score: the strategy's own, higher was taken first."
_BY_CLASS = (
    "Picked images by class. Surprise: 1 minus the probability the model gave to the label before it was told; the "
    f"most surprising class and image come first. {_SCORE}"
)
_WHOLE = f"Picked images, which have many classes each: not sorted by class. {_SCORE}"


def _by_class(wall: Wall) -> bool:
    return all(name for name, _ in wall.classes)


def _wall(wall: Wall, opened: bool) -> str:
    shown = sum(len(pictures) for _, pictures in wall.classes)
    where = f", {wall.line.setting}" if wall.line.setting else ""
    unknown = " (surprise cannot be computed)" if _by_class(wall) and wall.round is not None else ""
    order = "most surprising first" if wall.by_surprise else f"highest score first{unknown}"
    when = "the seed set it chose" if wall.round is None else f"round {wall.round}"
    title = f"{wall.line.method}{where}, seed {wall.line.seed}, {when}: {shown} of {wall.of:,} picks, {order}"
    classes = "".join(
        f'<div>{f"<h4>{escape(name)}</h4>" if name else ""}<div class="pictures">{"".join(map(_picture, pictures))}'
        "</div></div>"
        for name, pictures in wall.classes
    )
    return (
        f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>"
        f'<div class="{"walls" if _by_class(wall) else "wall"}">{classes}</div></details>'
    )


def _picture(picture: Picture) -> str:
    said = f"surprise {picture.surprise:.2f}<br>" if picture.surprise is not None else ""
    return (
        f'<div class="picture" title="{escape(picture.key)}"><img alt="{escape(picture.label)}" loading="lazy" '
        f'src="data:image/jpeg;base64,{picture.jpeg}">{said}score {picture.score:.3g}</div>'
    )
