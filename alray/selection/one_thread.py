"""Products that use one thread each, while a selection runs.

A selection uses several CPUs by shards on threads or on actors. Libraries that cut the products up further let their
threads wait for each other in loops that cost CPU seconds: on two CPUs up to twice as many, and no second is gained.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import cache

from threadpoolctl import ThreadpoolController

from alray.models.pytorch import imported_torch, when_imported


class OneThread:
    """Context manager: products of NumPy use one thread in the whole process, and those of PyTorch in every thread that
    calls `here`. Afterwards all is as before. PyTorch is not imported for it."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._lock, self._held = threading.Lock(), ExitStack()

    def __enter__(self) -> OneThread:
        self._held.enter_context(_libraries().limit(limits=1, user_api="blas"))
        self._held.callback(when_imported, when_imported(self.here))
        self.here()
        return self

    def here(self) -> None:
        """Call in a thread that makes products, when PyTorch may have been imported: it remembers a number of threads
        for each thread, and one for those that are started later. Where the thread imports it later, it is called
        again."""
        when_imported(self.here)
        if torch := imported_torch():
            with self._lock:
                self._before = self._before or torch.get_num_threads()
                torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if (torch := imported_torch()) and self._before:
            torch.set_num_threads(self._before)
        self._held.close()


@cache
def _libraries() -> ThreadpoolController:
    """The libraries that are loaded, NumPy's among them. To look for them takes longer than a small selection."""
    return ThreadpoolController()
