"""One HTML file with everything in it: no script, no server, no network; light or dark as the reader's system is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from alray.report import charts
from alray.report.analysis import BEST, TIE, UNDECIDED, Analysis
from alray.report.gallery import Picture, Wall
from alray.report.panel import PEEKING, Panel
from alray.report.sections import NAMES, Section
from alray.report.tables import Table

_LONG = 40  # lines from which a table is folded
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
        f"{len(panel.methods)} strategies, {len(panel.settings)} setting{'s' if len(panel.settings) > 1 else ''}, "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, {len(panel.lines)} complete runs. "
        f"Measure: {NAMES.get(found.measure, found.measure)}."
    )
    parts = [f"<p>{escape(what)}</p>"]
    if any(strategy in PEEKING for strategy in panel.strategy_of.values()):
        parts.append("<p>* looks at labels nobody has paid for: a bound, not a strategy.</p>")
    parts += [f'<div class="warning">{escape(text)}</div>' for text in found.warnings]
    if unfinished.rows:
        parts.append(f'<div class="warning">{len(unfinished.rows)} trials did not finish:</div>{_table(unfinished)}')
    if found.verdicts:
        parts.append(f"<h3>What the seeds support</h3>{_verdicts(found.verdicts)}")
    return "\n".join(parts)


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
        f"<figure><figcaption>{escape(chart.caption)}</figcaption>{chart.svg}</figure>" for chart in part.charts
    )
    if part.id == "time":
        figures = f'<p class="legend">{charts.stage_key()}</p>' + f'<div class="charts">{figures}</div>'
    elif figures:
        figures = f'<div class="charts">{figures}</div>'
    return (
        f'<section id="{part.id}"><h2>{escape(part.title)}</h2>{notes}{legend if part.charts else ""}{figures}'
        + "".join(f"<h3>{escape(table.title)}</h3>{_table(table)}" for table in part.tables)
        + "</section>"
    )


def _table(table: Table) -> str:
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
    return f"<td{_class(is_text)}>{escape(text)}</td>"


def _gallery(walls: Sequence[Wall], note: str) -> str:
    if not walls and not note:
        return ""
    parts = ['<section id="gallery"><h2>Gallery</h2>']
    if walls:
        parts.append(
            '<p class="note">Picked images by class. Surprise: 1 minus the probability the model gave to the label '
            "before it was told; the most surprising class and image come first. Score: the strategy's own, higher was "
            "taken first.</p>"
        )
    if note:
        parts.append(f'<p class="note">{escape(note)}</p>')
    for number, wall in enumerate(walls):
        parts.append(_wall(wall, opened=number == 0))
    return "\n".join([*parts, "</section>"])


def _wall(wall: Wall, opened: bool) -> str:
    shown = sum(len(pictures) for _, pictures in wall.classes)
    where = f", {wall.line.setting}" if wall.line.setting else ""
    order = "most surprising first" if wall.by_surprise else "highest score first (surprise cannot be computed)"
    title = (
        f"{wall.line.method}{where}, seed {wall.line.seed}, round {wall.round}: {shown} of {wall.of:,} picks, {order}"
    )
    classes = "".join(
        f'<div><h4>{escape(name)}</h4><div class="pictures">{"".join(map(_picture, pictures))}</div></div>'
        for name, pictures in wall.classes
    )
    return (
        f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>"
        f'<div class="walls">{classes}</div></details>'
    )


def _picture(picture: Picture) -> str:
    said = f"{picture.surprise:.2f} · " if picture.surprise is not None else ""
    return (
        f'<div class="picture" title="{escape(picture.key)}"><img alt="{escape(picture.label)}" loading="lazy" '
        f'src="data:image/jpeg;base64,{picture.jpeg}">{said}score {picture.score:.3g}</div>'
    )
