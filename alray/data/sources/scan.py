"""What the scan of a source returns: a table of references to images, and a table of problems. Also the functions that
several kinds of sources share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.split_names import split_role
from alray.data.sources.text_files import decoded
from alray.reasons import not_utf8, terminal
from alray.store import is_file, join, read_bytes

# label: the class by name, or by number as text; null where unknown. split: the name that the source gives it (Train,
# val), null where it gives none.
IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
PROBLEMS = pa.schema([("key", pa.string()), ("uri", pa.string()), ("reason", pa.string())])
CLASSES_FILE = "alray-classes.txt"
EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "jp2")
_IMAGE = f"(?i)\\.({'|'.join(EXTENSIONS)})$"
_HIDDEN = r"(^|/)\."


class CatalogError(ValueError):
    """A source cannot be indexed, or a catalog does not exist. The message names the source or catalog and the
    reason."""


@dataclass(frozen=True)
class ScanOptions:
    """How to read a source.

    key: a key column or template, empty for the default; label_column, image_column: names of columns; prefix: put
    before keys that the source does not give itself; classes: their order as given by the user, or None; split: what
    the names of folders, shards and splits mean, where the user says so; class_depth: how many folders name the class,
    0 for all; links: which symbolic links to follow (`IndexConfig.links`).
    """

    key: str = ""
    label_column: str = "label"
    image_column: str = "image"
    prefix: str = ""
    classes: tuple[str, ...] | None = None
    split: Mapping[str, str] = field(default_factory=dict)
    class_depth: int = 0
    links: str = "inside"


@dataclass(frozen=True)
class SplitCount:
    """What one split of a source holds, under the source's own name for it."""

    name: str  # empty: the source names no split
    role: str  # one of `split_names.ROLES`
    images: int
    unlabeled: int


@dataclass(frozen=True)
class Scan:
    """The content of one source. images: a table of the schema IMAGES; problems: images that cannot be used, with the
    reasons, a table of the schema PROBLEMS."""

    images: pa.Table
    problems: pa.Table
    classes: tuple[str, ...] | None = None  # in the order that the source gives; None if it gives none
    ignored: Mapping[str, int] = field(default_factory=dict)  # number of files that are not images, by suffix
    left_out: int = 0  # number of image files that are no images of the data set
    content: str = ""  # a hash of the content, for sources whose images have no sizes
    notes: tuple[str, ...] = ()  # sentences for the user: what was guessed, changed or left out, with counts
    doubts: tuple[str, ...] = ()  # sentences for the user: what looks wrong, and what to pass
    named: frozenset[str] = frozenset()  # the names in ScanOptions.split that the source has
    splits: tuple[SplitCount, ...] = ()  # filled in by `with_roles`
    image_column: str = ""  # the column or array that holds the images, where the files have columns
    files: pa.Table = field(kw_only=True)  # what was read, as it was listed: the schema of `sources.listing.FILES`


def table(schema: pa.Schema, columns: Mapping[str, object]) -> pa.Table:
    """Make a table of the schema from columns (lists or arrays). A missing column is null everywhere."""
    given = {name: pa.array(column, schema.field(name).type) for name, column in columns.items()}
    n = len(next(iter(given.values())))
    return pa.table({name: given.get(name, pa.nulls(n, schema.field(name).type)) for name in schema.names})


def problem(key: str, uri: str, reason: str) -> pa.Table:
    """A table of problems with one row. The reason is 'kind: details'; problems are counted by kind."""
    return table(PROBLEMS, {"key": [key], "uri": [uri], "reason": [reason]})


def concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Join tables of the schema. Without tables the result is empty."""
    return pa.concat_tables([schema.empty_table(), *tables])


def amount(count: int, one: str, several: str = "") -> str:
    """A count with its noun: 1 image, 2,000 images."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def file_name(uri: str) -> str:
    """The last part of a path or URI."""
    return uri.rpartition("/")[2]


def is_image_name(name: str) -> bool:
    """Whether the name has an image extension and no part of the path is hidden."""
    return name.rpartition(".")[2].lower() in EXTENSIONS and not is_hidden(name)


