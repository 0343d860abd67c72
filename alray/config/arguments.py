"""Texts of a command line as values of fields: ``--train.lr 0.3``, ``--top-k 3 5``, ``--strategy-options rest carry``.

Every field of a section is an option under its path; hyphens and underscores in names are the same. Values are checked
by the sections themselves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from alray.config.fields import PAIRS, ConfigError, marked, nearest
from alray.config.pairs import pairs
from alray.reasons import ours

_TRUTH = ("true", "false", "yes", "no", "on", "off", "1", "0")  # what pydantic takes for a bool

Fields = Mapping[str, FieldInfo]


def option(path: str) -> str:
    """How the field is written on a command line."""
    return f"--{path.replace('_', '-')}"


@contextmanager
def as_typed(fields: Collection[str], words: Collection[str] = ()) -> Iterator[None]:
    """Context manager: an error of alray that begins with the path of a field names it as it is written on a command
    line. words: fields that are given as words there."""
    try:
        yield
    except Exception as error:
        if ours(error) and error.args and isinstance(error.args[0], str):
            lines = [_typed(line, fields, words) for line in error.args[0].split("\n")]
            error.args = ("\n".join(lines), *error.args[1:])
        raise


def _typed(line: str, fields: Collection[str], words: Collection[str]) -> str:
    path, colon, rest = line.partition(": ")
    if not colon or path not in fields:
        return line
    return f"{path.upper() if path in words else option(path)}: {rest}"


def split(arguments: Sequence[str], fields: Fields, once: bool = False) -> tuple[list[str], dict[str, list[str]]]:
    """The words that belong to no option, and the texts of each option that was given, by path.

    An option that is given again replaces the former one, or is refused if `once` is true; pairs add up. Raises
    ConfigError, also on an unknown option.
    """
    words: list[str] = []
    found: dict[str, list[str]] = {}
    is_flag = False  # whether the option before is a switch, which needs no value
    into, room = words, False  # room: whether an option of one value still waits for it
    for text in arguments:
        if text.startswith("--"):
            path, first = _path(text, fields)
            if path not in found or not marked(fields[path], PAIRS):
                if once and path in found:
                    raise ConfigError(f"{option(path)}: expected once, got it again")
                found[path] = []
            found[path] += first
            room = not takes_several(fields[path])
            into = words if room and first else found[path]
            is_flag = fields[path].annotation is bool and not first
        elif is_flag and text.lower() not in _TRUTH:
            words.append(text)
            into, is_flag = words, False
        else:
            is_flag = False
            into.append(text)
            into = words if room else into
    return words, found


def _path(text: str, fields: Fields) -> tuple[str, list[str]]:
    """The field of an option, and what the option itself says of its value: all of ``--a=1``, the name in ``--a.b``."""
    name, equals, value = text[2:].partition("=")
    path, first = name.replace("-", "_"), [value] if equals else []
    if path in fields:
        return path, first
    for known, field in fields.items():
        if marked(field, PAIRS) and path.startswith(f"{known}."):
            return known, [path[len(known) + 1 :], *first]
    raise ConfigError(f"--{name}: no such option; the nearest are {_options(nearest(path, fields))}")


def _options(paths: Collection[str]) -> str:
    return ", ".join(map(option, paths)) or "none (this command takes no options)"


def takes_several(field: FieldInfo) -> bool:
    """Whether the option takes any number of values."""
    kinds = (field.annotation, *get_args(field.annotation))
    return marked(field, PAIRS) or any(get_origin(kind) is tuple for kind in kinds)


def value(path: str, field: FieldInfo, texts: list[str]) -> Any:
    """What the texts of an option stand for, as its section can validate it. Raises ConfigError."""
    try:
        if marked(field, PAIRS):
            return pairs(texts)
        if takes_several(field):
            if len(texts) == 1 and "," in texts[0]:
                raise ConfigError(f"expected values separated by spaces, got {texts[0]}")
            return None if texts == ["None"] else texts
        if not texts and field.annotation is bool:
            return True
        if len(texts) != 1:
            raise ConfigError(f"expected a value ({metavar(field)}), got none")
        return json.loads(texts[0]) if get_origin(field.annotation) is dict else texts[0]
    except json.JSONDecodeError:
        raise ConfigError(f"{option(path)}: expected a JSON object, got {texts[0]}") from None
    except ConfigError as error:
        raise ConfigError(f"{option(path)}: {error}") from None


def metavar(field: FieldInfo) -> str:
    """The kind of value that an option takes, for its help."""
    return "[NAME VALUE ...]" if marked(field, PAIRS) else _kind(field.annotation)


def _kind(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _kind(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is dict:
        return "JSON"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return f"[{_kind(parts[0])} ...]" if parts[-1] is Ellipsis else " ".join(map(_kind, parts))
    several = [_kind(part) for part in get_args(kind)]
    names = {str: "TEXT", int: "INT", float: "FLOAT", bool: "{True,False}", type(None): "None"}
    return "|".join(several) if several else names[kind]
