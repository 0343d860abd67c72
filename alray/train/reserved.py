"""Ray Train's workers in a reservation that was made before, and the decoders of their images.

Ray Train makes a placement group of its own, with nothing in it but workers, and waits for it where nobody is told. Its
controller is a process of its own: a callback that is sent there has it use the group of the reservation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle

from alray.reservation import Reservation
from alray.train.restarts import until_known


@dataclass(frozen=True)
class Decoding:
    """What a training worker has for decoding its images. cpus_per_task: CPUs that one decoding task takes; kept_bytes:
    the most bytes of decoded images that it keeps between epochs."""

    reservation: Reservation
    cpus_per_task: float
    kept_bytes: int

    def tasks(self, rank: int) -> int:
        """The most decoding tasks of a worker at a time: its part of the reservation's, and at least one."""
        each, more = divmod(self.reservation.decoders, self.reservation.workers)
        return max(1, each + (rank < more))


class InReservation(ControllerCallback):  # type: ignore[misc]  # Ray is untyped
    """Has Ray Train's controller use the group of a reservation."""

    def __init__(self, reservation: Reservation) -> None:
        self._reservation = reservation

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called in the controller's process, before it starts workers."""
        reservation = self._reservation

        class Reserved(WorkerGroup):  # type: ignore[misc]
            def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> _Handle:
                return _Handle(reservation.group)

            def _create_workers(self, num_workers: int, group: Any, resources: Any, *args: Any, **named: Any) -> Any:
                if not args:
                    named = {"placement_group_bundle_indices": [*reservation.bundles], **named}
                return super()._create_workers(num_workers, group, resources, *args, **named)

            def poll_status(self, timeout: float | None = None) -> Any:
                """When a worker dies, the others fail because they miss it, and may say so first: look again."""
                status, began = super().poll_status(timeout), time.monotonic()
                while time.monotonic() - began < until_known(status.errors):
                    time.sleep(0.5)
                    status = super().poll_status(timeout)
                return status

        TrainController.worker_group_cls = Reserved


class _Handle(DefaultPlacementGroupHandle):  # type: ignore[misc]
    """A group that outlives Ray Train's workers: who reserved it gives it back."""

    def shutdown(self) -> None:
        """No-op: the workers have been ended one by one."""
