"""What a stage does when a node of its reservation is lost: it ends what waits for that node, and reserves anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from alray.reservation import ClusterLost, Lasting, Reservation

LOOK = 5.0  # seconds between looks at the nodes of a reservation


class NodeLost(ClusterLost):
    """A part of a stage's reservation is lost. The stage can reserve anew and go on from what it has written."""


class Loss:
    """Whether a reservation lacks a node, and no other one has taken its place in some seconds."""

    def __init__(self, reservation: Reservation) -> None:
        self._reservation, self._lack = reservation, Lasting()

    def lasts(self) -> bool:
        """Call every few seconds."""
        return self._lack.lasts(not self._reservation.whole)


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
