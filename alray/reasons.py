"""Turn errors of other libraries, and names that are not text, into words that a user can read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_ADDRESS = re.compile(r"<?(?:[\w.]+\.)?(\w+) object at 0x[0-9a-fA-F]+>?")
_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_POINTER = "Git LFS pointer: the file stands for one that was not fetched; run `git lfs pull` in its repository"


def is_lfs_pointer(data: bytes) -> bool:
    """Whether the bytes are those of a Git LFS pointer, a small text that stands for a file that was not fetched."""
    return data.startswith(_POINTER)


def why(error: BaseException, head: bytes = b"") -> str:
    """What an error says, in one line and without memory addresses; its type where it says nothing.

    head: the first bytes of the file that could not be read, if they are known. A Git LFS pointer is named as such.
    """
    if is_lfs_pointer(head):
        return LFS_POINTER
    if isinstance(error, UnicodeDecodeError):
        return f"expected text in UTF-8, got the bytes {error.object[error.start : error.start + 4]!r}"
    text = " ".join(_ADDRESS.sub(r"\1", str(error)).split())
    return text or type(error).__name__


def utf8_name(name: str) -> str:
    """A file name as Python lists it; the bytes of it that are not UTF-8 are written as \\x.. ."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def ours(error: BaseException) -> bool:
    """Whether it is an error of alray's own, whose message is for people; any other one is a defect or another
    library's."""
    return type(error).__module__.startswith("alray.")


def first_of(names: Sequence[str], between: str = ", ", most: int = 5, count: int = 0) -> str:
    """The first names, and how many more there are. count: how many there are, if the names are only the first."""
    count = max(count, len(names))
    more = f" and {count - most:,} more" if count > most else ""
    return between.join(names[:most]) + more


def in_bytes(count: float) -> str:
    """A number of bytes in words: 458 kB."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:.1f} {unit}" if count < 10 * of else f"{count / of:,.0f} {unit}"
    return f"{count:.0f} bytes"
