"""What a section of a configuration is, and what its fields say about themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from alray.config.wording import expected, got, inside, path_of
from alray.credentials import WHERE_THEY_BELONG, has_credentials, redacted


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names each field, what was expected and what was got."""


class Frozen(BaseModel):
    """A section: immutable, without unknown fields, NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, defer_build=True
    )


Section = TypeVar("Section", bound=Frozen)


@dataclass(frozen=True)
class Mark:
    """A property of a field, written where the field is declared: ``lr: Annotated[float, COMMON] = 0.1``."""

    name: str


COMMON = Mark("common")
"""`--help` shows the option; `--help-all` shows every option."""
OUTSIDE = Mark("outside identity")
"""The field changes no pick (a place, a name, a number of workers): runs that differ in it alone are the same run."""
PLACE = Mark("place")
"""A path or URI. A relative path starts at the directory in which the run is started."""
PAIRS = Mark("pairs")
"""A dictionary that a command line gives as names and values."""


def marked(field: FieldInfo, mark: Mark) -> bool:
    """Whether the field carries the mark."""
    return mark in field.metadata


def section_of(field: FieldInfo) -> type[Frozen] | None:
    """The class of a field that is a section itself, else None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Frozen) else None


def leaves(model: type[Frozen], prefix: str = "") -> dict[str, FieldInfo]:
    """All fields of a section and of the sections inside it, by path."""
    return dict(_leaves(model, prefix))


def _leaves(model: type[Frozen], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        inside = section_of(field)
        if inside is None:
            yield f"{prefix}{name}", field
        else:
            yield from _leaves(inside, f"{prefix}{name}.")


def nearest(path: str, paths: Collection[str]) -> list[str]:
    """At most three of the paths that a person may have meant: fields of the same name, else similar ones."""
    name = path.rpartition(".")[2]
    same = [known for known in paths if known.rpartition(".")[2] == name]
    similar = get_close_matches(path, paths, 3)
    names = get_close_matches(name, {known.rpartition(".")[2] for known in paths}, 1)
    also = [known for known in paths if known.rpartition(".")[2] in names]
    return (same or similar or also or get_close_matches(path, paths, 3, 0.0))[:3]


def validated(model: type[Section], tree: Any, prefix: str = "") -> Section:
    """The section with these values. Raises ConfigError that names each field, after the prefix of its path, with what
    was expected."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, leaves(model), prefix)) from None


def explain(error: ValidationError, known: Mapping[str, FieldInfo] | None = None, prefix: str = "") -> str:
    """A pydantic error in one line per field: the path, what was expected, what was got. known: all fields."""
    return "\n".join(dict.fromkeys(f"{prefix}{_line(item, known or {})}" for item in error.errors()))


def _line(item: Any, known: Mapping[str, FieldInfo]) -> str:
    path, part = path_of(item["loc"], known)
    if item["type"] == "extra_forbidden":
        return f"{path}: no such field" + _meant(path, known)
    if item["type"] == "missing":
        return f"{path}: expected {expected(known[path]) if part else 'a value'}, got {'fewer' if part else 'none'}"
    if item["type"] == "value_error":
        said = str(item["ctx"]["error"])
        return f"{path}: {said}, got {redacted(got(item['input']))}" if path else said
    wanted = f"expected {inside(known[path], part)}" if path in known else item["msg"]
    return f"{path}: {wanted}, got {redacted(got(item['input']))}"


def flat_tree(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted paths; an empty mapping is a leaf, too."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {
        k: v for name, value in tree.items() for k, v in flat_tree(value, f"{path}.{name}" if path else name).items()
    }


def refuse_credentials(places: Mapping[str, str]) -> None:
    """Raise ConfigError for paths and URIs, by name, that hold a password, an access key or a token. The message names
    them and does not show the secret."""
    wrong = [
        f"{name}: expected no credentials in it, got {redacted(uri)}"
        for name, uri in places.items()
        if has_credentials(uri)
    ]
    if wrong:
        raise ConfigError("\n".join([*wrong, WHERE_THEY_BELONG]))


def _meant(path: str, known: Collection[str]) -> str:
    return f"; the nearest are {', '.join(nearest(path, known))}" if known else ""
