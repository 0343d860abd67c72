"""What one section of the device check is given: its share of the time, and where its rows of numbers go."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Section:
    """One section's result. It is written after every row: what was measured stays when the machine is taken away."""

    tiny: bool
    seconds: float  # what it may take
    path: Path
    began: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)  # numbers that no table shows
    error: str | None = None
    finished: bool = False

    @property
    def left(self) -> float:
        """Seconds that remain of the share."""
        return self.seconds - (time.monotonic() - self.began)

    def add(self, table: str, **numbers: Any) -> None:
        """A row of a table."""
        self.rows.append({"table": table, **numbers})
        print(table, json.dumps(numbers, default=str), flush=True)
        self.write()

    def note(self, text: str) -> None:
        """A sentence for the reader, such as what was cut down."""
        self.notes.append(text)
        print(text, flush=True)
        self.write()

    def write(self) -> None:
        """Replace the file."""
        done = {
            "seconds_allowed": round(self.seconds, 1),
            "seconds": round(time.monotonic() - self.began, 1),
            "finished": self.finished,
            "error": self.error,
            "notes": self.notes,
            "rows": self.rows,
            **self.more,
        }
        write_json(self.path, done)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(value, indent=1, default=str) + "\n")
    os.replace(beside, path)


def fraction(pilot_seconds: float, pilot: float, allowed: float) -> float:
    """The largest part of the work, at most all, that fits in the allowed seconds if the time grows with its size."""
    return min(1.0, allowed / max(pilot_seconds / pilot, 1e-9))


def python(*arguments: str) -> list[str]:
    """The command of another Python process with the same interpreter."""
    return [sys.executable, *arguments]
