"""Which images a run may use: its test images, its validation set and its pool, and what is refused where labels are
missing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alray.config import LISTS, ConfigError, RunConfig, value_at
from alray.data import splits
from alray.data.catalog import Catalog
from alray.data.examples import refuse_unlabeled
from alray.data.oracle import Oracle, unanswerable
from alray.data.pool import Labels, Rows
from alray.data.sources.label_text import numbers_of
from alray.data.sources.scan import amount
from alray.data.sources.text_files import decoded
from alray.data.splits import Listed
from alray.reasons import did_you_mean, first_of, not_utf8, short, similar, some_classes
from alray.store import read_bytes
from alray.tasks import Task


@dataclass(frozen=True, eq=False)
class Parts:
    """The images that a run may use, before the pool is made imbalanced. test: all test rows, also those without a
    label; pool: the rows of the pool without a given validation set; validation: the rows of one, empty if it is drawn
    from the pool; listed: the test rows that a list names."""

    test: Rows
    pool: Rows
    validation: Rows
    listed: Rows


def parts_of(config: RunConfig, catalog: Catalog, task: Task) -> tuple[Catalog, Parts, list[str]]:
    """The parts; the catalog with the labels that the lists of the test and the validation set give; and sentences on
    what is used for nothing. Raises ConfigError, SplitError."""
    lists = {field: _listed(field, place, catalog) for field in LISTS if (place := value_at(config, field))}
    train, val, test = (lists.get(field) for field in LISTS)
    _refuse_in_two(catalog, lists)
    is_test, is_validation = catalog.is_test(), catalog.is_validation()
    named = [listed.rows for listed in (val, test) if listed is not None]
    free = np.setdiff1d(np.arange(len(catalog)), np.concatenate([[], *named]).astype(np.int64))
    tested = free[is_test[free]] if test is None else test.rows
    validation = free[is_validation[free]] if val is None else val.rows
    rows = free[~is_test[free] & ~is_validation[free]]
    for listed, field in ((val, "split.val_list"), (test, "split.test_list")):
        if listed is not None and task.class_per_image:
            catalog = _with_classes(catalog, listed, field)
    _refuse_two_ways(config, catalog, task, tested, validation)
    if config.data.unlabeled == "exclude":
        rows, validation = (task.labeled(config, catalog, part) for part in (rows, validation))
    if config.split.test_share:
        # The draw does not depend on the seed: all runs on this source report on the same images.
        drawn = splits.draw_random(rows, round(len(rows) * config.split.test_share), 0, "test")
        if len(drawn) and not len(task.testable(catalog, drawn)):
            raise ConfigError(
                "split.test_share: expected labels of the images that it keeps for the test, got none of "
                f"{len(drawn):,}, and nobody is asked for these; leave it out: `alray label RUN --test N` asks for N "
                "labels and estimates the accuracy from them"
            )
        tested, rows = np.union1d(tested, drawn), np.setdiff1d(rows, drawn, assume_unique=True)
    if train is not None:
        rows = np.intersect1d(rows, train.rows)
    unused = free[(is_test[free] & (test is not None)) | (is_validation[free] & (val is not None))]
    notes = [f"{amount(len(unused), 'test or validation image')} of the source not in the list: used for nothing."]
    parts = Parts(tested, rows, validation, tested[:0] if test is None else test.rows)
    return catalog, parts, notes if len(unused) else []


def _listed(field: str, place: str, catalog: Catalog) -> Listed:
    try:
        lines = decoded(read_bytes(place)).splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{field}: {place}: {not_utf8(error)}") from None
    return splits.from_list(catalog.keys(), lines, f"{field}: {place}")


def _refuse_in_two(catalog: Catalog, lists: dict[str, Listed]) -> None:
    named = list(lists.items())
    for at, (field, listed) in enumerate(named):
        for other, others in named[at + 1 :]:
            both = np.intersect1d(listed.rows, others.rows)
            if len(both):
                raise ConfigError(
                    f"{other}: expected images that {field} does not name, got {len(both):,} of {len(others.rows):,} "
                    f"that are in both (first {first_of(catalog.keys(both[:6]).to_pylist())})"
                )


def _with_classes(catalog: Catalog, listed: Listed, field: str) -> Catalog:
    """The catalog with the classes of a list for images that have none. A number beside an image that has a label is
    not compared: other programs count classes otherwise."""
    named = listed.classes.is_valid().to_numpy(zero_copy_only=False)
    rows, texts = listed.rows[named], listed.classes.drop_null().to_pylist()
    numbers = numbers_of(texts, catalog.classes)
    known = catalog.labels()[rows].tolist()
    added = dict[int, int]()
    for row, text, number, label in zip(rows.tolist(), texts, numbers, known, strict=True):
        if text.isdecimal() and (label >= 0 or text not in catalog.classes):
            number = label
        key = catalog.keys(np.array([row]))[0].as_py() if number is None or number < 0 or number != label else ""
        if number is None or number < 0:
            raise ConfigError(
                f"{field}: {key}: expected the name of a class ({some_classes(catalog.classes) or 'none so far'}), got "
                f"{short(text)!r}{did_you_mean(similar(text, catalog.classes))}; data.classes declares classes"
            )
        if label >= 0 and number != label:
            raise ConfigError(
                f"{field}: {key}: expected the class that the source gives it, {catalog.classes[label]}, got {text!r}"
            )
        added[row] = number
    before = dict(zip(*(part.tolist() for part in catalog.listed), strict=True)) if catalog.listed else {}
    both = before | added
    if not both:
        return catalog
    return replace(catalog, listed=(np.array(list(both), np.int64), np.array(list(both.values()), np.int32)))


def _refuse_two_ways(config: RunConfig, catalog: Catalog, task: Task, test: Rows, validation: Rows) -> None:
    """Raise ConfigError where the test set or the validation set is given and is to be drawn, too."""
    split = config.split
    if split.test_share and len(usable := task.testable(catalog, test)):
        raise ConfigError(
            f"split.test_share: expected 0, because the source has a test split of {len(usable)} images, got "
            f"{split.test_share}"
        )
    if split.val_size and len(validation):
        raise ConfigError(
            f"split.val_size: expected 0, because a validation set of {amount(len(validation), 'image')} is given, got "
            f"{split.val_size}"
        )
    if not split.val_size and not len(validation):
        config.refuse_patience()


def imbalanced(config: RunConfig, catalog: Catalog, rows: Rows) -> Rows:
    """The rows of the pool after it was made imbalanced, if the configuration wants that. Raises SplitError."""
    shape, labels = config.data.imbalance, catalog.labels()
    if shape.kind == "none":
        return rows
    return splits.imbalance(rows, labels[rows], shape.kind, shape.factor, config.seed, len(catalog.classes))


def check_labels(
    config: RunConfig, catalog: Catalog, parts: Parts, oracle: Oracle | None, seed_set_reads_labels: bool
) -> None:
    """Raise ConfigError if labels will be read that the source does not have: by the oracle (None: people), or by
    a draw."""
    remedy = "label them, let people answer (`--labels.oracle files`), or give an oracle of your own"
    answers = "the labels of the source answer every query of this run"
    for field, rows in (("the validation set", parts.validation), ("split.test_list", parts.listed)):
        missing = catalog.keys(unanswerable(oracle, rows)).to_pylist()
        if missing:
            raise ConfigError(
                f"{field}: {len(missing):,} of {len(rows):,} images have no label (first {first_of(missing)}), but "
                f"{answers}: write `key class` into a list, {remedy}, or leave these images out"
            )
    pool = parts.pool
    refuse_unlabeled(catalog.keys(unanswerable(oracle, pool)), len(pool), answers, remedy)
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


def held_out(config: RunConfig, catalog: Catalog, candidates: Rows) -> Rows:
    """Draw the validation set from the pool. Raises SplitError."""
    split, labels = config.split, catalog.labels()
    if split.val_how == "random" or not split.val_size:
        return splits.draw_random(candidates, split.val_size, config.seed, "val")
    among = candidates[labels[candidates] >= 0] if split.val_how == "labeled" else candidates
    classes, share = len(catalog.classes), split.val_max_class_share
    return splits.draw_balanced(among, labels[among], split.val_size, config.seed, "val", classes, share)


def labeled_in(config: RunConfig, labels: Labels, pool: Rows) -> int:
    """The number of images of the pool that have a label in the source, without those of the validation set. labels
    (n,): those of the source. Raises ConfigError if there are fewer than that set needs."""
    labeled = int((labels[pool] >= 0).sum())
    split = config.split
    if split.val_how == "labeled":
        if labeled < split.val_size:
            raise ConfigError(
                f"split.val_size: expected at most {labeled:,}, the number of labeled images of the pool, got "
                f"{split.val_size:,} with split.val_how labeled"
            )
        labeled -= split.val_size
    return labeled
