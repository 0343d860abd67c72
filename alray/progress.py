"""Progress on the terminal: the current round and stage, its progress, and one line of numbers per round.

On a terminal a stage has a progress bar. In a log file it has one line when it starts, and more lines while it runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm.auto import tqdm

_SECONDS_BETWEEN_LINES = 15.0


@dataclass
class Stages:
    """Prints the stages of one round and measures their seconds.

    save: called with the seconds after each stage, so that a killed round keeps them.
    """

    label: str  # e.g. "round 1/4"
    quiet: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    save: Callable[[dict[str, float]], None] = lambda seconds: None

    def print_line(self, text: str) -> None:
        """Print one line, unless quiet."""
        if not self.quiet:
            tqdm.write(f"{self.label} · {text}", file=sys.stdout)
            sys.stdout.flush()

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Context manager: print the stage's name and measure its seconds. A stage that is entered again adds to
        them."""
        self.print_line(f"{name} · {detail}" if detail else name)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)
            self.save(self.seconds)

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        """Context manager for a progress bar, or lines in a log file. Yields the function advance(steps, note)."""
        done, last = 0, time.monotonic()
        with tqdm(
            total=total, desc=f"{self.label} · {name}", unit=f" {unit}", leave=False, dynamic_ncols=True,
            disable=True if self.quiet else None,
        ) as bar:  # fmt: skip

            def advance(steps: int, note: str = "") -> None:
                nonlocal done, last
                done += steps
                bar.set_postfix_str(note, refresh=False)
                bar.update(steps)
                if bar.disable and time.monotonic() - last > _SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    self.print_line(f"{name} · {done:,} of {total:,} {unit} {note}".rstrip())

            yield advance
