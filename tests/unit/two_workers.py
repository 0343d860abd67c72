"""A function in two processes, as the two workers of one training.

The processes are started anew, not forked: autograd refuses to run in a fork of a process whose autograd had threads,
and whether it had depends on which tests ran before.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def in_two(work: Callable[..., None], *given: Any, seconds: float = 120) -> None:
    """work(rank, *given) for rank 0 and 1, to the end of both."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, *given)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds)
    assert [worker.exitcode for worker in workers] == [0, 0], "see the traceback above"
