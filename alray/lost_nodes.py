"""What a stage does when a node of its reservation is lost: it ends what waits for that node, and reserves anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alray.reservation import IN_PLACE, ClusterError, ClusterLost, Reservation

LOOK = 5.0  # seconds between looks at the nodes of a reservation


class NodeLost(ClusterLost):
    """A part of a stage's reservation is lost. The stage can reserve anew and go on from what it has written."""


class Loss:
    """Whether a reservation lacks a node, and no other one has taken its place in some seconds."""

    def __init__(self, reservation: Reservation) -> None:
        self._reservation = reservation
        self._since: float | None = None

    def lasts(self) -> bool:
        """Call every few seconds."""
        if self._reservation.whole:
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > IN_PLACE


@contextmanager
def kept_whole(reservation: Reservation) -> Iterator[None]:
    """Context manager: if a node of the reservation is lost and no other one takes its place in some seconds, what runs
    in the reservation is ended, and NodeLost is raised: it would wait without end for what is gone. In a trial of a
    sweep this is a no-op: its group is not the stage's own."""
    import ray

    if not reservation.own:
        yield
        return
    over, ended = threading.Event(), threading.Event()

    def watch() -> None:
        loss = Loss(reservation)
        while not over.wait(LOOK):
            if loss.lasts() and not over.is_set():
                ended.set()
                ray.util.remove_placement_group(reservation.group)
                return

    threading.Thread(target=watch, name="alray-reservation", daemon=True).start()
    try:
        yield
    except Exception as error:
        if ended.is_set():
            raise NodeLost("a node was lost, and no other one had room for what it held") from error
        raise
    finally:
        over.set()


@contextmanager
def after_loss(lost: bool = True) -> Iterator[None]:
    """Context manager: where a node was lost, a cluster that is too small is no mistake of the user's: ClusterLost is
    raised instead of ClusterError."""
    try:
        yield
    except ClusterError as error:
        if not lost or isinstance(error, ClusterLost):
            raise
        raise ClusterLost(f"a node was lost, and the others are too few: {error}") from None
