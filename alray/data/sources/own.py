"""Folders among the files of a source that alray wrote itself: catalogs, features and runs.

Their tables and pictures are no files of the data set. Such a folder is known by two files, of which the first says
what it is. Images that alray exported have neither: they are a data set like any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterable
from typing import Any

from alray.data.sources.scan import amount
from alray.reasons import first_of

# By what alray writes: the file that describes it, and the file beside that.
CATALOG = "meta.json", "catalog.parquet"
FEATURES = "manifest.json", "index.parquet"
RUN = "run.json", "config.json"
# With what is in the description.
_MARKS = (
    (*CATALOG, {"version", "fingerprint", "counts", "embedding_fingerprint"}),
    (*FEATURES, {"fingerprint", "rows", "parts", "columns"}),
    (*RUN, {"name", "fingerprint", "identity", "catalog"}),
)
MARKS = frozenset((*CATALOG, *FEATURES, *RUN))
_LARGEST = 64 * 2**20  # bytes of a description


def is_own(names: Container[str], read: Callable[[str], bytes]) -> bool:
    """Whether alray wrote a folder with at least these files. read: returns the bytes of one of them."""
    for first, second, keys in _MARKS:
        if first not in names or second not in names:
            continue
        try:
            content: Any = json.loads(read(first))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and keys <= content.keys():
            return True
    return False


def is_own_folder(path: str) -> bool:
    """Whether alray wrote a local folder."""

    def read(name: str) -> bytes:
        with open(os.path.join(path, name), "rb") as file:
            return file.read(_LARGEST)

    second = {second for _, second, _ in _MARKS if os.path.exists(os.path.join(path, second))}
    return bool(second) and is_own(second | {first for first, _, _ in _MARKS}, read)


def left_out(folders: Iterable[str], files: int) -> list[str]:
    """A sentence on the folders that were left out, with the number of their files."""
    names = sorted(folders)
    if not names:
        return []
    return [f"left out: {amount(files, 'file')} in what alray wrote (catalogs, features, runs): {first_of(names)}"]
