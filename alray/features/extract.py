"""Measure images with a pool of Ray actors, and write the numbers to disk (contract C3).

Images are decoded by Ray Data, in CPU tasks anywhere in the extraction's reservation. The model is in actors, which use
one GPU each if there are GPUs. The unit of work is a part: its rows are decoded as one block, measured by one actor and
written atomically as one file. A part that is on disk is not computed again, so a killed extraction continues where it
stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data.block import BlockAccessor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alray import demand
from alray.data.images import image_dataset, raise_first_cause
from alray.features.arrays import Rows
from alray.features.measures import Extraction, Measure, Measured
from alray.features.table import MANIFEST, FeatureError, FeatureTable, commit, part_name, read_part, stored, write_part
from alray.lost_nodes import LOOK, NodeLost, kept_whole
from alray.lost_workers import told_losses
from alray.models.device import best_device
from alray.models.no_gpu import for_workers
from alray.reservation import ANYBODY, Reservation, Share, after_loss, reserve
from alray.store import Store
from alray.stragglers import Standstill

PART = "part"
Advance = Callable[[int, str], None]
_AHEAD = 2  # parts given to an actor at a time: the next one arrives while it measures


@dataclass(frozen=True)
class Job:
    """How an actor measures its parts. mark: names the job, so that an actor loads the model once per job."""

    measure: Measure
    out: Store
    use_gpu: bool
    mark: str


class Written(NamedTuple):
    """A part that an actor wrote."""

    part: int
    rows: int
    sum: str  # its checksum


class Measurer:
    """The actor. It measures parts, writes them, and returns only what was written.

    It loads a model when it gets the first part of another job, or after Ray has restarted it.
    """

    def __init__(self) -> None:
        self.mark = ""
        self.measured: Measured | None = None

    def measure(self, job: Job, block: pa.Table) -> Written:
        """Measure one whole part. block: columns row, part, image and perhaps mask."""
        if self.measured is None or self.mark != job.mark:
            # Ray does not hide the GPUs from an actor that requests none, so without use_gpu it must not take one.
            self.measured = job.measure.load(best_device() if job.use_gpu else torch.device("cpu"))
            self.mark = job.mark
        batch: Any = BlockAccessor.for_block(block).to_batch_format("numpy")
        (part,) = np.unique(batch[PART])  # a block with several parts would be written to a wrong file
        rows, found = batch["row"], self.measured(batch)
        columns = {name: stored(found[name], dtype, rows, name) for name, dtype in job.measure.columns.items()}
        return Written(int(part), len(rows), write_part(job.out, int(part), rows, columns))

    def rest(self) -> None:
        """Free the memory of the model."""
        self.measured = None


class Measurers:
    """A pool of measuring actors. Ray ends them when this object is deleted.

    Without GPUs the actors are kept between extractions, because a new process would import torch and timm again.
    Between extractions they hold neither a model nor a CPU. With GPUs every extraction starts its own actors inside its
    reservation, because an actor keeps its GPU as long as it lives.
    """

    def __init__(self, number: int, use_gpu: bool = False) -> None:
        self.number, self.use_gpu = number, use_gpu
        self._actors: list[tuple[str, Any]] = []  # each with the node that it was started on

    @property
    def actors(self) -> list[Any]:
        """Those that are alive."""
        return [actor for _, actor in self._actors]

    def some(self, reservation: Reservation) -> list[Any]:
        """The pool's actors for an extraction, one for each worker of the reservation."""
        actor = ray.remote(Measurer)
        if self.use_gpu:
            gpu = {"num_gpus": 1, "runtime_env": {"env_vars": for_workers(gpus=1)}}
            options = {**gpu, "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
            self._actors = [
                (node, actor.options(scheduling_strategy=reservation.worker(number), **options).remote())
                for number, node in enumerate(reservation.nodes())
            ]
            return self.actors
        resting, chosen = list(self._actors), []
        for node in reservation.nodes():
            kept = next((one for one in resting if one[0] == node), None)
            if kept is None:
                # It works on the CPU of its bundle but does not take it, so that it can outlive the reservation. It
                # asks for one byte because Ray puts an actor that asks for nothing on any node, whatever its strategy.
                beside = NodeAffinitySchedulingStrategy(node, soft=True)
                options = {"num_cpus": 0, "memory": 1, "max_restarts": -1, "max_task_retries": -1}
                kept = node, actor.options(scheduling_strategy=beside, **options).remote()
            else:
                resting.remove(kept)
            chosen.append(kept)
        self._actors = [*chosen, *resting][: self.number]
        return [actor for _, actor in chosen]

    def rest(self) -> None:
        """End the extraction: actors free their models, and those with GPUs end."""
        if self.use_gpu:
            self._actors.clear()
        for _, actor in self._actors:
            actor.rest.remote()


def extract(
    extraction: Extraction,
    out: Store,
    *,
    measurers: Measurers,
    decode_cpus: float,
    share: Share = ANYBODY,
    advance: Advance = lambda rows, note: None,
) -> FeatureTable:
    """Measure all rows of the extraction into the directory `out`, or continue where a killed extraction stopped.

    advance: called with the number of rows of each part that is finished, and once with those finished before. share:
    who asks for the CPUs and GPUs. Raises ClusterError if there was no room,
    ImageError for an image that cannot be decoded, FeatureError for values that cannot be stored or if the directory
    has other features.
    """
    mark = extraction.fingerprint
    if out.has(MANIFEST):
        table = FeatureTable.open(out.uri)
        if table.manifest["fingerprint"] != mark:
            raise FeatureError(
                f"{out.uri}: expected features {mark}, got other features "
                f"{table.manifest['fingerprint']}; choose another directory"
            )
        return table
    parts = extraction.parts()
    present = set(out.names())
    missing = {number: part for number, part in enumerate(parts) if part_name(number) not in present}
    advance(sum(len(part) for number, part in enumerate(parts) if part_name(number) in present), "")
    sums: dict[int, str] = {}
    lost = False
    while missing:
        try:
            with after_loss(lost):
                _measure(extraction, out, missing, measurers, decode_cpus, share, advance, sums)
        except NodeLost as error:
            lost = True
            share.say(f"extract · {error}: going on with the parts that are missing")
        missing = {number: part for number, part in missing.items() if number not in sums}
    first = read_part(Store(out.uri, sums=""), 0)[1]  # no part is listed yet
    widths = {name: (first[name].shape[1], dtype) for name, dtype in extraction.measure.columns.items()}
    return commit(out, parts, mark, widths, sums)


def _measure(
    extraction: Extraction,
    out: Store,
    parts: dict[int, Rows],
    measurers: Measurers,
    decode_cpus: float,
    share: Share,
    advance: Advance,
    sums: dict[int, str],
) -> None:
    """Measure and write some parts, given by number, and add their checksums to `sums`. Raises NodeLost when a node is
    gone and the rest needs another reservation."""
    blocks = [pa.table({"row": rows, PART: np.full(len(rows), number, np.int32)}) for number, rows in parts.items()]
    rows = np.concatenate(list(parts.values()))
    measure = extraction.measure
    job = ray.put(Job(measure, out, measurers.use_gpu, f"{out.uri} {extraction.fingerprint}"))
    needed = demand.extraction(min(measurers.number, len(parts)), decode_cpus, measurers.use_gpu)
    told = told_losses("extract", share.say)
    with told, reserve(share, "extract", needed) as reservation, kept_whole(reservation):
        images = image_dataset(
            extraction.catalog, rows, blocks, measure.transform, masks=measure.masks, num_cpus=decode_cpus,
            max_tasks=reservation.decoders, where=reservation.anywhere(),
        )  # fmt: skip
        try:
            still = Standstill(share.say, "extract · no part was finished")
            for done in _measured(job, images, measurers.some(reservation), still, reservation.addresses):
                sums[done.part] = done.sum
                advance(done.rows, "")
        except Exception as error:
            raise_first_cause(error)
        finally:
            measurers.rest()


def _measured(
    job: Any, images: ray.data.Dataset, actors: list[Any], still: Standstill, addresses: Callable[[], list[str]]
) -> Iterator[Written]:
    """Give every decoded part to the actor that has the fewest; yields each finished part. Pixels go directly
    from the tasks to the actors, because the driver only passes references."""
    at_work: dict[Any, int] = {}
    still.begin(lambda: [addresses()[number] for number in at_work.values()])
    for bundle in images.iter_internal_ref_bundles():
        for block in bundle.block_refs:
            if len(at_work) >= _AHEAD * len(actors):
                yield _next(at_work, still)
            busy = list(at_work.values())
            chosen = min(range(len(actors)), key=busy.count)
            at_work[actors[chosen].measure.remote(job, block)] = chosen
    while at_work:
        yield _next(at_work, still)


def _next(at_work: dict[Any, int], still: Standstill) -> Written:
    """Wait for any part. Raises the error of its actor."""
    while not (found := ray.wait(list(at_work), num_returns=1, timeout=LOOK)[0]):
        still.waiting()
    still.moved()
    del at_work[found[0]]
    written: Written = ray.get(found[0])
    return written
