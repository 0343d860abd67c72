"""One at a time: a lease on a directory that several runs may want to fill, such as a pretext task they share.

Whoever holds it writes a new beat every few seconds into lease.json. Whoever comes second waits until the lease is gone
or its holder is: a dead process on this machine is seen at once, one elsewhere by a beat that stands still. A lease
saves work and keeps Ray Train's checkpoints apart; that no file is half-written does not depend on it.
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
_SETTLE = 0.5  # seconds after a claim in which a rival's claim may overwrite it


@contextmanager
def lease(
    store: Store, waiting: Callable[[str], None] = lambda holder: None, *, stale: float = _STALE
) -> Iterator[None]:
    """Hold the directory while the body runs; before, wait for whoever holds it (`waiting` is called once, with who).

    The body must look again at what there is: another process may have done the work meanwhile.
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
    """Who holds the lease; empty for nobody."""
    try:
        return dict(store.read_json(LEASE))
    except (FileNotFoundError, StoreError):
        return {}


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of this machine that is no more."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's process, alive
        pass
    return False


def _keep(store: Store, token: dict[str, Any], over: threading.Event) -> None:
    number = 0
    while not over.wait(_BEAT):
        number += 1
        try:
            store.write_json(LEASE, {**token, "beat": number})
        except StoreError:  # a busy object store costs a beat
            continue
