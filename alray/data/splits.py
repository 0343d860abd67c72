"""Draw validation set, seed set, test set and imbalanced pools (Emam et al. 2021, section 4; Cui et al. 2019).

Every draw uses keyed priorities (`alray.keyed`): it depends on the seed and the rows, not on the order of calls.
Balanced draws read hidden labels, as the papers' protocols do; the caller counts them as bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray import keyed
from alray.data.pool import Labels, Rows
from alray.reasons import did_you_mean, near, similar
from alray.spelling import places_of

Counts = npt.NDArray[np.int64]


class SplitError(ValueError):
    """The data do not allow the split."""


def water_fill(available: Counts, total: int, order: Counts | None = None) -> Counts:
    """Share `total` among classes as evenly as their sizes n_c allow: sum_c min(n_c, t) + r = total.

    available (c,) int64: sizes of the classes -> quotas (c,) int64. Every class gets min(n_c, t). Of the classes with
    rows left, the first r in `order` get one more (default order: the largest first, then by class number). Raises
    SplitError if total is larger than the sum of the sizes.
    """
    available = np.asarray(available, np.int64)
    if total > available.sum():
        raise SplitError(f"expected at least {total} images, got {int(available.sum())}")
    low, high = 0, int(available.max(initial=0))
    while low < high:  # largest t with sum min(n_c, t) <= total
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(available, middle).sum() <= total else (low, middle - 1)
    quotas = np.minimum(available, low)
    rest = total - int(quotas.sum())
    if order is None:
        order = np.lexsort((np.arange(len(available)), -available))
    more = [c for c in order if available[c] > low][:rest]
    quotas[more] += 1
    return quotas


def draw_random(rows: Rows, size: int, seed: int, stream: str) -> Rows:
    """Draw `size` of the rows uniformly; ascending. Raises SplitError if there are fewer."""
    if size > len(rows):
        raise SplitError(f"{stream}: expected at least {size} images, got {len(rows)}")
    return np.sort(keyed.order(seed, stream, rows)[:size])


def draw_balanced(
    rows: Rows, labels: Labels, size: int, seed: int, stream: str, num_classes: int, max_class_share: float = 1.0
) -> Rows:
    """Draw `size` of the rows, as evenly over the classes as their sizes allow; ascending.

    labels (n,): those of `rows`. At most floor(max_class_share * size of the class) rows of a class are drawn. Raises
    SplitError if a label is unknown or if these limits allow fewer than `size` rows.
    """
    if (labels < 0).any():
        raise SplitError(
            f"{stream}: expected labels for a balanced draw, got none for row {int(rows[int(np.argmax(labels < 0))])}; "
            "split.val_how and split.seed_set_how can be random"
        )
    sizes = np.bincount(labels, minlength=num_classes)
    capped = np.floor(sizes * max_class_share + 1e-9).astype(np.int64)
    if size > capped.sum():
        raise SplitError(
            f"{stream}: expected at least {size} images, got {int(capped.sum())} with at most {max_class_share:.0%} of "
            "each class"
        )
    quotas = water_fill(capped, size, keyed.order(seed, f"{stream}/classes", np.arange(num_classes)))
    return _first_per_class(rows, labels, quotas, seed, stream)


def _first_per_class(rows: Rows, labels: Labels, quotas: Counts, seed: int, stream: str) -> Rows:
    order = np.lexsort((rows, keyed.priorities(seed, stream, rows), labels))
    starts = np.searchsorted(labels[order], np.arange(len(quotas)))
    rank = np.arange(len(rows)) - starts[labels[order]]
    return np.sort(rows[order[rank < quotas[labels[order]]]])


def imbalanced_counts(kind: Literal["exponential", "step"], n_max: int, factor: float, num_classes: int) -> Counts:
    """The number of images per class of an imbalanced pool, (C,) int64.

    exponential: class c gets int(n_max * factor^(c/(C-1))). step: the first half of the classes get n_max, the others
    int(n_max * factor).
    """
    c = np.arange(num_classes)
    if kind == "exponential":
        exact = n_max * factor ** (c / max(num_classes - 1, 1))
    else:
        exact = np.where(c < num_classes // 2, float(n_max), n_max * factor)
    return np.floor(exact + 1e-9).astype(np.int64)


def imbalance(
    rows: Rows, labels: Labels, kind: Literal["exponential", "step"], factor: float, seed: int, num_classes: int
) -> Rows:
    """Draw the rows of an imbalanced pool; ascending. Class c keeps `imbalanced_counts` of its rows, or all if it has
    fewer. Raises SplitError if a label is unknown."""
    if (labels < 0).any():
        raise SplitError("expected a label for every image of an imbalanced pool, got images without one")
    sizes = np.bincount(labels, minlength=num_classes)
    quotas = np.minimum(imbalanced_counts(kind, int(sizes.max()), factor, num_classes), sizes)
    return _first_per_class(rows, labels, quotas, seed, "imbalance")


@dataclass(frozen=True, eq=False)
class Listed:
    """The images that a list file names. rows (k,): ascending, without repetition; classes (k,): the class beside each
    as text, null where the line has none."""

    rows: Rows
    classes: pa.Array


def from_list(keys: pa.Array, lines: Sequence[str], name: str) -> Listed:
    """Find the images that a list file names.

    keys (n,): keys of the catalog in row order. lines: a key, or a key and a class with a tab, comma, semicolon or
    space between them, as in the lists of ImageNet-LT. name: the field and the file, for error messages. Raises
    SplitError for an empty list, for a key that is not in the catalog, and for two classes of one image.
    """
    wanted = [line.strip() for line in lines if line.strip()]
    if not wanted:
        raise SplitError(f"{name}: expected the key of an image on each line, got an empty list")
    rows, classes = np.full(len(wanted), -1, np.int64), [""] * len(wanted)
    for mark in ("", "\t", ",", ";", " "):  # a key may contain any of these
        open_ = np.flatnonzero(rows < 0).tolist()
        parts = [wanted[at].rpartition(mark) if mark else (wanted[at], "", "") for at in open_]
        found = places_of(pa.array([part[0].strip() for part in parts], keys.type), keys)
        for at, part, row in zip(open_, parts, found.to_pylist(), strict=True):
            if row is not None:
                rows[at], classes[at] = row, part[2].strip()
    if (missing := np.flatnonzero(rows < 0)).size:
        first = wanted[missing[0]]
        nearby = near(first, len(keys), lambda at: str(keys[at].as_py()))
        raise SplitError(
            f"{name}: expected keys of the catalog, got {len(missing)} of {len(wanted)} others, first "
            f"{first!r}{did_you_mean(similar(first, nearby))}"
        )
    table = pa.table({"row": rows, "class": pa.array(classes)}).filter(pc.not_equal(pa.array(classes), ""))
    several = table.group_by("row").aggregate([("class", "count_distinct"), ("class", "min")]).sort_by("row")
    twice = several.filter(pc.greater(several["class_count_distinct"], 1))["row"].to_pylist()
    if twice:
        both = " and ".join(sorted({text for row, text in zip(rows, classes, strict=True) if row == twice[0] and text}))
        raise SplitError(f"{name}: {keys[twice[0]].as_py()}: expected one class, got {both}")
    named = np.unique(rows)
    at = pc.index_in(pa.array(named), value_set=several["row"].combine_chunks())
    return Listed(named, several["class_min"].combine_chunks().take(at))
