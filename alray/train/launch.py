"""Starting Ray Train's workers, waiting for them, and turning a failure into an error of one line.

While a training runs, Ray Train keeps its checkpoint under `ray` in the training's directory. A killed training that is
started again continues from it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from alray import demand
from alray.cluster_state import alive
from alray.config import ResourceConfig
from alray.every import every
from alray.lost_nodes import NodeLost, kept_whole
from alray.lost_workers import told_losses
from alray.reasons import ours
from alray.reservation import Reservation, Share, after_loss, reserve
from alray.rundir import PROGRESS, RAY
from alray.store import Store, filesystem, read_bytes
from alray.stragglers import Standstill
from alray.train.process_group import ProcessGroup
from alray.train.reserved import Decoding, InReservation
from alray.train.restarts import NAME, Restarts, lost, snapshot, unloadable
from alray.train.summary import TrainError, TrainFailed

_UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # of Ray Train; its modules are private

log = logging.getLogger(__name__)


class _Trainer(DataParallelTrainer):  # type: ignore[misc]  # Ray is untyped
    """Ray Train's controller with workers in a reservation that was made before.

    It is without what alray does not use, because each costs a process or an import in every round: Ray's manager of
    datasets (workers read streams of their own), the process that watches over Ray Train's own placement group (the
    driver gives the reservation back), and TorchTrainer, whose configuration imports torch into the controller.
    """

    reservation: Reservation

    def _create_default_callbacks(self) -> list[Any]:
        kept = [found for found in super()._create_default_callbacks() if type(found).__name__ not in _UNUSED]
        return [InReservation(self.reservation), *kept]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C, and with it SIGTERM, to the command. Ray's handler would stay when the training has ended,
        where it does nothing, and end a command that trains with other exit codes."""


def launch(
    work: Callable[[Decoding], dict[str, Any]],
    *,
    what: str,
    written: str,
    out: Store,
    resources: ResourceConfig,
    use_gpu: bool,
    share: Share,
    epochs: int,
    progress: Callable[[dict[str, Any]], None] | None,
    note: Callable[[dict[str, Any]], None] = lambda restart: None,
) -> dict[str, Any]:
    """Run `work` on every training worker and return what worker 0 returns.

    work is called with what the worker has for decoding its images. what: the training's name in messages
    ("training of round 3"). written: a file in `out` that worker 0 must have written. progress is called at the start
    and then from a thread with every message that worker 0 writes into progress.json. note: called with every restart
    (`Restart`).

    When a worker dies or a node is lost, everything is given back, asked for anew and started again from the last
    checkpoint, resources.train_retries times. A checkpoint has all that the next epoch needs, and batches and
    augmentations are drawn from keys and not from a state: on CPUs the weights are, to the last bit, those of an
    undisturbed training with the same number of workers on processors of the same kind. On GPUs the same numbers are
    drawn, but some of torch's kernels add in an order that changes from run to run: there the weights are equal as
    those of two undisturbed trainings are, statistically. The seconds of the epochs differ.

    With resources.train_min_workers, each start has as many workers as the cluster has room for. The steps are the
    same, because every worker takes its part of each batch: what differs is rounding, and what BatchNorm sees at a
    time. The weights are then equal statistically.

    Raises TrainError, TrainFailed, ClusterError, or the alray error that a worker raised.
    """
    out.check_writable()
    out.delete(PROGRESS)
    _discard_torn_snapshot(out)
    restarts = Restarts(out, what, resources.train_retries, share.say, note)
    still = Standstill(share.say, "train · no step was made")
    with _watched(out, epochs, progress, restarts.saw, still):
        while (summary := _attempt(work, what, out, resources, use_gpu, share, restarts, still)) is None:
            pass
        restarts.end()
    if not out.has(written):
        raise TrainError(
            f"{out.at(written)}: a worker wrote it, but the driver cannot read it; on several machines the runs must "
            "be on storage that all of them share"
        )
    return summary


