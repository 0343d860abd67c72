"""Who trains on which image, and when: a function of (seed, round, epoch), the same for any number of workers.

Every epoch has one random order of all labeled rows. Global batch g is its g-th run of `batch_size` rows, and every
worker takes its contiguous part of every global batch, so that together the workers make the steps of a single one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
class Epoch:
    """One worker's epoch. rows, labels (m,); norms (steps,): the sum of the loss weights of each *global* batch."""

    rows: Array
    labels: Array
    norms: Array


@dataclass(frozen=True)
class Plan:
    """One worker's part of a training. rows (n,) int64 ascending, labels (n,) integer, weights (c,) of the loss."""

    rows: Array
    labels: Array
    weights: Array
    seed: int
    round: int
    batch_size: int
    rank: int
    world: int

    @cached_property
    def _batches(self) -> list[range]:
        """Positions of every global batch in an epoch's order."""
        n, size = len(self.rows), self.batch_size
        batches = [range(start, min(start + size, n)) for start in range(0, n, size)]
        # A worker without images would stop the others, and BatchNorm cannot learn from a single image: a last, shorter
        # batch of fewer than two images per worker is left out. (Other images next time: each epoch has its own order.)
        if len(batches) > 1 and len(batches[-1]) < min(2 * self.world, size):
            batches.pop()
        return batches

    @cached_property
    def parts(self) -> list[range]:
        """Positions of this worker's part of every global batch."""
        return [batch[cut(len(batch), self.world)[self.rank]] for batch in self._batches]

    @property
    def images(self) -> int:
        """Images that all workers together see in an epoch."""
        return self._batches[-1].stop

    def epoch(self, epoch: int) -> Epoch:
        """What this worker trains on in this epoch (from 0), in order."""
        stream = f"train/round={self.round}/epoch={epoch}"
        order = np.searchsorted(self.rows, keyed.order(self.seed, stream, self.rows))[: self.images]
        mine = order[np.concatenate([np.asarray(part) for part in self.parts])]
        starts = [batch.start for batch in self._batches]
        norms = np.add.reduceat(self.weights[self.labels[order]].astype(np.float64), starts)
        return Epoch(self.rows[mine], self.labels[mine], norms)

    def streams(self, first: int, epochs: int, block_rows: int) -> Iterator[list[pa.Table]]:
        """This worker's epochs first, ..., epochs - 1 as tables of at most `block_rows` rows: row, epoch, label.

        Several epochs make one list: starting to read costs seconds, so it should not happen every epoch.
        """
        per_epoch = sum(map(len, self.parts))
        at_once = max(1, _PAIRS_PER_STREAM // per_epoch)
        for start in range(first, epochs, at_once):
            numbers = range(start, min(start + at_once, epochs))
            parts = [self.epoch(number) for number in numbers]
            yield blocks(
                np.concatenate([part.rows for part in parts]),
                np.repeat(np.asarray(numbers, np.int32), per_epoch),
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
