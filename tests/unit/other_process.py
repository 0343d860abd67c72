"""Shards in a process of their own, so that a test can tell the driver's memory and messages from theirs."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from alray.features.arrays import ShardSource
from alray.selection.in_process import InProcess
from alray.selection.protocol import Context, Strategy


class OtherProcess:
    """All shards in one other process, which can serve one selection after the other. sent, received: the bytes of the
    messages; exchanges: their number."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self.sent = self.received = self.exchanges = 0

    def hold(self, sources: Sequence[ShardSource], strategy: Strategy, context: Context) -> None:
        """Begin a selection with other shards."""
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

    def report_progress(self, picks: int) -> None:
        """No-op."""


def _serve(pipe: Connection) -> None:
    shards: Any = None
    while True:
        try:
            message = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        if len(message) == 3:
            shards = InProcess(*message)
            continue
        try:
            answer: Any = shards.map(message[0], *message[1])
        except Exception as error:
            answer = error
        pipe.send_bytes(pickle.dumps(answer, protocol=5))
