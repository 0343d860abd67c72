"""What a person sees while a sweep runs: a table with one line per setting, drawn anew on a terminal, now and then in a
log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TextIO

_EVERY = {True: 1.0, False: 30.0}  # seconds between two tables: on a terminal, in a log
_MOST_LINES = 42
_SIGNS = ("finished", "running", "waiting", "stopped", "failed")


def lines(
    name: str, entries: Sequence[Mapping[str, Any]], seconds: float, width: int = 0, height: int = _MOST_LINES
) -> list[str]:
    """The table of a sweep. entries: as in sweep.json; width: columns to stay in (0: any); height: most lines."""
    counts = {status: sum(entry["status"] == status for entry in entries) for status in _SIGNS}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    head = f"sweep {name} · {len(entries)} trials: {said} · {_duration(seconds)}"
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    paths = [path for path in entries[0]["fields"] if path != "seed"] if entries else []
    for entry in entries:
        groups.setdefault(tuple(_short(entry["fields"][path]) for path in paths), []).append(entry)
    rows = [(*paths, "finished", "rounds", "top-1 %", "")]
    rows += [(*key, *_cells(group)) for key, group in groups.items()]
    room = max(height - 2, 2)  # beside the head and the last line
    hidden = 0 if len(rows) <= room + 1 else len(rows) - room
    shown = rows[: len(rows) - hidden]
    widths = [max(len(row[i]) for row in shown) for i in range(len(rows[0]))]
    texts = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in shown]
    table = [head, *texts, *([f"and {hidden} more settings"] if hidden else [])]
    return [line if not width or len(line) <= width else line[: width - 1] + "…" for line in table]


def _cells(group: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, str]:
    done = sum(entry["status"] == "finished" for entry in group)
    accuracies = [entry["accuracy"] for entry in group if entry.get("accuracy") is not None]
    mean = f"{100 * fmean(accuracies):.1f}" if accuracies else "–"
    others = [f"{n} {s}" for s in ("running", "stopped", "failed") if (n := sum(e["status"] == s for e in group))]
    rounds = f"{sum(entry['rounds'] for entry in group)}/{sum(entry['of'] for entry in group)}"
    return f"{done}/{len(group)}", rounds, mean, ", ".join(others)


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 30 else text[:27] + "..."


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@dataclass
class Screen:
    """Shows tables, each in place of the one before where that is possible."""

    out: TextIO | None = None  # None: standard output, found when it is written to (Tune pickles its callbacks)
    began: float = field(default_factory=time.monotonic)
    last: float = 0.0
    height: int = 0

    def show(self, name: str, entries: Sequence[Mapping[str, Any]], *, now: bool = False) -> None:
        """Draw the table if it is time."""
        out = self.out or sys.stdout
        terminal = out.isatty()
        passed = time.monotonic() - self.last
        if not now and passed < _EVERY[terminal]:
            return
        self.last = time.monotonic()
        size = shutil.get_terminal_size()
        # A line that wraps, or one above the screen, could not be drawn over.
        bounds = (size.columns, min(size.lines - 1, _MOST_LINES)) if terminal else (0, _MOST_LINES)
        text = lines(name, entries, self.last - self.began, *bounds)
        up = f"\x1b[{self.height}A\x1b[J" if terminal and self.height else ""
        out.write(up + "\n".join(text) + "\n" + ("" if terminal else "\n"))
        out.flush()
        self.height = len(text)
