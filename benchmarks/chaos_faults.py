"""The faults of `bench_chaos.py`, and when they come."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from chaos_machines import Driver, Machines, Server

ACTOR = "_Actor"  # the title of a selection actor
KINDS = {
    "selection actor killed": 6,
    "worker process of Ray killed": 4,
    "node killed, another one comes": 4,
    "driver killed, same command again": 5,
    "storage away": 4,
    "selection actor stands still": 3,
    "head killed, new cluster, same command again": 1,
}  # and how often each comes, relative to the others


@dataclass
class Injected:
    """A fault that has happened, and the round in which it did."""

    kind: str
    round: int
    stage: str
    away: float = 0.0  # seconds for which something was away or stood still


@dataclass
class Faults:
    """Which faults come, in which order and at which moments: all of it follows from the seed and the rounds' number.

    A fault comes in a round of its own, some rounds have none. One that finds nothing to kill (no selection was at work
    at its moment) waits for the next round.
    """

    seed: int
    rounds: int
    kinds: tuple[str, ...]
    longest: float  # seconds for which something may be away
    injected: list[Injected] = field(default_factory=list)
    _due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)  # what is mended, and when

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        selecting = self.rounds - 1  # the last round has no selection
        number = max(len(self.kinds), int(0.8 * selecting)) if self.kinds else 0
        weighted = [kind for kind in self.kinds for _ in range(KINDS[kind])]
        more = [self._random.choice(weighted) for _ in range(number - len(self.kinds))]
        self.waiting = [*self.kinds, *more][: max(selecting, 1)]
        self._random.shuffle(self.waiting)
        quiet = selecting - len(self.waiting)
        self._quiet = set(self._random.sample(range(1, selecting), min(max(quiet, 0), max(selecting - 1, 0))))
        self._seen: dict[int, float] = {}  # when the actors of a round's selection were there
        self._moments = {number: (self._random.random(), self._random.random()) for number in range(self.rounds)}

    def mend(self, all_: bool = False) -> None:
        """Call often: bring back what was away for its time, or at the end all of it."""
        while self._due and (all_ or self._due[0][0] < time.monotonic()):
            _, work = self._due.pop(0)
            with suppress(ProcessLookupError):  # what stood still has been ended
                work()

    def look(self, driver: Driver, machines: Machines, storage: Server) -> None:
        """Call often."""
        number = driver.round
        done = any(fault.round == number for fault in self.injected)
        if not self.waiting or number < 0 or number in self._quiet or done or self._due:
            return
        moment, length = self._moments[number]
        if self.rounds - 1 - number <= len(self.waiting):
            moment = 0.0  # the last rounds for it: at the first chance
        kind, away = self.waiting[0], 1 + length * (self.longest - 1)
        stage = driver.stage
        if "actor" in kind or "worker" in kind or "node" in kind:
            if stage != "select" or not machines.workers(ACTOR):
                return
            if time.monotonic() - self._seen.setdefault(number, time.monotonic()) < moment:
                return
        elif time.monotonic() - driver.began[number] < moment * driver.usual():
            return
        if self._inject(kind, driver, machines, storage, away):
            self.waiting.pop(0)
            kept = away if "away" in kind or "still" in kind else 0.0
            self.injected.append(Injected(kind, number, stage, round(kept, 2)))

    def _inject(self, kind: str, driver: Driver, machines: Machines, storage: Server, away: float) -> bool:
        """Returns whether there was something to break."""
        if kind.startswith("driver"):
            driver.process.kill()
        elif kind.startswith("head"):
            machines.kill_head()
        elif kind.startswith("storage"):
            storage.stop()
            self._due.append((time.monotonic() + away, storage.start))
        else:
            title = "" if kind.startswith("worker") else ACTOR
            found = machines.workers(title)
            if not found:
                return False
            return self._break(kind, self._random.choice(found), machines, away)
        return True

    def _break(self, kind: str, pid: int, machines: Machines, away: float) -> bool:
        try:
            if kind.startswith("node"):
                if not machines.kill_node(pid):
                    return False
                self._due.append((time.monotonic() + away, machines.add_node))
            elif "still" in kind:
                os.kill(pid, signal.SIGSTOP)
                self._due.append((time.monotonic() + away, lambda: os.kill(pid, signal.SIGCONT)))
            else:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True
