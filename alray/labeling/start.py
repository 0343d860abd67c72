"""The labels with which a run begins: those of the validation set and of a seed set that was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.data.catalog import Catalog
from alray.data.oracle import SEED_SET, START, Requests
from alray.data.pool import Labels, Rows
from alray.labeling.desk import Desk

VALIDATION = "validation"


@dataclass(frozen=True, eq=False)
class Start:
    """held_out (v,) and seed (s,): rows of the validation set and of the seed set; labels (v + s,): in this order;
    unusable: rows that people took out of the pool."""

    held_out: Rows
    seed: Rows
    labels: Labels
    unusable: Rows


def label_start(desk: Desk, catalog: Catalog, held_out: Rows, seed: Rows, known: npt.NDArray[np.bool_]) -> Start:
    """Ask for the labels of the validation set and of the seed set, in one batch.

    known (v + s,) bool: which of them, the validation set first, have a label in the source that counts as given, so
    that nobody is asked. Rows that get no label are left out. Raises Waiting, OracleError.
    """
    rows = np.concatenate([held_out, seed])
    roles = np.array([VALIDATION] * len(held_out) + [SEED_SET] * len(seed))
    labels, labeled = catalog.labels()[rows], known.copy()
    unusable = rows[:0]
    if not known.all():
        closed = desk.ask(Requests.of(catalog, rows[~known]), roles[~known].tolist())
        labels[~known], labeled[~known] = closed.labels, closed.labeled
        desk.run.batch(START).write_left_out(closed.unusable, closed.skipped)
        unusable = closed.unusable
    first = np.arange(len(rows)) < len(held_out)
    return Start(rows[first & labeled], rows[~first & labeled], labels[labeled].astype(np.int32), unusable)
