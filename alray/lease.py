"""A lease: only one process at a time fills a directory that several runs share, such as that of a pretext task.

The holder writes a new beat into lease.json every few seconds. Another process waits until the lease is gone or its
holder is dead. A dead holder on this machine is noticed at once, a dead holder on another machine by its beat, which no
longer changes. The lease avoids double work and keeps the checkpoints of Ray Train apart. Files are written atomically
even without it.
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
_STALE = 60.0  # seconds without a beat after which a holder on another machine counts as dead
_SETTLE = 0.5  # seconds after a claim; another process may overwrite the claim in that time


@contextmanager
def lease(
    store: Store, waiting: Callable[[str], None] = lambda holder: None, *, stale: float = _STALE
) -> Iterator[None]:
    """Context manager: hold the lease on the directory. Waits first while another process holds it.

    waiting: called once with the holder's name if there is a wait; stale: seconds without a beat after which a holder
    on another machine counts as dead. The body must check again what the directory has, because another process may
    have done the work in the meantime.
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
            time.sleep(_SETTLE)  # of two simultaneous claims, the later write counts
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
    """The content of lease.json, which describes the holder; empty if nobody holds the lease."""
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
    except PermissionError:  # a running process of another user
        pass
    return False


def _keep(store: Store, token: dict[str, Any], over: threading.Event) -> None:
    number = 0
    while not over.wait(_BEAT):
        number += 1
        try:
            store.write_json(LEASE, {**token, "beat": number})
        except StoreError:  # one beat is skipped if the object store is busy
            continue
