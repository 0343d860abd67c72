"""The pool of a run at its beginning and after each round, from the files of the run."""

from __future__ import annotations

import numpy as np

from alray.data.catalog import Catalog
from alray.data.pool import Pool
from alray.rundir import RoundDir, RunDir
from alray.tasks import Task


def at_start(run: RunDir, catalog: Catalog, task: Task, classes: int) -> Pool:
    """The pool with the validation set and the seed set of a run, without what people called unusable. classes: how
    many there are by now, where classes can come. Raises Missing."""
    pool = task.pool(catalog, np.union1d(run.pool(), run.held_out()[0]))
    pool = pool.with_classes(max(pool.num_classes, classes)) if task.classes_can_come else pool
    pool = pool.hold_out(*run.held_out()).label(*run.seed())
    chosen = run.cold_start()
    pool = pool if chosen is None else pool.label(chosen.rows, chosen.labels)
    return pool.remove(run.unusable())


def after(pool: Pool, out: RoundDir) -> Pool:
    """The pool with the labels that a round bought, without what people called unusable. A label that was corrected
    before the round began may be known already."""
    rows, labels = out.labels()
    new = np.isin(rows, pool.unlabeled)
    pool = pool.with_classes(max(pool.num_classes, int(labels.max(initial=-1)) + 1))  # people may have named more
    return pool.label(rows[new], labels[new]).remove(out.left_out("unusable"))