def _attempt(
    work: Callable[[Decoding], dict[str, Any]],
    what: str,
    out: Store,
    resources: ResourceConfig,
    use_gpu: bool,
    share: Share,
    restarts: Restarts,
    still: Standstill,
) -> dict[str, Any] | None:
    """Reserve, start the workers and wait; returns what worker 0 returns, or None if it is to be tried again."""
    needed, whole = demand.training_on(alive(), resources, use_gpu), demand.training(resources, use_gpu)
    if len(needed.workers) < len(whole.workers):
        few, all_ = len(needed.workers), len(whole.workers)
        share.say(f"train · with {few} of {all_} workers (resources.train_min_workers): it {whole.lacks(alive())}")
    try:
        told, held = told_losses("train", share.say), reserve(share, "train", needed)
        with after_loss(restarts.count > 0), told, held as reservation, kept_whole(reservation):
            still.begin(reservation.addresses)
            decoding = Decoding(reservation, resources.decode_cpus, resources.kept_mib * 2**20)
            return dict(_trainer(out, lambda: work(decoding), needed.workers[0], reservation).fit().return_value)
    except (TrainingFailedError, RayActorError, NodeLost) as error:
        cause = lost(error)
        if cause is None:
            _raise_cause(error, what)
        restarts.failed(cause)
        _discard_torn_snapshot(out)
        return None


def clean(out: Store) -> None:
    """Remove the files that only an unfinished training needs."""
    for leftover in (RAY, PROGRESS):
        out.delete(leftover)


def _trainer(
    out: Store, work: Callable[[], dict[str, Any]], worker: demand.Bundle, reservation: Reservation
) -> _Trainer:
    fs, path = filesystem(out.at(RAY))
    trainer = _Trainer(
        work,  # not by train_loop_config: Ray's controller would import torch and timm for it
        backend_config=ProcessGroup(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=reservation.workers, use_gpu="GPU" in worker, resources_per_worker=worker
        ),
        run_config=ray.train.RunConfig(
            name=NAME,
            storage_path=path,
            storage_filesystem=fs,
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),  # `launch` tries again
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.reservation = reservation
    return trainer


def _discard_torn_snapshot(out: Store) -> None:
    """Ray writes its list of checkpoints in place: a kill during the write leaves half a file, which Ray refuses."""
    try:
        json.loads(read_bytes(snapshot(out)))
    except FileNotFoundError:
        return
    except ValueError:
        log.warning("%s is incomplete because a start was killed; this training begins again", snapshot(out))
        out.delete(RAY)


def _raise_cause(error: Exception, what: str) -> NoReturn:
    """Raise the alray error of a worker without Ray's stack. Any other failure keeps its kind, message and stack."""
    if isinstance(error, ControllerError) and (why := unloadable(error.controller_failure)):
        raise TrainError(
            f"{what}: expected code that every node can import, got {why} on a worker. Submit the job with `ray job "
            "submit --working-dir .`, which brings its folder to every node, or install the package there"
        ) from error
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for failure in failures.values():
        if ours(failure):
            raise failure from None
    rank, cause = next(iter(failures.items()), (None, error))
    where = "" if rank is None else f" on worker {rank}"
    raise TrainFailed(f"{what} failed{where}: {type(cause).__name__}: {cause}") from error


@contextmanager
def _watched(
    out: Store,
    epochs: int,
    progress: Callable[[dict[str, Any]], None] | None,
    saw: Callable[[dict[str, Any]], None],
    still: Standstill,
) -> Iterator[None]:
    """Context manager: while the body runs, a thread forwards worker 0's progress messages to the callbacks, and says
    so where none comes for long: one worker that stands still holds up all of them."""
    if progress is not None:
        progress({"state": "starting workers", "epoch": 0, "epochs": epochs})
    last, passing = None, Store(out.uri, sums="")

    def look() -> None:
        nonlocal last
        try:
            state = passing.read_json(PROGRESS) if passing.has(PROGRESS) else None
        except OSError:  # a busy object store must not stop the training: the message is skipped
            return
        if state is not None and state != last:
            saw(state)
            if progress is not None:
                progress(state)
            last = state
            still.moved()
        else:
            still.waiting()

    with every(1.0, look, "alray-progress"):
        yield
