"""Tell in a line which processes of a run Ray lost, and why.

Ray starts actors and tasks anew by itself when their process was killed for memory or died. Without a line nobody would
know why a stage takes long, or that its machines are short of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from alray.every import every
from alray.process import death

_LOOK = 5.0  # seconds between two looks
_OUT_OF_MEMORY = "Ray ended it due to memory pressure"


class Lost(NamedTuple):
    """A process of this run that is gone. machine: its address; why: in words."""

    worker: str
    machine: str
    why: str


def lost_workers() -> list[Lost]:
    """The processes of this run that died or were killed since it joined the cluster. Those that Ray ended because they
    were no longer needed, and those that raised an error of their own, are none."""
    import ray
    from ray._private.state import state
    from ray.core.generated.common_pb2 import WorkerExitType
    from ray.core.generated.gcs_pb2 import WorkerTableData

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    found = []
    for entry in state._connect_and_get_accessor().get_worker_table():
        worker = WorkerTableData.FromString(entry)
        if worker.is_alive or worker.job_id != job:
            continue
        short = worker.exit_type == WorkerExitType.NODE_OUT_OF_MEMORY
        if short or worker.exit_type == WorkerExitType.SYSTEM_ERROR:
            at = worker.worker_address
            text = _OUT_OF_MEMORY if short else f"Worker exit detail: {worker.exit_detail}"
            found.append(Lost(at.worker_id.hex(), at.ip_address, death(f"ip: {at.ip_address}\n{text}")))
    return found


@contextmanager
def told_losses(stage: str, say: Callable[[str], None]) -> Iterator[None]:
    """Context manager: while a stage runs, say in a line what of it Ray lost, within seconds and at its end."""
    import ray

    if ray.util.client.ray.is_connected():  # a client of Ray's cannot read its table of workers
        yield
        return
    told = {lost.worker for lost in lost_workers()}

    def look() -> None:
        """It never fails: a stage does not depend on what is told of it."""
        with suppress(Exception):
            tell()

    def tell() -> None:
        new = [lost for lost in lost_workers() if lost.worker not in told]
        told.update(lost.worker for lost in new)
        for why, count in Counter(lost.why for lost in new).items():
            many = "a process" if count == 1 else f"{count} processes"
            say(f"{stage} · lost {many}, whose work is repeated: {why}")

    try:
        with every(_LOOK, look, "alray-lost-workers"):
            yield
    finally:
        if ray.is_initialized():
            look()
