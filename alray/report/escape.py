"""Names of classes, keys and strategies in files that other programs display: Markdown and spreadsheets.

Names come from the user's data and may hold any character. Only what people read is escaped: files that alray reads
back keep every name byte for byte.
"""

from __future__ import annotations

import re

_MARKDOWN = re.compile(
    r"[\\`*|~]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside of a word an underscore is literal
    r"|[<&](?=[A-Za-z/!?#])"  # the start of an HTML tag or character reference
    r"|\](?=[(\[:])"  # a link
    r"|^(?:[#>+-](?=\s|#)|\d+(?=[.)]\s))"
)
_FORMULA = re.compile(r"[=+@\t\r-]")
_NUMBER = re.compile(r"[-+]?(\d[\d.,:%±\s\[\]–∞+-]*|inf|nan)|[-+]")


def markdown(text: str) -> str:
    """Text that GitHub's Markdown shows as it is, in one line."""
    return _MARKDOWN.sub(_literal, " ".join(text.splitlines()))


def _literal(found: re.Match[str]) -> str:
    mark = found[0]
    return f"{mark}\\" if mark[0].isdigit() else f"\\{mark}"


def code(text: str) -> str:
    """Text in a monospaced font of Markdown, in one line."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.splitlines())}{space}{fence}"


def spreadsheet(text: str) -> str:
    """The text of a CSV cell that a spreadsheet does not run as a formula: an apostrophe comes before =, +, -, @, tab
    and carriage return. Numbers and intervals of numbers stay as they are."""
    safe = f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
    return safe.replace("\r", " ")  # the csv module does not quote it, and readers would end the line there
