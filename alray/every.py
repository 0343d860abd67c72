"""Do something again and again while something else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, work: Callable[[], None], name: str) -> Iterator[None]:
    """Context manager: while the body runs, a thread calls `work`, with a pause of so many seconds before each call. A
    call that has begun ends before the context manager does. work: must not raise. name: the thread's."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=again, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
