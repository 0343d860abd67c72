"""Which values a field takes, in words: for messages, for help, and for `alray strategies`."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

_ONE = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_SEVERAL = {int: "integers", float: "numbers", str: "texts"}
_LIMITS = {"ge": "of at least", "gt": "greater than", "le": "of at most", "lt": "below"}


def expected(field: FieldInfo) -> str:
    """The values that a field takes: an integer of at least 1; one of random, balanced."""
    words, limits = described(field.annotation), _limits(field)
    if limits.keys() == {"ge", "lt"}:
        return f"{words} from {limits['ge']} to below {limits['lt']}"
    if limits.keys() == {"gt", "le"} and limits["gt"] == 0:
        return f"{words} greater than 0 and of at most {limits['le']}"
    said = " and ".join(f"{_LIMITS[name]} {limit}" for name, limit in limits.items())
    pattern = next((part.pattern for part in field.metadata if getattr(part, "pattern", None)), "")
    return f"{words} {said}".rstrip() + (f" that matches {pattern}" if pattern else "")


def described(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return f"{'one of ' if len(get_args(kind)) > 1 else ''}{', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is Annotated:
        return expected(FieldInfo.from_annotation(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else described(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        several = _SEVERAL.get(parts[0], "values")
        return several if parts[-1] is Ellipsis else f"{len(parts)} {several}"
    if get_origin(kind) is dict:
        value = get_args(kind)[1]
        return "names and values" if value is Any else f"names and values, each {described(value)}"
    return _ONE.get(kind, str(kind))


def inside(field: FieldInfo, steps: Sequence[str | int]) -> str:
    """The values that a part of a field takes. steps: the way to the part from the field, as pydantic gives it."""
    kind = field.annotation
    for step in steps:
        args = get_args(kind)
        if get_origin(kind) is tuple:
            kind = args[0] if args[-1] is Ellipsis else args[min(int(step), len(args) - 1)]
        elif get_origin(kind) is dict:
            kind = args[1]
        else:
            return expected(field)
    return described(kind) if steps else expected(field)


def got(value: Any) -> str:
    """A value for a message; a text that is a number, as command lines give them, without quotes."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return repr(value)
        return value
    return repr(value)


def path_of(steps: Sequence[str | int], known: Mapping[str, FieldInfo]) -> tuple[str, Sequence[str | int]]:
    """The path of the field that an error is about, and the way from there to the part of its value."""
    for end in range(len(steps), 0, -1):
        path = ".".join(map(str, steps[:end]))
        if path in known:
            return path, steps[end:]
    return ".".join(map(str, steps)), ()


def _limits(field: FieldInfo) -> dict[str, Any]:
    return {name: getattr(part, name) for part in field.metadata for name in _LIMITS if hasattr(part, name)}
