"""Products that use one thread each, while a selection runs.

A selection uses several CPUs by shards on threads or on actors. Libraries that cut the products up further let their
threads wait for each other in loops that cost CPU seconds: on two CPUs up to twice as many, and no second is gained.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import cache
from types import ModuleType

from threadpoolctl import ThreadpoolController

from alray.models.pytorch import imported_torch, when_imported


class _Selections:
    """The selections that this process makes at the moment: several threads may select at once."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._limited, self._usual = ExitStack(), 0  # PyTorch's threads before the first of them; 0: not known

    def enter(self) -> None:
        """One more. The first one limits NumPy's products."""
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._limited.enter_context(_libraries().limit(limits=1, user_api="blas"))

    def limit(self, torch: ModuleType) -> int:
        """Limit PyTorch's products in this thread; returns how many threads they had before the selections."""
        with self._lock:
            before: int = torch.get_num_threads()
            if not self._usual:
                self._usual = before
            torch.set_num_threads(1)
            return self._usual if before == 1 else before  # a thread that is started now begins with 1

    def leave(self, before: int) -> None:
        """One less. The last one takes the limit back. before: what `limit` returned in this thread, or 0."""
        with self._lock:
            self._count -= 1
            before = before or self._usual
            if not self._count:
                self._limited.close()
                self._usual = 0
            if (torch := imported_torch()) and before:  # after NumPy's limit, whose end may change PyTorch's
                torch.set_num_threads(before)


class OneThread:
    """Context manager: products of NumPy use one thread in the whole process, and those of PyTorch in every thread that
    calls `here`. After the last selection all is as before. PyTorch is not imported for it."""

    def __init__(self) -> None:
        self._before, self._owner, self._held = 0, 0, ExitStack()

    def __enter__(self) -> OneThread:
        self._owner = threading.get_ident()
        _SELECTIONS.enter()
        self._held.callback(when_imported, when_imported(self.here))
        self.here()
        return self

    def here(self) -> None:
        """Call in a thread that makes products, when PyTorch may have been imported: it remembers a number of threads
        for each thread, and one for those that are started later. Where the thread imports it later, it is called
        again."""
        when_imported(self.here)
        if torch := imported_torch():
            before = _SELECTIONS.limit(torch)
            if threading.get_ident() == self._owner:
                self._before = self._before or before

    def __exit__(self, *_: object) -> None:
        _SELECTIONS.leave(self._before)
        self._held.close()


_SELECTIONS = _Selections()


@cache
def _libraries() -> ThreadpoolController:
    """The libraries that are loaded, NumPy's among them. To look for them takes longer than a small selection."""
    return ThreadpoolController()
