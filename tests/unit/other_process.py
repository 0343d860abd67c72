"""Shards in a process of their own, so that a test can tell the driver's memory and messages from theirs."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from alray.features.arrays import ShardSource
from alray.selection.protocol import Context, Strategy
from alray.selection.shards import InProcess


class OtherProcess:
    """All shards in one other process. sent, received: the bytes of the messages; exchanges: their number."""

    def __init__(self, sources: Sequence[ShardSource], strategy: Strategy, context: Context) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self.sent = self.received = self.exchanges = 0
        self._here.send_bytes(pickle.dumps((sources, strategy, replace(context, peek=None, pretext=None))))

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self._process.join(60)

    def map(self, method: str, *args: Any) -> list[Any]:
        """One answer per shard."""
        message = pickle.dumps((method, args), protocol=5)
        self._here.send_bytes(message)
        self.sent += len(message)
        del message
        answer = self._here.recv_bytes()
        self.received += len(answer)
        self.exchanges += 1
        found: list[Any] | Exception = pickle.loads(answer)
        if isinstance(found, Exception):
            raise found
        return found

    def maps(self) -> list[str]:
        """The files and memory that the other process has mapped."""
        return Path(f"/proc/{self._process.pid}/maps").read_text().splitlines()

    def report_progress(self, picks: int) -> None:
        """No-op."""


def _serve(pipe: Connection) -> None:
    sources, strategy, context = pickle.loads(pipe.recv_bytes())
    shards = InProcess(sources, strategy, context)
    while True:
        try:
            method, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer: Any = shards.map(method, *args)
        except Exception as error:
            answer = error
        pipe.send_bytes(pickle.dumps(answer, protocol=5))
