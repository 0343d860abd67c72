"""Threads that help the one thread of a shard beside a GPU, where all processors are its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

from alray.process import processors


@cache
def helpers() -> ThreadPoolExecutor:
    """One thread per processor. What they do must not wait for others of them."""
    return ThreadPoolExecutor(processors(), "alray-helper")
