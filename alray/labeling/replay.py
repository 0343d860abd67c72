"""The pool of a run at its beginning and after each round, from the files of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.oracle import SEED_SET, Status
from alray.data.pool import Labels, Pool, Rows
from alray.labeling.check import Answer
from alray.labeling.turns import Turn
from alray.rundir import RoundDir, RunDir
from alray.selection.subset import subset
from alray.tasks import Task


def at_start(run: RunDir, catalog: Catalog, task: Task, classes: int) -> Pool:
    """The pool with the validation set and the seed set of a run, without what people called unusable. classes: how
    many there are by now, where classes can come. Raises Missing."""
    pool = task.pool(catalog, np.union1d(run.pool(), run.held_out()[0]))
    pool = pool.with_classes(max(pool.num_classes, classes)) if task.classes_can_come else pool
    pool = pool.hold_out(*run.held_out()).label(*run.seed())
    chosen = run.cold_start()
    pool = pool if chosen is None else pool.label(chosen.rows, chosen.labels)
    return pool.remove(run.batch(SEED_SET).left_out("unusable"))


def after(pool: Pool, out: RoundDir) -> Pool:
    """The pool with the labels that a round bought, without what people called unusable. A label that was corrected
    before the round began may be known already."""
    rows, labels = out.labels()
    new = np.isin(rows, pool.unlabeled)
    pool = pool.with_classes(max(pool.num_classes, int(labels.max(initial=-1)) + 1))  # people may have named more
    return pool.label(rows[new], labels[new]).remove(out.left_out("unusable"))


def without_drawn(pool: Pool, run: RunDir, number: int) -> Pool:
    """The pool without the images that were drawn for tests before a round chose its batch. They never come back: a
    model that learned from them could not be tested on them."""
    drawn = [test.rows() for test in run.tests() if test.first_round == number]
    return pool.remove(np.concatenate(drawn)) if drawn else pool


def corrected(pool: Pool, catalog: Catalog, said: Mapping[str, Answer], classes: Sequence[str], awaited: Rows) -> Pool:
    """The pool with what people said apart from batches: corrected labels, labels that nobody asked for, and images
    that cannot be used. said: the latest answer for each key; classes: the names by number; awaited: rows of batches
    that are not closed, of which no answer counts yet."""
    if not said:
        return pool
    number = {name: at for at, name in enumerate(classes)}
    rows, answers = catalog.rows_of(list(said)), list(said.values())
    status = np.array([status for status, _ in answers])
    label = np.array([number[name] if kind == Status.LABEL else 0 for kind, name in answers], np.int32)
    here = (rows >= 0) & ~np.isin(rows, awaited)
    labeled, gone = here & np.isin(status, (Status.LABEL, Status.MASK)), here & (status == Status.UNUSABLE)
    known = pool.known[rows]
    wrong = labeled & (known >= 0) & (known != label)
    extra = labeled & np.isin(rows, pool.unlabeled)
    return pool.correct(rows[wrong], label[wrong]).label(rows[extra], label[extra]).remove(rows[gone])


def corrected_test(
    rows: Rows, labels: Labels, catalog: Catalog, said: Mapping[str, Answer], classes: Sequence[str]
) -> tuple[Rows, Labels]:
    """The test set (t,) with what people said of its images since, without those that cannot be used."""
    at = np.flatnonzero(np.isin(rows, catalog.rows_of(list(said)))) if said else rows[:0]
    answers = [said[key] for key in catalog.keys(rows[at]).to_pylist()]
    labels, gone = labels.copy(), [place for place, one in zip(at, answers, strict=True) if one[0] == Status.UNUSABLE]
    for place, (status, name) in zip(at, answers, strict=True):
        labels[place] = classes.index(name) if status == Status.LABEL else labels[place]
    return np.delete(rows, gone), np.delete(labels, gone)


def taking_part(config: RunConfig, run: RunDir, pool: Pool, turn: Turn) -> tuple[Rows, Rows]:
    """The labeled and the unlabeled rows of a selection, each ascending, before the strategy's own window: what
    subset_* leaves, without what was skipped just before. Pending rows are among the labeled ones.

    Where more pending rows are still to be chosen, the unlabeled rows hold all that can take part.
    """
    unlabeled = np.setdiff1d(pool.unlabeled, np.union1d(run.skipped_before(turn.model), turn.pending))
    more = turn.unchosen if config.subset_unlabeled else 0
    return subset(
        np.union1d(pool.labeled, turn.pending), unlabeled, config.subset_labeled, config.subset_unlabeled + more,
        config.budget, config.seed, turn.batch,
    )  # fmt: skip
