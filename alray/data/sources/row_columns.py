"""Which columns of a table hold images and labels, and the names of its classes.

The metadata of Hugging Face say so, or the usual names do.
"""

from __future__ import annotations

import json

import pyarrow as pa

from alray.data.sources import columns
from alray.data.sources.scan import CatalogError, ScanOptions
from alray.reasons import why

HUGGING_FACE = b"huggingface"  # the entry of a schema's metadata with the features of a data set


def find_images(uri: str, schema: pa.Schema, options: ScanOptions) -> columns.Found:
    """The column of images: by its name, or the only one that holds bytes. Raises CatalogError if there is none."""
    holders = [field.name for field in schema if _holds_bytes(field.type)]
    wanted = options.image_column
    role = columns.IMAGES
    if wanted == role.first[0] and wanted not in schema.names:
        pictures = [name for name in features_of(schema, "Image") if name in holders]
        if len(pictures) == 1:
            return columns.Found(pictures[0], columns.guessed(role, schema.names, pictures[0]))
    if wanted in schema.names and wanted not in holders:
        raise CatalogError(
            f"{uri}: {wanted}: expected the encoded bytes of images, got {schema.field(wanted).type} (a list of paths "
            "is a CSV or JSONL manifest)"
        )
    try:
        found = columns.find(role, holders, wanted, schema.names)
    except columns.ColumnError as error:
        if wanted != role.first[0] and wanted not in schema.names:
            raise CatalogError(f"{uri}: {columns.missing(role, schema.names, wanted)}") from None
        raise CatalogError(f"{uri}: {error}") from None
    if found is None and len(holders) == 1:
        found = columns.Found(holders[0], columns.guessed(role, schema.names, holders[0]))
    if found is None:
        raise CatalogError(f"{uri}: {columns.missing(role, schema.names, wanted)}")
    return found


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def find_labels(uri: str, schema: pa.Schema, options: ScanOptions) -> columns.Found:
    """The column of labels; an empty name if the images have none. Raises CatalogError if there is none."""
    if not options.label_column:
        return columns.Found("")
    if options.label_column == columns.LABELS.first[0] and options.label_column not in schema.names:
        classes = [name for name in features_of(schema, "ClassLabel") if name in schema.names]
        if len(classes) == 1:
            return columns.Found(classes[0], columns.guessed(columns.LABELS, schema.names, classes[0]))
    try:
        found = columns.find(columns.LABELS, schema.names, options.label_column)
    except columns.ColumnError as error:
        raise CatalogError(f"{uri}: {error}") from None
    if found is None:
        what = columns.missing(columns.LABELS, schema.names, options.label_column)
        raise CatalogError(f"{uri}: {what}, or use --label-column '' if the images have no labels")
    return found


def class_names(uri: str, schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """The names of numbered classes, or None. They are in the metadata 'classes' (separated by commas, or a JSON list)
    or in the ClassLabel of Hugging Face. Raises CatalogError for metadata that cannot be read."""
    metadata = schema.metadata or {}
    try:
        if b"classes" in metadata:
            text = metadata[b"classes"].decode()
            names = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
            return tuple(str(name).strip() for name in names)
        if HUGGING_FACE in metadata:
            features = json.loads(metadata[HUGGING_FACE]).get("info", {}).get("features", {})
            names = features.get(label_column, {}).get("names")
            return None if names is None else tuple(names)
    except (ValueError, AttributeError, TypeError) as error:
        raise CatalogError(f"{uri}: the names of classes in the file's metadata cannot be read: {why(error)}") from None
    return None


def features_of(schema: pa.Schema, kind: str) -> list[str]:
    """The columns that Hugging Face's metadata say are of this kind: Image or ClassLabel."""
    try:
        features = json.loads((schema.metadata or {}).get(HUGGING_FACE, b"{}"))["info"]["features"]
        return [name for name, feature in features.items() if feature["_type"] == kind]
    except (ValueError, AttributeError, TypeError, KeyError):
        return []
