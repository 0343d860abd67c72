"""What one section of the device check is given: its share of the time, and where its rows of numbers go."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
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
    failures: list[str] = field(default_factory=list)  # what was found wrong; the section goes on and fails at its end
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


def with_and_without_gpu(section: Section, script: str, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a script twice side by side, as `script SECONDS OUT [--tiny]`; the second process is shown no GPU.

    Each writes lines of JSON with a field `case`; returns both processes' lines by case. A process that fails is noted;
    what it had written before is returned.
    """
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    paths = [section.path.with_name(f"{Path(script).stem}-{name}.jsonl") for name in ("gpu", "cpu")]
    children = []
    for path, hidden in zip(paths, ({}, {"CUDA_VISIBLE_DEVICES": ""}), strict=True):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, **hidden}
        command = python(script, f"{seconds:.1f}", str(path), *(["--tiny"] * section.tiny))
        children.append(subprocess.Popen(command, env=environment))
    codes = [child.wait() for child in children]
    if any(codes):
        section.failures.append(f"{Path(script).name}: the processes with and without a GPU left with {codes}")
    gpu, cpu = (_lines(path) for path in paths)
    return gpu, cpu


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["case"]: line for line in found}


def half(work: Callable[[float, bool, Path], None]) -> None:
    """The command line of such a script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    work(given.seconds, given.tiny, given.out)
