"""The labels with which a run begins: those of the validation set and of a seed set that was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.data.catalog import Catalog
from alray.data.oracle import SEED_SET, START, Requests
from alray.data.pool import Labels, Rows
from alray.labeling.desk import Desk

VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True, eq=False)
class Start:
    """held_out (v,), seed (s,) and test (t,): rows of the validation set, of the seed set, and of test images that
    people label; labels (v + s + t,): in this order; unusable: rows that people took out of the pool."""

    held_out: Rows
    seed: Rows
    test: Rows
    labels: Labels
    unusable: Rows


def label_start(
    desk: Desk, catalog: Catalog, labels: Labels, held_out: Rows, seed: Rows, test: Rows, known: npt.NDArray[np.bool_]
) -> Start:
    """Ask for the labels of the validation set, of the seed set and of test images, in one batch.

    labels (n,): of the source, by row. known (v + s + t,) bool: which of them, in this order, have a label in the
    source that counts as given, so that nobody is asked. Rows that get no label are left out. Raises Waiting,
    OracleError.
    """
    rows, parts = np.concatenate([held_out, seed, test]), {VALIDATION: held_out, SEED_SET: seed, TEST: test}
    roles = np.repeat(list(parts), [len(part) for part in parts.values()])
    labels, labeled = labels[rows], known.copy()
    unusable = rows[:0]
    if not known.all():
        closed = desk.ask(Requests.of(catalog, rows[~known]), roles[~known].tolist())
        labels[~known], labeled[~known] = closed.labels, closed.labeled
        desk.run.batch(START).write_left_out(closed.unusable, closed.skipped)
        unusable = closed.unusable
    val, first, tested = (rows[labeled & (roles == role)] for role in parts)
    return Start(val, first, tested, labels[labeled].astype(np.int32), unusable)
