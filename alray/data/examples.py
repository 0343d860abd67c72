"""Which images have labels, and which classes have examples: what is refused and what is said before a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from alray.config import ConfigError
from alray.data.assemble import Assembled
from alray.data.pool import Labels
from alray.reasons import first_of, short, some_classes


def empty_class_notes(found: Assembled) -> list[str]:
    """A sentence on classes without an image; none where no image has a label, as in a source of masks."""
    label = found.images["label"]
    if label.null_count == len(label):
        return []
    empty = _names(found.classes, np.bincount(label.drop_null().to_numpy(), minlength=len(found.classes)) == 0)
    return [f"{len(empty)} of {len(found.classes)} classes have no image: {some_classes(empty)}."] if empty else []


def test_notes(marked: int, usable: int) -> list[str]:
    """Sentences on a test set that measures less than it seems to. marked: number of test images; usable: of those with
    a label."""
    advice = (
        "no accuracy will be measured; data.test_root names labeled test images, split.test_list some of the source's, "
        "and split.test_share keeps a part of the images for the test, if the source has labels. With people, "
        "`alray label RUN --test N` asks for N labels and estimates the accuracy from them"
    )
    if not marked:
        return [f"There are no test images: {advice}."]
    if not usable:
        return [f"None of the {marked:,} test images has a label: {advice}."]
    unused = _share(marked - usable, marked, "test images", "no label and are not used")
    return [f"{unused}."] if usable < marked else []


def refuse_few_classes(classes: Sequence[str], pool: Labels | None) -> None:
    """Raise ConfigError where a classifier has nothing to tell apart. pool (n,): the labels of the pool, None where
    they are not known yet."""
    if len(classes) < 2:
        raise ConfigError(
            f"data.classes: expected at least 2 classes, got {len(classes)} ({some_classes(classes)}): a classifier "
            "has nothing to tell apart"
        )
    if pool is not None and len(found := np.unique(pool)) < 2:
        only = f"{len(pool):,} of {short(classes[found[0]])}" if len(found) else "no image"
        raise ConfigError(
            f"data: expected images of at least 2 of the {len(classes)} classes in the pool, got {only}: a classifier "
            "has nothing to tell apart"
        )


def class_notes(classes: Sequence[str], pool: Labels | None, test: Labels) -> list[str]:
    """Sentences on classes without examples.

    pool (n,): the labels of the pool, None where they are not all known; test (t,): the labels of the test set.
    """
    tested = np.bincount(test, minlength=len(classes))
    notes = []
    if pool is not None:
        empty = np.bincount(pool, minlength=len(classes)) == 0
        of, wrong = f"of {len(classes)} classes", empty & (tested > 0)
        if names := _names(classes, wrong):
            notes.append(
                f"{len(names)} {of} have no image in the pool, but {int(tested[wrong].sum()):,} test images, which no "
                f"model can get right: {some_classes(names)}."
            )
        if names := _names(classes, empty & (tested == 0)):
            notes.append(f"{len(names)} {of} have no image: {some_classes(names)}.")
        untested = (tested == 0) & ~empty
    else:
        untested = tested == 0
    if len(test) and (names := _names(classes, untested)):
        notes.append(f"{len(names)} of {len(classes)} classes have no test image: {some_classes(names)}.")
    return notes


def refuse_unlabeled(missing: pa.Array, pool: int, why: str, remedy: str) -> None:
    """Raise ConfigError if images of the pool have no label.

    missing: their keys; pool: number of images; why, remedy: parts of the message.
    """
    if not len(missing):
        return
    exclude = "" if len(missing) == pool else "; `--data.unlabeled exclude` leaves these images out"
    raise ConfigError(
        f"data.unlabeled: {_share(len(missing), pool, 'images of the pool', 'no label')} (first "
        f"{first_of(missing.slice(0, 5).to_pylist(), count=len(missing))}), but {why}: {remedy}{exclude}"
    )


def _share(some: int, all_of_them: int, what: str, rest: str) -> str:
    return f"{some:,} of {all_of_them:,} {what} have {rest}"


def _names(classes: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [classes[number] for number in np.flatnonzero(chosen).tolist()]
