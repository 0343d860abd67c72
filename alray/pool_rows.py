"""Which images a run may use: its test images and its pool, and what is refused where labels are missing."""

from __future__ import annotations

import numpy as np

from alray.config import ConfigError, RunConfig
from alray.data import splits
from alray.data.catalog import Catalog
from alray.data.examples import refuse_unlabeled
from alray.data.oracle import Oracle, unanswerable
from alray.data.pool import Rows
from alray.reasons import why
from alray.store import read_bytes
from alray.tasks import Task


def test_and_pool_rows(config: RunConfig, catalog: Catalog, task: Task) -> tuple[Rows, Rows]:
    """All test rows, with those that have no label, and the rows of the pool before it is made imbalanced. Raises
    ConfigError, SplitError."""
    is_test = catalog.is_test()
    test = np.flatnonzero(is_test)
    if config.split.test_share and len(usable := task.testable(catalog, test)):
        raise ConfigError(
            f"split.test_share: expected 0, because the source has a test split of {len(usable)} images, got "
            f"{config.split.test_share}"
        )
    rows = np.flatnonzero(~is_test)
    if config.data.unlabeled == "exclude":
        rows = task.labeled(config, catalog, rows)
    if config.split.test_share:
        # The draw does not depend on the seed: all runs on this source report on the same images.
        drawn = splits.draw_random(rows, round(len(rows) * config.split.test_share), 0, "test")
        test, rows = np.union1d(test, drawn), np.setdiff1d(rows, drawn, assume_unique=True)
    if config.data.train_list:
        lines = _text(config.data.train_list).splitlines()
        rows = np.intersect1d(rows, splits.from_list(catalog.keys(), lines, config.data.train_list))
    return test, rows


def _text(place: str) -> str:
    try:
        return read_bytes(place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"data.train_list: {place}: {why(error)}") from None


def imbalanced(config: RunConfig, catalog: Catalog, rows: Rows) -> Rows:
    """The rows of the pool after it was made imbalanced, if the configuration wants that. Raises SplitError."""
    shape, labels = config.data.imbalance, catalog.labels()
    if shape.kind == "none":
        return rows
    return splits.imbalance(rows, labels[rows], shape.kind, shape.factor, config.seed, len(catalog.classes))


def check_labels(
    config: RunConfig, catalog: Catalog, pool: Rows, oracle: Oracle | None, seed_set_reads_labels: bool
) -> None:
    """Raise ConfigError if labels will be read that the source does not have: by the oracle (None: people), or by
    a draw."""
    refuse_unlabeled(
        catalog.keys(unanswerable(oracle, pool)),
        len(pool),
        "the labels of the source answer every query of this run",
        "label them, let people answer (`--labels.oracle files`), or give an oracle of your own",
    )
    split, shape = config.split, config.data.imbalance.kind
    reads = {
        "data.imbalance.kind": (shape != "none", shape, "none"),
        "split.val_how": (split.val_how == "balanced" and split.val_size > 0, split.val_how, "random"),
        "split.seed_set_how": (seed_set_reads_labels, split.seed_set_how, "random"),
    }
    missing = catalog.keys(pool[catalog.labels()[pool] < 0])
    for path, (asked, got, other) in reads.items():
        if asked:
            reason = f"{path}={got} reads the labels of all"
            refuse_unlabeled(missing, len(pool), reason, f"`--{path} {other}` does not")


def labeled_in(config: RunConfig, catalog: Catalog, pool: Rows) -> int:
    """The number of images of the pool that have a label in the source, without those of the validation set. Raises
    ConfigError if there are fewer than that set needs."""
    labeled = int((catalog.labels()[pool] >= 0).sum())
    split = config.split
    if split.val_how == "labeled":
        if labeled < split.val_size:
            raise ConfigError(
                f"split.val_size: expected at most {labeled:,}, the number of labeled images of the pool, got "
                f"{split.val_size:,} with split.val_how labeled"
            )
        labeled -= split.val_size
    return labeled
