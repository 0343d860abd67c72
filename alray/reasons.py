"""Turn errors of other libraries, and names that are not text, into words that a user can read."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from difflib import get_close_matches

_ADDRESS = re.compile(r"<?(?:[\w.]+\.)?(\w+) object at 0x[0-9a-fA-F]+>?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U000[0-9a-f]{5}|[nrt])")
_NEAR = 2000  # names on either side of the place where an unknown one would be, among which similar ones are looked for
_LONG, _SHOWN = 200, 60  # letters: a name with more is cut in messages, and so many of it are shown
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
        name = f"{error.encoding[:6].upper()}, as its first bytes say" if "16" in error.encoding else "UTF-8"
        return f"expected text in {name}, got the bytes {error.object[error.start : error.start + 4]!r}"
    text = " ".join(_ADDRESS.sub(r"\1", str(error)).split())
    return text or type(error).__name__


def not_utf8(error: UnicodeDecodeError) -> str:
    """In which line a text is not UTF-8, and what to do. The error is that of decoding the whole text."""
    if "16" in error.encoding:
        return why(error)
    line = error.object[: error.start].count(b"\n") + 1
    return f"line {line}: {why(error)}; save it as UTF-8 (from Latin-1: iconv -f LATIN1 -t UTF-8)"


def utf8_name(name: str) -> str:
    """A file name as Python lists it; the bytes of it that are not UTF-8 are written as \\x.. ."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def ours(error: BaseException) -> bool:
    """Whether it is an error of alray's own, whose message is for people; any other one is a defect or another
    library's."""
    return type(error).__module__.startswith("alray.")


def near(name: str, count: int, at: Callable[[int], str]) -> list[str]:
    """The names that are sorted near a name that is not among them. count, at: how many there are, sorted, and the one
    at a place."""
    here = bisect_left(range(count), name, key=at)
    return [at(place) for place in range(max(0, here - _NEAR), min(count, here + _NEAR))]


def similar(name: str, names: Sequence[str], most: int = 1) -> list[str]:
    """The names that are written like this one, best first: as a whole, or in the last part of their path."""
    whole = get_close_matches(name, names, most, 0.6)
    tails: dict[str, str] = {}
    for one in names:
        tails.setdefault(one.rpartition("/")[2].casefold(), one)
    ending = get_close_matches(name.replace("\\", "/").rpartition("/")[2].casefold(), tails, most, 0.6)
    return list(dict.fromkeys([*whole, *(tails[tail] for tail in ending)]))[:most]


def did_you_mean(found: Sequence[str]) -> str:
    """A question in brackets for the first name; empty without one."""
    return f" (did you mean {short(found[0])!r}?)" if found else ""


def short(name: str) -> str:
    """The name for a message: of one that would fill the screen, the first letters and how many it has."""
    return name if len(name) <= _LONG else f"{name[:_SHOWN]}… ({len(name):,} letters)"


def first_of(names: Sequence[str], between: str = ", ", most: int = 5, count: int = 0) -> str:
    """The first names, and how many more there are. count: how many there are, if the names are only the first."""
    count = max(count, len(names))
    more = f" and {count - most:,} more" if count > most else ""
    return between.join(names[:most]) + more


def some_classes(names: Sequence[str], most: int = 5) -> str:
    """The first classes, each in a length that can be read, and how many more there are."""
    return first_of([short(name) for name in names[:most]], most=most, count=len(names))


def in_bytes(count: float) -> str:
    """A number of bytes in words: 458 kB."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= of:
            return f"{count / of:.1f} {unit}" if count < 10 * of else f"{count / of:,.0f} {unit}"
    return f"{count:.0f} bytes"


def terminal(text: str) -> str:
    """The text with control characters written as escapes such as \\x1b, so that a terminal does not obey them."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def from_terminal(text: str) -> str:
    """The text that `terminal` or `alray.spelling.apart` shows so, with its control characters and accents."""
    return _ESCAPED.sub(lambda found: found[0].encode().decode("unicode_escape"), text)
