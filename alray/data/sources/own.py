"""Files among those of a source that alray wrote itself: of catalogs, features and runs.

Such a folder is known by two files, of which the first says what it is. Of a catalog and of features only their own
files are left out: people put a catalog among their images. A run's folder belongs to alray with all that is below it.
Images that alray exported have no such files: they are a data set like any other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from alray.checksums import is_list
from alray.data.sources.scan import amount
from alray.reasons import first_of

# By what alray writes: the file that describes it, and the file beside that.
CATALOG = "meta.json", "catalog.parquet"
FEATURES = "manifest.json", "index.parquet"
RUN = "run.json", "config.json"


@dataclass(frozen=True)
class Own:
    """What alray wrote in a folder. names: of which files in it; whole: with all that is below it."""

    names: re.Pattern[str]
    whole: bool = False

    def has(self, name: str) -> bool:
        """Whether a file in the folder is one of them."""
        return self.whole or is_list(name) or self.names.fullmatch(name) is not None


EVERYTHING = Own(re.compile(".*"), whole=True)
# With what is in the description.
_MARKS = (
    (
        *CATALOG, {"version", "fingerprint", "counts", "embedding_fingerprint"},
        Own(re.compile(r"meta\.json|(catalog|problems|files)\.parquet|problems\.csv")),
    ),
    (
        *FEATURES, {"fingerprint", "rows", "parts", "columns"},
        Own(re.compile(r"manifest\.json|index\.parquet|part-\d+\.arrow")),
    ),
    (*RUN, {"name", "fingerprint", "identity", "catalog"}, EVERYTHING),
)  # fmt: skip
MARKS = frozenset((*CATALOG, *FEATURES, *RUN))
_LARGEST = 64 * 2**20  # bytes of a description


def own_in(names: Container[str], read: Callable[[str], bytes]) -> Own | None:
    """What alray wrote in a folder with at least these files; None if nothing. read: returns the bytes of a file."""
    for first, second, keys, own in _MARKS:
        if first not in names or second not in names:
            continue
        try:
            content: Any = json.loads(read(first))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and keys <= content.keys():
            return own
    return None


def own_in_folder(path: str) -> Own | None:
    """What alray wrote in a local folder; None if nothing."""

    def read(name: str) -> bytes:
        with open(os.path.join(path, name), "rb") as file:
            return file.read(_LARGEST)

    second = {second for _, second, _, _ in _MARKS if os.path.exists(os.path.join(path, second))}
    return own_in(second | {first for first, _, _, _ in _MARKS}, read) if second else None


def left_out(folders: Iterable[str], files: int) -> list[str]:
    """A sentence on the folders that were left out, with the number of their files."""
    names = sorted(folder or "the folder itself" for folder in folders)
    if not names:
        return []
    return [f"left out: {amount(files, 'file')} in what alray wrote (catalogs, features, runs): {first_of(names)}"]
