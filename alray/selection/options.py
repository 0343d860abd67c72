"""Options of a strategy: declared as the fields of its class, checked when an object is made, listed for people.

A field's type, its constraints and the docstring below it are the only declaration: they decide what is accepted, what
the error message states as expected, and what `alray strategies` prints.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

from alray.config.meanings import meanings
from alray.config.wording import expected
from alray.selection.protocol import SelectionError, Strategy

# Strict: True is not an integer, and neither is 3.0.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_PYDANTIC = "__pydantic_fields__"
Kind = TypeVar("Kind", bound=type[Strategy])


def _flag(value: Any) -> Any:
    """The texts "true" and "false", in any case, as bool; everything else is left to the validation."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[int, Field(ge=1)]


@dataclass_transform(frozen_default=True)
def with_options(kind: Kind) -> Kind:
    """Class decorator: makes a strategy a frozen dataclass whose fields are checked options.

    Constructing it with an unknown option or a wrong value raises SelectionError, in one line: the strategy, the
    option, what was expected, what was got.
    """
    made: Any = pydantic_dataclass(frozen=True, config=_STRICT)(kind)
    validate: Callable[..., None] = made.__init__

    @wraps(validate)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        try:
            validate(self, *map(_plain, args), **{name: _plain(value) for name, value in options.items()})
        except ValidationError as error:
            raise _explained(made, error) from None

    made.__init__ = checked
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Option:
    """One option of a strategy, in words: its name, the values it takes, its default (None: it must be given), and what
    it means."""

    name: str
    expected: str
    default: str | None
    meaning: str


def options_of(kind: type[Strategy]) -> list[Option]:
    """The options of a strategy, in the order of its constructor; also of a class that is not made by `with_options`,
    whose types are those of its constructor."""
    made: Mapping[str, FieldInfo] | None = vars(kind).get(_PYDANTIC)
    fields = {name: FieldInfo.from_annotation(hint) for name, hint in _hints(kind).items()} if made is None else made
    found = []
    for name, parameter in inspect.signature(kind).parameters.items():
        default = None if parameter.default is parameter.empty else as_text(parameter.default)
        values = expected(fields[name]) if name in fields else ""
        meaning = meanings(kind).get(name, "")
        found.append(Option(name, values, default, " ".join(meaning.split())))
    return found


def checked_values(name: str, kind: type[Strategy], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options for the constructor. Raises SelectionError where one is not of the type that the
    constructor declares. A class that is made by `with_options` checks its values itself.

    name: that of the strategy, for messages.
    """
    given = {option: _plain(value) for option, value in options.items()}
    if _PYDANTIC in vars(kind):
        return given
    for option, hint in _hints(kind).items():
        if option not in given:
            continue
        try:
            given[option] = TypeAdapter(Flag if hint is bool else hint, config=_STRICT).validate_python(given[option])
        except ValidationError:
            words = expected(FieldInfo.from_annotation(hint))
            raise SelectionError(
                f"strategy {name}: {kind.__name__}.{option}: expected {words}, got {given[option]!r}"
            ) from None
    return given


def _hints(kind: type[Strategy]) -> dict[str, Any]:
    """The types that the constructor of a class declares, where they can be told and checked: numbers, texts, true or
    false, some of these."""
    try:
        hints = get_type_hints(kind.__init__, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a name that is known only where the class is written
        return {}
    return {name: hint for name, hint in hints.items() if name != "return" and _is_scalar(hint)}


def _is_scalar(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _is_scalar(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_scalar, get_args(hint)))
    return get_origin(hint) is Literal or hint in (bool, int, float, str, type(None))


def as_text(value: Any) -> str:
    """A value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """A NumPy number as the Python number that it is."""
    return value.item() if isinstance(value, np.generic) else value


def _explained(kind: Any, error: ValidationError) -> SelectionError:
    """The first problem, in one line."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SelectionError):  # raised by the class itself, in __post_init__
        return cause
    fields: dict[str, FieldInfo] = kind.__pydantic_fields__
    name, option = _name(kind), first["loc"][0] if first["loc"] else ""
    if first["type"] == "unexpected_positional_argument":
        return SelectionError(f"{name}: expected at most {len(fields)} options, got more")
    if option not in fields:
        there = f"expected one of {', '.join(fields)}" if fields else "it has none"
        return SelectionError(f"{name}: unknown option {option!r}; {there}")
    got = "nothing" if first["type"] == "missing" else repr(first["input"])
    return SelectionError(f"{name}: {option}: expected {expected(fields[str(option)])}, got {got}")


def _name(kind: type) -> str:
    """A class's name as strategies are named: RobustKCenter is robust_k_center."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__.lstrip("_")).lower()