def are_images(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """`is_image_name` of each name, as an array of bool."""
    hidden = pc.match_substring_regex(names, _HIDDEN)
    return pc.and_(pc.match_substring_regex(names, _IMAGE), pc.invert(hidden))


def is_hidden(name: str) -> bool:
    """Whether a part of the path starts with a dot."""
    return name.startswith(".") or "/." in name


def suffixes(names: Iterable[str]) -> Counter[str]:
    """The number of names by suffix: ".txt"; "hidden" for hidden files, "without suffix" for names without a dot.
    alray's own list of classes is left out, because it is read."""
    found: Counter[str] = Counter()
    for name in names:
        base = file_name(name)
        if is_hidden(name):
            found["hidden"] += 1
        elif base != CLASSES_FILE:
            found[f".{base.rpartition('.')[2].lower()}" if "." in base else "without suffix"] += 1
    return found


def read_classes(directory: str) -> tuple[str, ...] | None:
    """The class names in the directory's alray-classes.txt, or None if there is no such file.

    One name per line; a line that is a JSON string, "new\\nline", is the name that this writes. Raises CatalogError if
    the file is not text in UTF-8.
    """
    if not is_file(join(directory, CLASSES_FILE)):
        return None
    try:
        text = decoded(read_bytes(join(directory, CLASSES_FILE)))
    except UnicodeDecodeError as error:
        raise CatalogError(f"{join(directory, CLASSES_FILE)}: {not_utf8(error)}") from None
    return tuple(_listed_name(line) for line in text.splitlines() if line.strip())


def classes_text(names: Iterable[str]) -> bytes:
    """The content of an alray-classes.txt, from which `read_classes` reads these names. A name that has control
    characters or begins as JSON does is written as a JSON string."""
    plain = (name if [terminal(name)] == name.splitlines() and name[0] != '"' else json.dumps(name) for name in names)
    return "".join(f"{name}\n" for name in plain).encode()


def _listed_name(line: str) -> str:
    try:
        name = json.loads(line) if line.lstrip().startswith('"') else line
    except ValueError:  # a name with quotation marks, as people write it
        return line
    return str(name)


def agree(found: Iterable[tuple[str, ...] | None], what: str) -> tuple[str, ...] | None:
    """The list of classes that all entries which are not None agree on; None if all are None.

    what: the name of the source, for error messages. Raises CatalogError if two lists differ.
    """
    orders = {classes for classes in found if classes is not None}
    if len(orders) > 1:
        few = " and ".join(", ".join(order[:5]) for order in sorted(orders)[:2])
        raise CatalogError(f"{what}: expected one order of classes, got several ({few}); set the classes")
    return next(iter(orders), None)


def with_roles(scan: Scan, given: Mapping[str, str]) -> Scan:
    """The scan with roles instead of the source's own names of splits, and with a count of each of these.

    given: `ScanOptions.split`. Images of splits to ignore are left out, with a note. A name that means no split stays,
    and is a problem of its images.
    """
    names = pc.fill_null(scan.images["split"], "").combine_chunks().dictionary_encode()
    texts = names.dictionary.to_pylist()
    roles = ["train" if not text else split_role(text, given) or text for text in texts]
    unlabeled = pc.is_null(scan.images["label"]).to_numpy()
    index = names.indices.to_numpy()
    sizes, without = np.bincount(index, minlength=len(texts)), np.bincount(index[unlabeled], minlength=len(texts))
    found = [SplitCount(*column) for column in zip(texts, roles, sizes.tolist(), without.tolist(), strict=True)]
    column = scan.images.schema.get_field_index("split")
    images = scan.images.set_column(column, "split", pa.array(roles, pa.string()).take(names.indices))
    left_out = [count for count in found if count.role == "ignore"]
    if left_out:
        images = images.filter(pc.not_equal(images["split"], "ignore"))
    notes = [f"{count.name}: {amount(count.images, 'image')} left out, as --split says" for count in left_out]
    return replace(
        scan,
        images=images,
        notes=(*scan.notes, *notes),
        named=scan.named | (given.keys() & set(texts)),
        splits=tuple(count for count in found if count.role != "ignore"),
    )
