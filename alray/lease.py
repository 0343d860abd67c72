"""A lease: only one process at a time writes to a directory, such as that of a run or of a pretext task.

The lease is the file lease.json. The holder shows every few seconds that it still works: it beats. Another process
waits until the lease is gone or its holder is dead. If the holder ran on the same machine, its process number and start
time tell at once whether it is dead. Otherwise the holder counts as dead when its beats have stood still for a minute
on the clock of the process that waits.

A holder that stood still for so long and wakes up finds that another process holds the lease now. Its next write to the
directory raises LeaseLost.

On local disk, NFS included, the lease is created exclusively, so of many processes one wins. To replace a dead holder's
lease, a process must first create a second file exclusively, which is named after the dead lease. A beat never touches
the lease of a later holder, here and on object stores.

On an object store the lease is created by a conditional put if fsspec opens the store and its client has one. The
clients of pyarrow for S3 and GCS have none. There, and wherever the lease of a dead holder is replaced, a process
looks, writes the lease, waits half a second and reads it back. If a process stands still for longer than that between
its look and its write, two processes can believe that they hold the lease. The one whose lease was overwritten then
stops before its next write. It may have bought labels until then.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

from alray.lease_file import Claim, Seen, claim_on
from alray.patience import impatient
from alray.process import describe, here, running
from alray.store import Store, StoreError, protected

LEASE = "lease.json"
_STALE = 60.0  # seconds without a beat after which a holder elsewhere counts as dead
_BEATS = 6  # beats in that time


class LeaseLost(RuntimeError):  # noqa: N818  what happened, and to whom, says more than the suffix
    """This process stood still for so long that another one took over its lease. It must not write any more."""

    exit_code = 1


@contextmanager
def lease(
    store: Store,
    waiting: Callable[[str], None] = lambda holder: None,
    *,
    busy: Callable[[str], None] = lambda holder: None,
    stale: float = _STALE,
) -> Iterator[None]:
    """Context manager: hold the lease on the directory. Waits first while another process holds it.

    waiting: called once with the holder's name if there is a wait; busy: called with the holder's name when it is known
    to be alive, because it runs on this machine or has just beaten; it may raise, which ends the wait. stale: seconds
    without a beat after which a holder counts as dead. The body must check again what the directory has, because
    another process may have done the work in the meantime. While the body runs, every write to the directory by this
    process raises LeaseLost if the lease was lost. Raises StoreError if the directory cannot be written.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    mine = {**describe(os.getpid()), "since": now, "token": uuid.uuid4().hex}
    claim = claim_on(store, LEASE)
    _wait(claim, mine, waiting, busy, stale)
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(claim, stale / _BEATS, over), name="alray-lease", daemon=True)
    thread.start()
    try:
        with protected(store.uri, lambda: _check(store, claim)):
            yield
    finally:
        over.set()
        thread.join()
        with impatient(), suppress(OSError):  # a lease that stays is taken over when its beats are late
            claim.release()


def _wait(
    claim: Claim, mine: dict[str, Any], waiting: Callable[[str], None], busy: Callable[[str], None], stale: float
) -> None:
    """Return when this process has the lease."""
    seen, since, told = None, time.monotonic(), False
    while True:
        at = time.monotonic()  # before the look: this process may stand still after it
        found = claim.look()
        if found is None:
            if claim.take(json.dumps(mine), None):
                return
            time.sleep(0.01)
            continue
        beaten = seen is not None and found != seen and found.token == seen.token
        if found != seen:
            seen, since = found, at
        alive = running(found.holder)
        if alive is False or at - since > stale:
            if claim.take(json.dumps(mine), found):
                return
        else:
            if alive or beaten:
                busy(_name(found))
            if not told and ("pid" in found.holder or at > since):  # it may be written just now
                waiting(_name(found))
                told = True
        time.sleep(min(1.0, stale / 10) if alive is not False else 0.05)


def at_work(store: Store) -> bool | None:
    """Whether a process holds the lease on a directory and runs; None if it is on another machine, where that cannot
    be seen."""
    found = claim_on(store, LEASE).look()
    return False if found is None else running(found.holder)


def _name(found: Seen) -> str:
    holder = found.holder
    if "pid" not in holder:
        return "an unknown process"
    name = f"process {holder.get('pid')} on {holder.get('host')}"
    return f"{name} since {holder['since']}" if "since" in holder else name


def _check(store: Store, claim: Claim) -> None:
    """Raise LeaseLost unless this process still holds the lease."""
    if claim.held():
        return
    found = claim.look()
    now = f"{_name(found)} holds it now" if found else "it was taken over or removed, and nobody holds it now"
    raise LeaseLost(
        f"{store.uri}: process {os.getpid()} on {here()} held {LEASE} and lost it: {now}. A process loses its lease "
        "when it stands still for over a minute and another one goes on in its place. This process writes nothing more "
        "there."
    )


def _beat(claim: Claim, seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        try:
            with impatient():
                if not claim.beat():
                    return  # the next write raises LeaseLost
        except (StoreError, OSError):  # one beat is skipped if the store is busy
            continue
