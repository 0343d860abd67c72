"""Names of files in the two Unicode forms: Linux and Windows write an accent in its letter (NFC), macOS apart (NFD).

A name that somebody gives, in a list, an answer or as a file, is one of alray's names if both are the same text in
another form. A name in the very same form goes first.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc


def composed(name: str) -> str:
    """The name with each accent in its letter (NFC)."""
    return unicodedata.normalize("NFC", name)


def spellings(name: str) -> list[str]:
    """The name as it is, composed, and decomposed, each once."""
    return list(dict.fromkeys([name, composed(name), unicodedata.normalize("NFD", name)]))


def apart(names: Sequence[str]) -> list[str]:
    """Some names for a message, in which people can tell them apart: where two are the same text in two forms, their
    accents are written as escapes, such as \\xe9 (in its letter) and e\\u0301 (apart)."""
    if len(set(map(composed, names))) == len(set(names)):
        return list(names)
    return ["".join(one if one.isascii() else one.encode("unicode_escape").decode() for one in name) for name in names]


def same_end(key: str, name: str) -> bool:
    """Whether the shorter of two paths is the end of the longer one, in whole parts."""
    ours, theirs = key.split("/"), name.strip("/").split("/")
    n = min(len(ours), len(theirs))
    return ours[-n:] == theirs[-n:]


def by_end(paths: Iterable[str]) -> Callable[[str], list[str]]:
    """A function that finds which of these paths end as a name does, or are the end of the name, in whole parts and in
    any form, the very same form among them; sorted. A backslash parts the name, too."""
    endings: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        endings[composed(path).rpartition("/")[2]].add(path)

    def find(name: str) -> list[str]:
        text = composed(name.replace("\\", "/"))
        return sorted(path for path in endings.get(text.rpartition("/")[2], ()) if same_end(composed(path), text))

    return find


def places_of(names: pa.Array, keys: pa.Array) -> pa.Array:
    """The place of each name among the keys (k,) int32; null for a name that is none of them, or that is the same text
    as several of them and has the form of none."""
    found = pc.index_in(names, value_set=keys)
    missing = pc.and_(pc.is_null(found), pc.invert(pc.string_is_ascii(names)))
    if not pc.any(missing).as_py():
        return found
    forms = pc.utf8_normalize(keys, "NFC")
    twice = forms.value_counts()
    twice = twice.filter(pc.greater(twice.field("counts"), 1)).field("values")
    wanted = pc.utf8_normalize(names, "NFC")
    other = pc.if_else(pc.is_in(wanted, value_set=twice), None, pc.index_in(wanted, value_set=forms))
    return pc.if_else(missing, other, found)
