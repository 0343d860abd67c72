"""Text files as editors and spreadsheets save them: their encoding, and the separator of their columns."""

from __future__ import annotations

import codecs

UTF_8, SEPARATORS = "utf-8-sig", ",;\t"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding_of(head: bytes) -> str:
    """The encoding of a file that begins so: UTF-16 where a byte order mark says so, as in Excel's "Unicode text", else
    UTF-8, with or without such a mark."""
    return "utf-16" if head.startswith(_UTF_16) else UTF_8


def decoded(data: bytes) -> str:
    """The text of a file. Raises UnicodeDecodeError."""
    return data.decode(encoding_of(data))


def separator(text: str) -> str:
    """The separator that occurs most often in the first line that is not empty; the comma where none does."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(SEPARATORS, key=lambda mark: (first.count(mark), mark == ","))
