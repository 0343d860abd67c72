"""The help text of a command. Each field of its sections gives an option, a kind of value, a docstring and a
default."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from alray.config.arguments import metavar, option
from alray.config.fields import COMMON, Frozen, marked, section_of
from alray.config.meanings import meanings

Shown = tuple[str, Frozen | type[Frozen]]
"""The prefix of a section's options, and the section itself. An instance of a section has the defaults to show."""


def help_text(usage: str, about: str, sections: Sequence[Shown], every: bool) -> str:
    """The help text. usage: the usage line; about: the first paragraph; every: show all options, not only common
    ones."""
    parts = [f"usage: {usage}", _wrap(about, "")]
    for prefix, section in sections:
        parts += _section(prefix, section, every)
    if not every:
        parts.append("Other options: --help-all")
    return "\n\n".join(filter(None, parts))


def _section(prefix: str, section: Frozen | type[Frozen], every: bool) -> Iterator[str]:
    model = section if isinstance(section, type) else type(section)
    lines, inside = [], []
    for name, field in model.model_fields.items():
        if section_of(field) is not None:
            inside.append(name)
        elif every or marked(field, COMMON):
            shown = _default(section, name, field)
            lines.append(_field(f"{prefix}{name}", field, meanings(model)[name], shown))
    if lines:
        title = _wrap(inspect.getdoc(model) or "", "")
        yield "\n".join([title, *lines])
    for name in inside:
        yield from _section(f"{prefix}{name}.", getattr(section, name), every)


def _default(section: Frozen | type[Frozen], name: str, field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True) if isinstance(section, type) else getattr(section, name)


def _field(path: str, field: FieldInfo, meaning: str, default: Any) -> str:
    shown = "" if field.is_required() else f" (default: {_text(default)})"
    return f"  {option(path)} {metavar(field)}\n" + _wrap(f"{meaning}{shown}", " " * 8)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {one}" for name, one in value.items()) or "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "empty" if value == "" else str(value)


def _wrap(text: str, indent: str) -> str:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    words = " ".join(text.split())
    return textwrap.fill(words, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
