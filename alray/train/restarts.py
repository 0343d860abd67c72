"""A training that goes on by itself when the cluster loses a part of it: what is tried again, and what it cost.

Tried again is what may go better the next time: a worker whose process was killed, a node that is gone, a connection
between workers that broke. An error that a worker raised (a broken image, a training that diverged, a defect) would be
raised again and ends the run.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from alray.lost_nodes import NodeLost
from alray.process import death
from alray.reasons import ours
from alray.rundir import PROGRESS, RAY
from alray.store import Store, read_bytes
from alray.train.summary import TrainFailed

NAME = "train"  # of the training, for Ray Train
_DEAD = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
_PROCESS_SECONDS, _NODE_SECONDS = 5.0, 20.0  # in which Ray notices that a process or a node is gone
_BROKEN = re.compile(r"gloo|NCCL|connection (closed|reset|refused)|broken pipe|socket|TCPStore", re.IGNORECASE)


@dataclass(frozen=True)
class Restart:
    """A restart. cause: what was lost, in words; epoch: how many epochs were kept; seconds: from the last checkpoint
    that was kept (or the beginning) until the workers trained again: what the loss cost."""

    cause: str
    epoch: int
    seconds: float


class Restarts:
    """The restarts of one training. most: how many there may be; say: prints a line; note: called with every restart
    as a dictionary, when the training has ended or failed again."""

    def __init__(
        self, out: Store, what: str, most: int, say: Callable[[str], None], note: Callable[[dict[str, Any]], None]
    ) -> None:
        self._out, self._what, self._most, self._say, self._note = out, what, most, say, note
        self._began = time.monotonic()
        self._reached: dict[int, float] = {}  # when so many epochs were done
        self._cause, self._epoch, self._since = "", 0, 0.0  # of the last restart, if there was one
        self._again = 0.0  # when the workers trained again
        self.count = 0

    def saw(self, message: dict[str, Any]) -> None:
        """Call with every message of worker 0, from any thread."""
        now = time.monotonic()
        self._again = self._again or now
        self._reached.setdefault(int(message["epoch"]), now)

    def end(self) -> None:
        """The workers have failed again, or have finished: note the restart that was before, if there was one."""
        if self._cause:
            seconds = (self._again or time.monotonic()) - self._since
            self._note(asdict(Restart(self._cause, self._epoch, round(seconds, 3))))
            self._cause, self._began = "", self._again or time.monotonic()

    def failed(self, cause: str) -> None:
        """Prepare for another start. Raises TrainFailed if there were enough of them."""
        self.end()
        if self.count == self._most:
            times = f"after {self.count} restarts" if self._most else "and is not restarted"
            raise TrainFailed(
                f"{self._what} failed {times} (resources.train_retries): {cause}. The same command goes on from its "
                "last checkpoint"
            )
        self.count += 1
        kept = kept_epochs(self._out)
        self._since = self._reached.get(kept, self._began)
        self._cause, self._epoch, self._reached, self._again = cause, kept, {}, 0.0
        self._out.delete(PROGRESS)
        where = f"after epoch {kept}" if kept else "from the beginning"
        self._say(f"train · {cause}; going on {where}, {self.count} of {self._most} restarts")


def snapshot(out: Store) -> str:
    """Ray Train's list of the checkpoints of a training."""
    return out.at(RAY, NAME, "checkpoint_manager_snapshot.json")


def kept_epochs(out: Store) -> int:
    """How many epochs the last checkpoint of a training has; 0 without one."""
    try:
        results = json.loads(read_bytes(snapshot(out)))["checkpoint_results"]
        return max((int(result["metrics"]["epoch"]) + 1 for result in results), default=0)
    except (FileNotFoundError, ValueError):
        return 0


def lost(error: BaseException) -> str | None:
    """What the cluster has lost, in words; None if a worker raised an error of its own."""
    if isinstance(error, NodeLost):
        return str(error)
    if isinstance(error, ControllerError):
        failure = error.controller_failure
        mine = ours(failure) or unloadable(failure)
        return None if mine else f"the workers could not start ({_line(failure)})"
    if not isinstance(error, WorkerGroupError):
        known = isinstance(error, TrainingFailedError)
        return None if known else f"the process that leads the training was lost ({_line(error)})"
    failures = error.worker_failures
    if any(map(ours, failures.values())):
        return None
    dead = {rank: failure for rank, failure in failures.items() if isinstance(failure, _DEAD)}
    if dead:
        return _death(dead)
    for rank, failure in failures.items():
        if isinstance(failure, RayError) and not isinstance(failure, RayTaskError):
            return f"worker {rank}: {_line(failure)}"
        if _BROKEN.search(str(failure)):
            return f"worker {rank} lost its connection to another one ({_line(failure)})"
    return None


def unloadable(error: BaseException) -> str:
    """Why a worker cannot load the code that it was given; "" where that is not the fault."""
    task = getattr(error, "cause", error)
    cause = getattr(task, "client_exc", task)  # Ray could not load what it was sent
    kinds = (ImportError,) if cause is task else (ImportError, AttributeError)
    return _line(cause) if isinstance(cause, kinds) else ""


def until_known(failures: Mapping[int, BaseException]) -> float:
    """Seconds in which Ray may still find out why workers have failed; 0 if it is known, or if none has failed."""
    found = list(failures.values())
    if not found or any(ours(error) or (isinstance(error, _DEAD) and not _away(error)) for error in found):
        return 0.0
    return _NODE_SECONDS if any(map(_away, found)) else _PROCESS_SECONDS


def _away(error: BaseException) -> bool:
    """Whether a worker cannot be reached, and Ray does not know yet whether it is dead."""
    return isinstance(getattr(error, "health_check_failure", None), ActorUnavailableError)


def _death(dead: dict[int, BaseException]) -> str:
    """Which workers died, and why."""
    rank, failure = next(iter(dead.items()))
    who = f"worker {rank}{f' and {len(dead) - 1} more' if len(dead) > 1 else ''}"
    if isinstance(failure, WorkerHealthCheckTimeoutError):
        return f"{who} did not answer for minutes"
    return f"{who} cannot be reached" if _away(failure) else f"{who}: {death(str(failure))}"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
