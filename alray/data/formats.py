"""What `alray formats` prints. Every sentence comes from the module that does what it says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from alray.data.sources import refused
from alray.data.sources.kinds import SOURCES
from alray.data.sources.scan import CatalogError
from alray.data.sources.source import Source
from alray.data.sources.split_names import MEANING
from alray.remote import STORES, unread

_WIDTH = 112


def described(names: Sequence[str] = ()) -> str:
    """Text for people: these formats, or all of them with splits, stores, and what is refused.

    Raises CatalogError for an unknown name.
    """
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise CatalogError(f"format: expected one of {', '.join(SOURCES)}, got {', '.join(unknown)}")
    parts = ["\n".join(_of(SOURCES[name])) for name in names or SOURCES]
    if not names:
        parts += [
            "\n".join(["splits", _filled(MEANING)]),
            "\n".join(["where", *_table({"a path": "a local disk or a mounted file system"} | STORES)]),
            "\n".join(["refused by name", *_table(refused.WHAT | unread())]),
        ]
    return "\n\n".join(parts)


def _of(kind: Source) -> Iterator[str]:
    yield f"{kind.name}" + (f" ({', '.join(kind.extensions)})" if kind.extensions else "")
    yield _filled(kind.about)
    yield _filled(f"Labels: {kind.labels}")
    yield _filled(f"Keys: {kind.keys}")
    if kind.layouts:
        yield _filled("Known structures:")
        yield from _table(kind.layouts, "    ")


def _table(rows: Mapping[str, str], start: str = "") -> Iterator[str]:
    for name, text in rows.items():
        yield textwrap.fill(
            f"{name}: {text}", _WIDTH, initial_indent=f"{start}    ", subsequent_indent=f"{start}      "
        )


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
