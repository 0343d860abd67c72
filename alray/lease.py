"""A lease on a directory that several runs may want to fill, such as a pretext task they share: one run at a time.

The process that holds the lease writes a new beat into lease.json every few seconds. Another process waits until the
lease is gone or its holder is dead. A dead process on this machine is noticed at once, one on another machine because
its beat no longer changes. The lease saves work and keeps the checkpoints of Ray Train apart. Files are written whole
or not at all even without it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alray.store import Store, StoreError

LEASE = "lease.json"
_BEAT = 10.0  # seconds between two beats
_STALE = 60.0  # seconds without a beat after which a holder elsewhere counts as dead
_SETTLE = 0.5  # seconds after a claim in which the claim of another process may overwrite it


@contextmanager
def lease(
    store: Store, waiting: Callable[[str], None] = lambda holder: None, *, stale: float = _STALE
) -> Iterator[None]:
    """Hold the directory while the body runs. Before that, wait for the present holder; `waiting` is then called once
    with the holder's name.

    The body must check again what the directory holds: another process may have done the work in the meantime.
    """
    token = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    _claim(store, token, waiting, stale)
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(store, token, over), name="alray-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if _held(store).get("token") == token["token"]:
            store.delete(LEASE)


def _claim(store: Store, token: dict[str, Any], waiting: Callable[[str], None], stale: float) -> None:
    seen, since, told = _held(store), time.monotonic(), False
    while True:
        if not seen or _dead(seen) or time.monotonic() - since > stale:
            store.write_json(LEASE, {**token, "beat": 0})
            time.sleep(_SETTLE)  # of two that claim at once, the later write counts
            if _held(store).get("token") == token["token"]:
                return
        elif not told:
            waiting(f"process {seen.get('pid')} on {seen.get('host')}")
            told = True
        time.sleep(min(1.0, stale / 10))
        now = _held(store)
        if now != seen:
            seen, since = now, time.monotonic()


def _held(store: Store) -> dict[str, Any]:
    """The content of lease.json: the holder of the lease; empty where nobody holds it."""
    try:
        return dict(store.read_json(LEASE))
    except (FileNotFoundError, StoreError):
        return {}


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of this machine that no longer runs."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # the process of another user, alive
        pass
    return False


def _keep(store: Store, token: dict[str, Any], over: threading.Event) -> None:
    number = 0
    while not over.wait(_BEAT):
        number += 1
        try:
            store.write_json(LEASE, {**token, "beat": number})
        except StoreError:  # a beat is left out where the object store is busy
            continue
