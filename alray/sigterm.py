"""SIGTERM stops a command as Ctrl-C does. Slurm, Kubernetes, `ray job stop` and the owners of spot machines send it.

Without a handler, Python ends at once. Ray puts its own handler in the place of any other when it starts: it prints a
stack trace and aborts, and whatever was at work has no time to leave things in order.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = "stopped: the same command continues"
TIDY = 10.0  # seconds in which a second signal changes nothing, because the first one's clean-up is at work


class Stop:
    """The handler: it does what Ctrl-C does at that moment. code: that of the process, if `came` says that it came."""

    code = 128 + signal.SIGTERM

    def __init__(self) -> None:
        self.came = False
        self._process = os.getpid()
        self._last = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Stop what the main thread does."""
        if os.getpid() != self._process:  # a fork of this process, which ends as it would without this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.came and time.monotonic() - self._last < TIDY:
            return
        self.came, self._last = True, time.monotonic()
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):  # Python's own raises KeyboardInterrupt; Ray Tune and asyncio have others
            interrupt(signal.SIGINT, frame)
        else:  # shells ignore Ctrl-C in what they start in the background
            raise KeyboardInterrupt


def came() -> bool:
    """Whether SIGTERM came, so that the command is about to stop. Any thread may ask."""
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, Stop) and handler.came


@contextmanager
def as_ctrl_c() -> Iterator[Stop]:
    """Context manager: SIGTERM stops the work as Ctrl-C does. Only the main thread can have that; inside another
    `as_ctrl_c` the handler of the outer one stays. If SIGTERM came, the handler stays for the end of the process, in
    which Ray ends its processes."""
    before = signal.getsignal(signal.SIGTERM)
    if isinstance(before, Stop) or threading.current_thread() is not threading.main_thread():
        yield before if isinstance(before, Stop) else Stop()
        return
    stop = Stop()
    signal.signal(signal.SIGTERM, stop)
    try:
        yield stop
    finally:
        if not stop.came:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
