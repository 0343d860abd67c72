"""The identity of a run: the fields that differ from a versioned set of defaults, and the content of data and weights.

A new field with a default changes no identity, because it is not among the differences. The defaults of a version are
in defaults_<version>.json. They never change, but for those of fields that are marked OUTSIDE; new fields are added. A
test fails when the code and the file differ, and `python tests/defaults.py` writes the file: for a new field, or one
that is marked OUTSIDE, that of the present version; for another changed default that of the next one, after VERSION was
raised here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from alray.config.fields import OUTSIDE, Frozen, marked, section_of
from alray.config.tree import RunConfig

VERSION = 1
_CONTENT = ("data_fingerprint", "masks_fingerprint", "weights_fingerprint")


def identity(config: RunConfig, data_fingerprint: str, weights_fingerprint: str) -> dict[str, Any]:
    """The identity of a run, as JSON: two runs of equal identity pick the same images.

    It holds the version of the defaults, the fields that differ from them, and the content of the data (images, and
    behind a plus sign their masks, where there are any) and of the weights. Fields that are marked OUTSIDE are left
    out.
    """
    images, _, masks = data_fingerprint.partition("+")
    content = zip(_CONTENT, (images, masks, weights_fingerprint), strict=True)
    kept = {name: mark for name, mark in content if mark or name != "masks_fingerprint"}
    return {**changed(config), **kept}


def full_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with every field: those that it leaves out have the defaults of its version.

    Identities of different versions can be compared in this form, which has no version.
    """
    version = int(identity.get("version", VERSION))
    differences = {name: value for name, value in identity.items() if name != "version"}
    return _filled(RunConfig, defaults(version), differences)


def changed(section: Frozen, only: Collection[str] = (), without: Collection[str] = ()) -> dict[str, Any]:
    """The version of the defaults, and the fields of a section that differ from them, as JSON.

    only: these fields, whatever their marks; by default all that are not marked OUTSIDE. without: fields to leave out.
    """
    return {"version": VERSION, **_differences(section, _defaults_of(type(section)), only, without)}


def fingerprint(value: Any) -> str:
    """Ten hex digits of any JSON value; equal values give equal fingerprints on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


@lru_cache
def defaults(version: int) -> dict[str, Any]:
    """All defaults of a version, as a tree."""
    tree: dict[str, Any] = json.loads(defaults_file(version).read_text())
    return tree


def defaults_file(version: int) -> Path:
    """Where the defaults of a version are."""
    return Path(__file__).with_name(f"defaults_{version}.json")


def _differences(
    section: Frozen, known: Mapping[str, Any], only: Collection[str] = (), without: Collection[str] = ()
) -> dict[str, Any]:
    values, found = section.model_dump(mode="json"), {}
    for name, field in type(section).model_fields.items():
        if name in without or (name not in only if only else marked(field, OUTSIDE)):
            continue
        if section_of(field) is None:
            if values[name] != _default(name, field, known):
                found[name] = values[name]
        elif inner := _differences(getattr(section, name), known.get(name, {})):
            found[name] = inner
    return found


def _defaults_of(model: type[Frozen]) -> Mapping[str, Any]:
    """The versioned defaults of a section, or of the section that it extends."""
    known = dict(_sections(RunConfig, defaults(VERSION)))
    return next((known[kind] for kind in model.__mro__ if kind in known), {})


def _sections(model: type[Frozen], tree: Mapping[str, Any]) -> list[tuple[type[Frozen], Mapping[str, Any]]]:
    found = [(model, tree)]
    for name, field in model.model_fields.items():
        if inside := section_of(field):
            found += _sections(inside, tree.get(name, {}))
    return found


def _filled(model: type[Frozen], known: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a section with the differences; fields that are marked OUTSIDE are left out."""
    filled: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if marked(field, OUTSIDE):
            continue
        if inside := section_of(field):
            filled[name] = _filled(inside, known.get(name, {}), differences.get(name, {}))
        else:
            filled[name] = differences[name] if name in differences else _default(name, field, known)
    return {**filled, **{name: value for name, value in differences.items() if name not in filled}}


def _default(name: str, field: FieldInfo, known: Mapping[str, Any]) -> Any:
    """The versioned default of a field, or the declared one of a field that is newer than the file; as JSON."""
    return known[name] if name in known else json.loads(json.dumps(field.get_default(call_default_factory=True)))
