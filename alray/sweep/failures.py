"""Why a trial of a sweep failed, in one line."""

from __future__ import annotations

import re
from pathlib import Path

from alray.store import Store

_FAILURE = re.compile(r"^Failure # \d+ .*\n", re.MULTILINE)


def message(store: Store, name: str) -> str:
    """The message that a trial left when it raised an error. Empty if its process ended without one."""
    text = store.read_bytes(name).decode() if store.has(name) else ""
    return text.partition("\n\n")[0]


def last_failure(error_file: str | None) -> str:
    """Ray's text on the last failure of a trial, from the file that Tune adds to. Empty if there is none."""
    path = Path(error_file or "")
    return _FAILURE.split(path.read_text(errors="replace"))[-1] if path.is_file() else ""
