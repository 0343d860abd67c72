"""Which rows are pool, validation, seed set and test; imbalanced pools (Emam et al. 2021, section 4; Cui et al. 2019).

Every draw is by keyed priority (alray.keyed): a function of the seed and the row, not of the order of calls. Balanced
draws look at hidden labels, as the papers' protocols do; what they use up is counted by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray import keyed
from alray.data.pool import Labels, Rows

Counts = npt.NDArray[np.int64]


class SplitError(ValueError):
    """A split that the data cannot give."""


def water_fill(available: Counts, total: int, order: Counts | None = None) -> Counts:
    """Share `total` among classes as evenly as their sizes allow: sum_c min(n_c, t) + r = total.

    available (c,) int64 -> quotas (c,) int64. The r classes that get one more than the threshold t are the first in
    `order` (default: the largest, ties by class) among those with rows left. Raises SplitError when total > sum.
    """
    available = np.asarray(available, np.int64)
    if total > available.sum():
        raise SplitError(f"asked for {total} images, only {int(available.sum())} are there")
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
    """`size` of the rows, uniformly; ascending. Raises SplitError when there are fewer."""
    if size > len(rows):
        raise SplitError(f"{stream}: asked for {size} images, only {len(rows)} are there")
    return np.sort(keyed.order(seed, stream, rows)[:size])


def draw_balanced(
    rows: Rows, labels: Labels, size: int, seed: int, stream: str, num_classes: int, max_class_share: float = 1.0
) -> Rows:
    """`size` of the rows, as evenly over the classes as their sizes allow; ascending.

    labels (n,) are those of `rows`; no class gives more than floor(max_class_share * its size). Raises SplitError when
    the caps leave fewer than `size`.
    """
    if (labels < 0).any():
        raise SplitError(
            f"{stream}: a balanced draw needs labels, and row {int(rows[int(np.argmax(labels < 0))])} has none"
        )
    sizes = np.bincount(labels, minlength=num_classes)
    capped = np.floor(sizes * max_class_share + 1e-9).astype(np.int64)
    if size > capped.sum():
        raise SplitError(
            f"{stream}: asked for {size} images, but with at most {max_class_share:.0%} of each class there "
            f"are {int(capped.sum())}"
        )
    quotas = water_fill(capped, size, keyed.order(seed, f"{stream}/classes", np.arange(num_classes)))
    return _first_per_class(rows, labels, quotas, seed, stream)


def _first_per_class(rows: Rows, labels: Labels, quotas: Counts, seed: int, stream: str) -> Rows:
    order = np.lexsort((rows, keyed.priorities(seed, stream, rows), labels))
    starts = np.searchsorted(labels[order], np.arange(len(quotas)))
    rank = np.arange(len(rows)) - starts[labels[order]]
    return np.sort(rows[order[rank < quotas[labels[order]]]])


def imbalanced_counts(kind: Literal["exponential", "step"], n_max: int, factor: float, num_classes: int) -> Counts:
    """Images per class of an imbalanced pool.

    exponential: int(n_max * factor^(c/(C-1))); step: the first half of the classes n_max, the rest int(n_max * factor).
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
    """The rows of an imbalanced pool, ascending: class c keeps `imbalanced_counts` of its rows (or all it has)."""
    if (labels < 0).any():
        raise SplitError("an imbalanced pool needs labels for every image of the source")
    sizes = np.bincount(labels, minlength=num_classes)
    quotas = np.minimum(imbalanced_counts(kind, int(sizes.max()), factor, num_classes), sizes)
    return _first_per_class(rows, labels, quotas, seed, "imbalance")


def from_list(keys: pa.Array, lines: Sequence[str], name: str) -> Rows:
    """Rows of the images that a list file names ('key' or 'key label' a line, as ImageNet-LT ships), ascending.

    keys (n,) strings in row order. Raises SplitError for names that are not in the catalog.
    """
    wanted = pa.array([_without_label(line.strip()) for line in lines if line.strip()], pa.string())
    found = pc.index_in(wanted, value_set=keys.cast(wanted.type))
    if found.null_count:
        missing = wanted.filter(pc.is_null(found))
        raise SplitError(
            f"{name}: {len(missing)} of {len(wanted)} images are not in the catalog, first {missing[0].as_py()!r}"
        )
    return np.unique(found.to_numpy().astype(np.int64))


def _without_label(line: str) -> str:
    key, _, label = line.rpartition(" ")
    return key if key and label.isdigit() else line
