"""Shards in this process: on threads, one per shard, as many at once as there are CPUs.

NumPy and PyTorch release Python's lock while they work on arrays. Every thread computes alone, see `OneThread`.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from alray.features.arrays import LOGITS, Reads, Shard, ShardSource
from alray.process import processors
from alray.selection.kernels.matrices import best_device, device_for
from alray.selection.labeled_rows import read
from alray.selection.one_thread import OneThread
from alray.selection.protocol import Context, Strategy


def usual_shards(rows: int, width: int, strategy: Strategy, stored: bool = True) -> int:
    """The number of shards of a selection in this process, unless told: one on a GPU, else one per CPU, and few for few
    rows. width: numbers in a row of all columns (`row_width`); stored: whether logits, if there are any, and what else
    is read are stored as a GPU takes them (`sent_to_gpu`)."""
    least, numbers = strategy.shard_size
    most = min(processors(), max(rows // least, rows * width // numbers))
    if most > 1 and strategy.uses_gpu and (stored or LOGITS not in strategy.needs):
        device = device_for(rows * width) if LOGITS in strategy.needs else best_device()
        most = most if device is None else 1
    return max(1, most)


class ShardWorker:
    """One shard: opened on the first call, and again after a restart."""

    def __init__(self, source: ShardSource, strategy: Strategy, context: Context) -> None:
        self._source, self._strategy, self._context = source, strategy, context
        self._shard: Shard | None = None  # until there is a state, which may need only a part of it
        self._state: Any = None
        self._seconds = 0.0
        self._reads: list[Reads] = []  # of the segments that the state works on

    def call(self, method: str, *args: Any) -> Any:
        """Answer one `Shards.map` call."""
        return self._timed(time.process_time, lambda: None, method, args)

    def call_in_thread(self, one: OneThread, method: str, *args: Any) -> Any:
        """The same in this process, perhaps in a thread among others."""
        return self._timed(time.thread_time, one.here, method, args)

    def open(self) -> None:
        """Open the shard and make its state, which imports what the strategy needs."""
        if self._state is None:
            shard, self._shard = self._opened(), None
            self._reads = [segment.reads for segment in shard.segments]
            self._state = self._strategy.open(shard, self._context)

    def _timed(self, clock: Callable[[], float], ready: Callable[[], None], method: str, args: tuple[Any, ...]) -> Any:
        start = clock()
        self.open()
        ready()  # everything is imported
        answer = getattr(self._state, method)(*args)
        self._seconds += clock() - start
        return answer

    def account(self) -> dict[str, float]:
        """CPU seconds of this shard's work, peak memory of its process in bytes, rows and bytes that were read of the
        shard, and the counters of its state."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        reads = {
            "rows_read": sum(one.rows for one in self._reads),
            "bytes_read": sum(one.bytes for one in self._reads),
        }
        return {"cpu_seconds": self._seconds, "peak_bytes": peak, **reads, **getattr(self._state, "counters", {})}

    def size(self) -> int:
        """Number of rows."""
        return len(self._opened())

    def _opened(self) -> Shard:
        if self._shard is None:
            self._shard = self._source.open()
        return self._shard

    def pid(self) -> int:
        """Id of the process that holds the shard."""
        return os.getpid()


class InProcess:
    """All shards in this process, each in a thread of its own where there are several, at most one per CPU at once."""

    def __init__(self, sources: Sequence[ShardSource], strategy: Strategy, context: Context) -> None:
        if context.labeled is not None:
            context = replace(context, labeled=read(context.labeled, strategy))
        self.context = context
        self._workers = [ShardWorker(source, strategy, context) for source in sources]
        self._threads: ThreadPoolExecutor | None = None
        self._held, self._one = ExitStack(), OneThread()

    def __enter__(self) -> InProcess:
        self._held.enter_context(self._one)
        at_once = min(len(self._workers), processors())
        if at_once > 1:
            self._threads = self._held.enter_context(ThreadPoolExecutor(at_once, "alray-shard"))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self._workers.clear()

    def map(self, method: str, *args: Any) -> list[Any]:
        """One answer per shard."""
        each: Callable[..., Iterable[Any]] = map if self._threads is None else self._threads.map
        answers = list(each(lambda worker: worker.call_in_thread(self._one, method, *args), self._workers))
        self._one.here()  # the shards may have imported what the strategy's own products are made with
        return answers

    def report_progress(self, picks: int) -> None:
        """No-op: `Metered` reports progress."""

    def sizes(self) -> list[int]:
        """Rows per shard."""
        return [worker.size() for worker in self._workers]

    def accounts(self) -> list[dict[str, float]]:
        """The account of each shard's work, see `ShardWorker.account`."""
        return [worker.account() for worker in self._workers]
