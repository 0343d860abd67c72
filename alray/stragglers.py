"""Say who is waited for when a stage waits for one worker, and the others have answered long ago.

A worker that stands still, because its machine swaps, its disk hangs or its process was stopped, is not lost: its
answer is waited for, and changes nothing. Without a line nobody would know on which machine to look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_STILL = 60.0  # seconds without a step after which work may stand still
_LATE = 30.0  # seconds after which an answer may be late
_TIMES = 3.0  # it is late if it takes so many times as long as the others took
_AGAIN = 4.0  # it is told again when the wait is so many times as long


class Stragglers:
    """Of one question to all workers of a stage. say: prints a line. stage, who: for the line, as "select" and
    "shards"."""

    def __init__(self, say: Callable[[str], None], stage: str, who: str) -> None:
        self._say, self._stage, self._who = say, stage, who
        self._began = self._last = time.monotonic()
        self._tell = _LATE

    def answered(self) -> None:
        """Call when a worker has answered."""
        self._last = time.monotonic()

    def waiting(self, missing: Sequence[int], addresses: Callable[[], Sequence[str]]) -> None:
        """Call every few seconds while no answer comes. missing: the numbers of the workers that have not answered;
        addresses: returns those of all workers' nodes. Says nothing while most are at work."""
        waited, others = time.monotonic() - self._began, self._last - self._began
        if waited < max(self._tell, _TIMES * others):
            return
        places = addresses()
        if 2 * len(missing) > len(places):
            return
        self._tell = _AGAIN * waited
        where = ", ".join(sorted({places[number] for number in missing}))
        self._say(
            f"{self._stage} · waiting for {len(missing)} of {len(places)} {self._who} for {waited:.0f} s, on {where}; "
            f"the others answered in {others:.0f} s"
        )


class Standstill:
    """Of work that goes on in many small steps: an extraction's parts, a training's reports. say: prints a line. what:
    begins it, as "extract · no part was finished"."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        self._say, self._what = say, what
        self.begin(lambda: [])

    def begin(self, where: Callable[[], Sequence[str]]) -> None:
        """Call when the work begins, or begins again. where: returns the addresses of the nodes that are at work."""
        self._where, self._moved, self._longest = where, time.monotonic(), 0.0
        self._steps, self._tell = 0, _STILL

    def moved(self) -> None:
        """Call when there was a step. What came before the first one was a start, and tells nothing."""
        now = time.monotonic()
        if self._steps:
            self._longest = max(self._longest, now - self._moved)
        self._moved, self._tell, self._steps = now, _STILL, self._steps + 1

    def waiting(self) -> None:
        """Call every few seconds while there is none."""
        waited = time.monotonic() - self._moved
        if not self._steps or waited < max(self._tell, _TIMES * self._longest):
            return
        self._tell = _AGAIN * waited
        before = f"; before, {self._longest:.0f} s passed at most" if self._steps > 1 else ""
        self._say(f"{self._what} for {waited:.0f} s, on {', '.join(sorted(set(self._where())))}{before}")
