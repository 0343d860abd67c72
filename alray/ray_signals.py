"""Signals while Ray starts: SIGTERM and Ctrl-C stop the command as soon as Ray has started.

A start of Ray that is interrupted half-way leaves processes behind, which end after half a minute. In the second in
which Ray's core connects, SIGTERM aborts the process with a stack trace, and after Ctrl-C it ends with a segmentation
fault.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

from alray.sigterm import TIDY, Stop

# What the core calls, once in a process, to have a stack trace printed on signals (ray/util/logging.h).
_INSTALL = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def kept() -> Iterator[None]:
    """Context manager for the start of Ray: the handlers of SIGTERM and Ctrl-C stay those of the command. A signal that
    comes inside of `ray.init` is answered at its end; one more, ten seconds later, at once.

    Only the main thread has handlers. Where that of SIGTERM is none of alray's, Ray puts its own there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = isinstance(before[signal.SIGTERM], Stop)
    held = {number: handler for number, handler in before.items() if callable(handler)}
    if not ours:
        held.pop(signal.SIGTERM, None)
    came: dict[int, float] = {}
    from unittest import mock  # imports asyncio, which a command that starts no Ray does not need

    with mock.patch("ray._private.utils.set_sigterm_handler") if ours else nullcontext():
        if ours:
            _install_cores_handlers()
        for number, handler in held.items():
            signal.signal(number, _waiting(handler, came))
        try:
            yield
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)
            for noted in came:
                signal.raise_signal(noted)


def _waiting(handler: Handler, came: dict[int, float]) -> Handler:
    """A handler that only notes in `came`, with its time, a signal inside of `ray.init`; others go to `handler`."""

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if _starts_ray(frame) and now - came.setdefault(number, now) < TIDY:
            return
        came.pop(number, None)
        handler(number, frame)

    return handle


def _starts_ray(frame: FrameType | None) -> bool:
    """Whether this frame, or one that called it, is that of `ray.init`."""
    while frame is not None:
        if frame.f_code.co_name == "init" and frame.f_globals.get("__name__") == "ray._private.worker":
            return True
        frame = frame.f_back
    return False


def _install_cores_handlers() -> None:
    """Have Ray's core install its handlers now, and not when it connects, so that alray's handler of SIGTERM can be put
    over theirs. A Ray that has no such function installs them when it connects, and SIGTERM then aborts."""
    import ray._raylet

    install = getattr(ctypes.CDLL(ray._raylet.__file__), _INSTALL, None)
    if install is not None:
        install(ctypes.c_char_p(None), ctypes.c_bool(True))
