"""Keys of images that come as rows of a table: a column, a template with values of the row, or a number."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.scan import CatalogError, ScanOptions
from alray.data.sources.split_names import split_role

OWN_FIELDS = ("split", "class", "file", "row")  # of a template, besides the columns of the row


def template_fields(key: str) -> list[str]:
    """The columns that options.key names. Raises CatalogError if it is not a column or a valid template."""
    if "{" not in key:
        return [key] if key else []
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(key) if name is not None]
    except ValueError as error:
        raise CatalogError(f"key: expected a template, got {key!r}: {error}") from error
    if not all(name.isidentifier() for name in fields):
        raise CatalogError(f"key: expected column names in braces, as in '{{class}}/{{id}}.png', got {key!r}")
    return fields


def keys(others: Mapping[str, Any], found: Mapping[str, Any], options: ScanOptions, stem: str) -> pa.Array:
    """The keys of some rows: a column, a template with its values, or the file's stem and the row number in the file.

    others: columns of the rows by name, those that `template_fields` names; found: the columns label, split and offset
    of the rows, where the label is spelled as the class. Raises CatalogError if the key column holds no text.
    """
    if not options.key:
        return pa.array([f"{options.prefix}{stem}/{row:09d}" for row in found["offset"]])
    if "{" not in options.key:
        return as_keys(options.key, others[options.key])
    rows = len(found["offset"])
    fields = {
        "split": [_split_text(split, options) for split in found["split"].to_pylist()],
        "class": [label or "unlabeled" for label in found["label"].to_pylist()],
        "file": [stem] * rows,
        "row": found["offset"].tolist(),
        **{name: column.to_pylist() for name, column in others.items()},
    }
    needed = template_fields(options.key)
    filled = zip(*(fields[name] for name in needed), strict=True)
    try:
        made = [options.key.format(**dict(zip(needed, values, strict=True))) for values in filled]
    except (ValueError, TypeError) as error:
        raise CatalogError(
            f"key: the template {options.key!r} does not fit the values of its columns: {error}"
        ) from None
    return pa.array(made, pa.string())


def as_keys(name: str, column: Any) -> pa.Array:
    """A column as keys. Raises CatalogError if its type cannot be one."""
    try:
        return combined(pc.cast(column, pa.string()))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise CatalogError(f"key: expected text or numbers in the column {name!r}, got {column.type}") from None


def combined(column: Any) -> pa.Array:
    """A chunked array as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _split_text(split: str | None, options: ScanOptions) -> str:
    if options.prefix == "test/":
        return "test"
    return split_role(split, options.split) or split if split else "train"
