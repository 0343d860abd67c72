"""Progress of a run: lines and bars on the terminal, and what the run does now, for those who watch it from elsewhere.

On a terminal a stage has a progress bar. In a log file it has one line when it starts, and more lines while it runs.
With ALRAY_LOG=json every line is a JSON object with time, run, round and stage, for programs that collect logs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm.auto import tqdm

LOG = "ALRAY_LOG"  # environment variable: json, or text
_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Now:
    """What a run does at a moment.

    round, rounds: the number from 0, and how many; done, total: of `unit` in this stage, total 0 if there is nothing to
    count; began, at: seconds since 1970 of the stage's beginning and of this moment.
    """

    run: str
    round: int
    rounds: int
    stage: str
    detail: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    began: float = 0.0
    at: float = 0.0

    @property
    def rate(self) -> float:
        """How much is done in a second, since the stage began."""
        return self.done / max(self.at - self.began, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds to the end of the stage at this rate; None while nothing is known."""
        return (self.total - self.done) / self.rate if self.done and self.total else None


def round_in_words(number: int, rounds: int) -> str:
    """The number of a round, from 0 as in the names of its directory and of its batch, and the numbers that there
    are."""
    return f"round {number} of 0-{rounds - 1}" if rounds > 1 else f"round {number}"


@dataclass
class Stages:
    """Prints the stages of one round and measures their seconds.

    restarts: of workers that were lost, see `note_restart`. save: called with the seconds and the restarts after each
    stage, so that a killed round keeps them. watch: called when a stage begins
    and every few seconds while it runs.
    """

    run: str = ""
    round: int = 0
    rounds: int = 0
    quiet: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    restarts: list[dict[str, Any]] = field(default_factory=list)
    save: Callable[[dict[str, float], list[dict[str, Any]]], None] = lambda seconds, restarts: None
    watch: Callable[[Now], None] = lambda now: None
    _now: Now | None = field(default=None, init=False)

    @property
    def label(self) -> str:
        """The run and the round in words: digits · round 1 of 0-3."""
        return f"{self.run} · {round_in_words(self.round, self.rounds)}" if self.rounds else self.run

    def print_line(self, text: str) -> None:
        """Print one line, unless quiet."""
        if self.quiet:
            return
        if os.environ.get(LOG) == "json":
            stage = self._now.stage if self._now else ""
            about = {"time": time.time(), "run": self.run, "round": self.round, "stage": stage, "message": text}
            print(json.dumps(about), flush=True)
            return
        tqdm.write(f"{self.label} · {text}", file=sys.stdout)
        sys.stdout.flush()

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Context manager: print the stage's name and measure its seconds. A stage that is entered again adds to
        them."""
        outer, now = self._now, time.time()
        self._now = Now(self.run, self.round, self.rounds, name, detail, began=now, at=now)
        self.print_line(f"{name} · {detail}" if detail else name)
        self.watch(self._now)
        start = time.monotonic()
        try:
            yield
        finally:
            self._now = outer
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)
            self.save(self.seconds, self.restarts)

    def note_restart(self, restart: dict[str, Any]) -> None:
        """Keep what a restart of the stage's workers was for, and what it cost: its cause, epoch and seconds."""
        stage = self._now.stage if self._now else ""
        self.restarts.append({"stage": stage, **restart})
        self.save(self.seconds, self.restarts)

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        """Context manager for a progress bar, or lines in a log file. Yields the function advance(steps, note)."""
        done, last, looked = 0, time.monotonic(), 0.0
        hidden = True if self.quiet or os.environ.get(LOG) == "json" else None
        with tqdm(
            total=total, desc=f"{self.label} · {name}", unit=f" {unit}", leave=False, dynamic_ncols=True, disable=hidden
        ) as bar:

            def advance(steps: int, note: str = "") -> None:
                nonlocal done, last, looked
                done += steps
                bar.set_postfix_str(note, refresh=False)
                bar.update(steps)
                over = done >= total and steps > 0
                if self._now is not None and (over or time.monotonic() - looked > _SECONDS_BETWEEN_LOOKS):
                    looked = time.monotonic()
                    self.watch(replace(self._now, done=done, total=total, unit=unit, at=time.time()))
                if bar.disable and time.monotonic() - last > _SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    self.print_line(f"{name} · {done:,} of {total:,} {unit} {note}".rstrip())

            yield advance
