"""The check's result as Markdown: one table for each kind of row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(result: Mapping[str, Any]) -> str:
    """All sections."""
    about = result["about"]
    lines = [
        "# Device check",
        "",
        f"{about['card']}, driver {about['driver'] or 'none'}, CUDA {about['cuda'] or 'none'}, torch "
        f"{about['versions']['torch']}, {about['cpus']} CPUs, {about['memory_gib']} GiB; alray {about['commit']}; "
        f"{about['date']}{'; tiny sizes, which say nothing about speed' if about['tiny'] else ''}",
    ]
    for name, section in result["sections"].items():
        lines += ["", f"## {name}. {section['title']}", ""]
        lines.append(_state(section))
        lines += [f"* {note}" for note in section["notes"]]
        for table in dict.fromkeys(row["table"] for row in section["rows"]):
            rows = [
                {key: value for key, value in row.items() if key != "table"}
                for row in section["rows"]
                if row["table"] == table
            ]
            lines += ["", f"{table}:", "", *_table(rows)]
        if section["error"]:
            lines += ["", "```", section["error"].strip(), "```"]
    return "\n".join(lines) + "\n"


def _state(section: Mapping[str, Any]) -> str:
    if section["error"]:
        return "**Failed**; what was measured before is below.\n"
    return f"Finished in {section['seconds']} s.\n" if section["finished"] else "Not finished.\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [
        f"| {' | '.join(name.replace('_', ' ') for name in names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "/").replace("\n", " ")
