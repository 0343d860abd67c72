"""Which worker trains on which image in which step: a function of (seed, round, epoch).

Every epoch has one random order of all rows. Global batch g is the g-th run of `batch_size` rows in it. Every worker
takes its contiguous part of every global batch, so that all workers together make the steps of a single one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray import keyed
from alray.features.arrays import cut

Array = npt.NDArray[Any]
Batch = dict[str, Array]  # columns of the same length: row, label, image ...

_PAIRS_PER_STREAM = 2_000_000  # (row, epoch) pairs: 32 MB of columns


@dataclass(frozen=True)
class EpochPart:
    """One worker's part of an epoch. rows, labels (m,); norms (steps,): the sum of the loss weights of each *global*
    batch."""

    rows: Array
    labels: Array
    norms: Array


@dataclass(frozen=True)
class BatchPlan:
    """One worker's part of a training. rows (n,) int64 ascending, labels (n,) integer, weights (c,) of the loss."""

    rows: Array
    labels: Array
    weights: Array
    seed: int
    round: int
    batch_size: int
    rank: int
    world: int
    even: bool = False  # give every worker the same number of images of a batch

    @cached_property
    def _batches(self) -> list[range]:
        """Positions of every global batch in an epoch's order."""
        n, size = len(self.rows), self.batch_size
        if self.even:
            n, size = n - n % self.world, size - size % self.world
        batches = [range(start, min(start + size, n)) for start in range(0, n, size)]
        # A worker without images would stop the others, and BatchNorm cannot learn from a single image. A last batch
        # of fewer than two images per worker is therefore left out; every epoch leaves out others.
        if len(batches) > 1 and len(batches[-1]) < min(2 * self.world, size):
            batches.pop()
        return batches

    @cached_property
    def parts(self) -> list[range]:
        """Positions of this worker's part of every global batch."""
        return [batch[cut(len(batch), self.world)[self.rank]] for batch in self._batches]

    @property
    def images(self) -> int:
        """Number of images that all workers together see in an epoch."""
        return self._batches[-1].stop

    def epoch(self, epoch: int) -> EpochPart:
        """This worker's part of an epoch (from 0), in order."""
        stream = f"train/round={self.round}/epoch={epoch}"
        order = np.searchsorted(self.rows, keyed.order(self.seed, stream, self.rows))[: self.images]
        mine = order[np.concatenate([np.asarray(part) for part in self.parts])]
        starts = [batch.start for batch in self._batches]
        norms = np.add.reduceat(self.weights[self.labels[order]].astype(np.float64), starts)
        return EpochPart(self.rows[mine], self.labels[mine], norms)

    def sizes(self, epoch: int) -> list[int]:
        """Number of this worker's images in every step of an epoch."""
        return [len(part) for part in self.parts]

    def streams(self, first: int, epochs: int, block_rows: int) -> Iterator[list[pa.Table]]:
        """See `streams`."""
        return streams(self, first, epochs, block_rows)


@dataclass(frozen=True)
class PairedPlan:
    """One worker's part of a training on two sets: every step has a global batch of each.

    An epoch is one pass over the labeled set (label 1); the unlabeled set (label 0) is repeated as often as that needs.
    The sets must not share a row.
    """

    labeled: BatchPlan
    unlabeled: BatchPlan

    @property
    def images(self) -> int:
        """Number of labeled images that all workers together see in an epoch."""
        return self.labeled.images

    def sizes(self, epoch: int) -> list[int]:
        """Number of this worker's images, labeled and unlabeled, in every step."""
        mine = self.labeled.sizes(epoch)
        return [size + len(self.unlabeled.parts[at]) for size, (_, at) in zip(mine, self._beside(epoch), strict=True)]

    def _beside(self, epoch: int) -> list[tuple[int, int]]:
        """The epoch and batch of the unlabeled set that every labeled batch is paired with."""
        steps, there = len(self.labeled.parts), len(self.unlabeled.parts)
        return [divmod(epoch * steps + step, there) for step in range(steps)]

    def epoch(self, epoch: int) -> EpochPart:
        """This worker's part of an epoch: in every step its labeled, then its unlabeled images. norms count both."""
        first = self.labeled.epoch(epoch)
        others = {number: self.unlabeled.epoch(number) for number, _ in self._beside(epoch)}
        rows, labels, norms = [], [], []
        edges, other_edges = edges_of(self.labeled.sizes(0)), edges_of(self.unlabeled.sizes(0))
        for step, (number, at) in enumerate(self._beside(epoch)):
            mine, other = slice(*edges[step : step + 2]), slice(*other_edges[at : at + 2])
            rows += [first.rows[mine], others[number].rows[other]]
            labels += [np.ones(len(rows[-2]), np.int32), np.zeros(len(rows[-1]), np.int32)]
            norms.append(first.norms[step] + others[number].norms[at])
        return EpochPart(np.concatenate(rows), np.concatenate(labels), np.asarray(norms))

    def streams(self, first: int, epochs: int, block_rows: int) -> Iterator[list[pa.Table]]:
        """See `streams`."""
        return streams(self, first, epochs, block_rows)


def edges_of(sizes: Sequence[int]) -> list[int]:
    """Offsets of consecutive pieces of the given sizes: where each begins, and where the last ends."""
    return [0, *itertools.accumulate(sizes)]


def streams(plan: BatchPlan | PairedPlan, first: int, epochs: int, block_rows: int) -> Iterator[list[pa.Table]]:
    """A worker's epochs first, ..., epochs - 1 as tables of at most `block_rows` rows: row, epoch, label.

    A list holds several epochs, because starting to read a list costs seconds.
    """
    at_once = max(1, _PAIRS_PER_STREAM // sum(plan.sizes(first)))
    for start in range(first, epochs, at_once):
        numbers = range(start, min(start + at_once, epochs))
        parts = [plan.epoch(number) for number in numbers]
        yield blocks(
            np.concatenate([part.rows for part in parts]),
            np.repeat(np.asarray(numbers, np.int32), [len(part.rows) for part in parts]),
            np.concatenate([part.labels for part in parts]),
            block_rows,
        )


def blocks(rows: Array, epochs: Array, labels: Array, block_rows: int) -> list[pa.Table]:
    """Columns row int64, epoch int32, label int32 cut into tables of at most `block_rows` rows, in order."""
    table = pa.table({"row": rows.astype(np.int64), "epoch": epochs, "label": labels.astype(np.int32)})
    return [table.slice(start, block_rows) for start in range(0, len(rows), block_rows)]


def rebatch(parts: Iterable[Batch], sizes: Iterable[int]) -> Iterator[Batch]:
    """Cut blocks of any length into batches of the given sizes, in order, as writable copies.

    Ends when the sizes do; raises ValueError when the blocks end first.
    """
    source = iter(parts)
    block: Batch = {}
    at = length = 0
    for size in sizes:
        pieces: list[Batch] = []
        missing = size
        while missing:
            if at == length:
                try:
                    block = next(source)
                except StopIteration:
                    raise ValueError(f"the images ended {missing} before the end of a batch of {size}") from None
                at, length = 0, len(next(iter(block.values())))
            step = min(missing, length - at)
            pieces.append({name: column[at : at + step] for name, column in block.items()})
            at, missing = at + step, missing - step
        yield {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
