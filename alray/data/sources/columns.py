"""Find a column or array by what it holds: by its usual names, where exactly one has such a name.

Sources use it for the columns of lists, Parquet files and .npz files, `alray.select` for the features that it is given.
What is found under another name than the first is told in a note; what is not found is refused or told with the names
that are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 20


class ColumnError(ValueError):
    """The wanted column is not there, or several may be it. The message names the columns that are there."""


@dataclass(frozen=True)
class Role:
    """What a column holds.

    what: for messages, in the plural. first: its proper names in order of preference; the first of them that is there
    is taken. usual: its other names (lower case); one of them is taken if it is the only one that is there. option: how
    a user names the column, for messages.
    """

    what: str
    first: tuple[str, ...]
    usual: tuple[str, ...]
    option: str
    container: str = "column"

    def known(self, name: str) -> bool:
        """Whether this is one of the names, in any case and with any separators of words."""
        return _plain(name) in {_plain(one) for one in (*self.first, *self.usual)}


@dataclass(frozen=True)
class Found:
    """A column by its name. note: a sentence for the user if the column was guessed, else empty."""

    name: str
    note: str = ""


_BY_OPTION = "--{0} NAME (in a run --data.{0} NAME)"
_LABELS = (
    "labels", "class", "classes", "class_id", "class_idx", "class_index", "class_name", "class_label", "category",
    "categories", "category_id", "category_name", "label_id", "label_name", "label_idx", "target", "targets",
    "fine_label", "fine_labels", "ground_truth", "y",
)  # fmt: skip
LABELS = Role("labels", ("label",), _LABELS, _BY_OPTION.format("label-column"))
LABEL_ARRAYS = Role("labels", ("label", "labels", "y"), _LABELS, _BY_OPTION.format("label-column"), "array")
PLACES = Role(
    "paths or URIs of the images",
    ("uri", "path"),
    (
        "image", "images", "img", "image_path", "img_path", "image_file", "img_file", "image_uri", "image_url",
        "image_name", "img_name", "file", "files", "filename", "file_name", "filepath", "file_path", "fname", "paths",
        "url", "uris",
    ),
    _BY_OPTION.format("image-column"),
)  # fmt: skip
IMAGES = Role(
    "images",
    ("image",),
    ("images", "img", "imgs", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes", "bytes"),
    _BY_OPTION.format("image-column"),
)
EMBEDDINGS = Role(
    "embeddings",
    ("embedding",),
    (
        "embeddings",
        "features",
        "x",
        "feature",
        "feats",
        "feat",
        "emb",
        "embs",
        "embed",
        "embeds",
        "vector",
        "vectors",
        "last_hidden_state",
    ),
    "its name 'embedding'",
    "array",
)
EMBEDDING_ARRAYS = Role(
    "embeddings",
    ("features", "embedding", "embeddings", "x"),
    EMBEDDINGS.usual,
    _BY_OPTION.format("image-column"),
    "array",
)

TESTS = Role(
    "test rows",
    ("is_test", "is_val", "test"),
    ("is_valid", "is_validation", "test_mask", "val_mask", "valid_mask", "is_test_split"),
    "its name 'is_test'",
    "array",
)
SPLITS = Role("splits", ("split",), ("splits", "set", "subset", "partition", "phase"), "its name 'split'", "array")


def find(role: Role, there: Sequence[str], wanted: str = "", every: Sequence[str] = ()) -> Found | None:
    """The column of this role among the names that are there; None if no name is known.

    wanted: the name that the user gave; an empty text, or the first name of the role, stands for no wish. every: the
    names of all columns for messages, where not all of them can have this role. Raises ColumnError if the wanted column
    is not there, if it is there twice, or if several columns have usual names.
    """
    if wanted not in ("", role.first[0]):
        return Found(_wanted(role, there, wanted))
    for name in role.first:
        if name in there:
            return Found(_single(role, there, name))
    known = [name for name in there if role.known(name) and not _is_coordinate(name, there)]
    if len(known) > 1:
        raise ColumnError(
            f"expected one {role.container} of {role.what}, got {len(known)} that may be it ({listed(known)}): name it "
            f"with {role.option}"
        )
    if not known:
        return None
    return Found(known[0], guessed(role, every or there, known[0]))


def guessed(role: Role, there: Sequence[str], name: str) -> str:
    """The note for a column that was taken because it is the only one that fits."""
    return (
        f"No {role.container} is called {role.first[0]!r}: the {role.what} were taken from {name!r}. There are: "
        f"{listed(there)}. Name another with {role.option}."
    )


def missing(role: Role, there: Sequence[str], wanted: str = "") -> str:
    """The message of an error for a column that is not there."""
    proper = role.first if wanted in ("", role.first[0]) else (wanted,)
    names = " or ".join(repr(name) for name in proper)
    one = "an array" if role.container == "array" else "a column"
    return f"expected {one} of {role.what}, called {names}, got {listed(there)}: name it with {role.option}"


def listed(names: Iterable[str]) -> str:
    """The names, separated by commas; only the first if there are many."""
    given = [name if name else "''" for name in names]
    more = f", ... ({len(given)} names)" if len(given) > _SHOWN else ""
    return (", ".join(given[:_SHOWN]) + more) or "none"


def _wanted(role: Role, there: Sequence[str], wanted: str) -> str:
    if wanted in there:
        return _single(role, there, wanted)
    alike = [name for name in there if _plain(name) == _plain(wanted)]
    if len(alike) != 1:
        raise ColumnError(missing(role, there, wanted))
    return alike[0]


def _single(role: Role, there: Sequence[str], name: str) -> str:
    times = list(there).count(name)
    if times > 1:
        raise ColumnError(f"expected one {role.container} {name!r} ({role.what}), got {times} of this name")
    return name


def _is_coordinate(name: str, there: Sequence[str]) -> bool:
    """Whether a column y stands beside a column x, as the coordinates of a place in the image do."""
    return _plain(name) == "y" and any(_plain(other) == "x" for other in there)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())
