"""The metrics of a round: accuracies on the test images, and the balance of the labeled set (Emam et al. 2021).

Letters: n images, c classes. Everything returned is plain numbers, lists and None, as JSON needs. The lower class
number wins ties between logits, so that top-1 is exactly `argmax`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SHOWN_CLASSES = 5
_COMPARED = 1 << 22  # logits compared at a time: a few MB of booleans


class EvaluateError(ValueError):
    """No metric can be computed from these predictions or counts."""


def classification_metrics(
    logits: Array, labels: Array, *, classes: Sequence[str], top_k: Sequence[int] = ()
) -> dict[str, Any]:
    """Accuracy of logits (n, c) against labels (n,) integer in [0, c).

    Returns top1, top<k> for every k < c, balanced_accuracy (mean over the classes that have images), per_class_accuracy
    (list of c, None without images), per_class_count (list of c: test images), worst_classes and best_classes (five
    each), num_images. Raises EvaluateError.
    """
    return evaluate_blocks([(logits, labels)], classes=classes, top_k=top_k)


def evaluate_blocks(
    blocks: Iterable[tuple[Array, Array]], *, classes: Sequence[str], top_k: Sequence[int] = ()
) -> dict[str, Any]:
    """`classification_metrics` over blocks of (logits, labels), so that not all logits need to be in memory."""
    c = len(classes)
    images, correct = np.zeros(c, np.int64), np.zeros(c, np.int64)
    hits = dict.fromkeys((k for k in top_k if k < c), 0)
    for logits, labels in blocks:
        _check(logits, labels, c)
        place = _place_of_label(logits, labels)
        images += np.bincount(labels, minlength=c)
        correct += np.bincount(labels[place == 0], minlength=c)
        for k in hits:
            hits[k] += int((place < k).sum())
        del logits  # before the next block is made
    n = int(images.sum())
    if n == 0:
        raise EvaluateError("no images to evaluate on")
    accuracy = [float(good / all_) if all_ else None for good, all_ in zip(correct, images, strict=True)]
    present = [value for value in accuracy if value is not None]
    return {
        "top1": float(correct.sum() / n),
        **{f"top{k}": hit / n for k, hit in hits.items()},
        "balanced_accuracy": float(np.mean(present)),
        "per_class_accuracy": accuracy,
        "per_class_count": images.tolist(),
        "worst_classes": list(_extreme(classes, accuracy, 1)),
        "best_classes": list(_extreme(classes, accuracy, -1)),
        "num_images": n,
    }


def labeled_set_metrics(counts: Sequence[int], pool_counts: Sequence[int] | None = None) -> dict[str, Any]:
    """How balanced the labeled set is. counts (c,): its images per class; pool_counts (c,): those of the whole pool.

    Returns counts, max_min_ratio (None with an empty class), normalised_entropy (entropy / log c: 1 is balanced),
    kl_to_pool (KL(labeled || pool), natural logarithm; None where the pool's counts are unknown) and the number of
    empty_classes.
    Raises EvaluateError for an empty labeled set or labels of classes that the pool does not have.
    """
    n = np.asarray(counts, np.int64)
    if n.sum() == 0:
        raise EvaluateError("the labeled set is empty")
    p = n[n > 0] / n.sum()
    entropy = float(-(p * np.log(p)).sum())
    return {
        "counts": n.tolist(),
        "max_min_ratio": float(n.max() / n.min()) if n.min() > 0 else None,
        "normalised_entropy": entropy / float(np.log(len(n))) if len(n) > 1 else 1.0,
        "kl_to_pool": None if pool_counts is None else _kl(n, np.asarray(pool_counts, np.int64)),
        "empty_classes": int((n == 0).sum()),
    }


def _kl(counts: Array, pool: Array) -> float:
    if pool.shape != counts.shape or (pool < counts).any():
        raise EvaluateError(f"more labels than the pool has images: {counts.tolist()} of {pool.tolist()}")
    seen = counts > 0
    p, q = counts[seen] / counts.sum(), pool[seen] / pool.sum()
    return max(0.0, float((p * np.log(p / q)).sum()))  # rounding can leave -1e-17


def _check(logits: Array, labels: Array, c: int) -> None:
    if logits.ndim != 2 or logits.shape != (len(labels), c):
        raise EvaluateError(f"expected logits ({len(labels)}, {c}) for {len(labels)} labels, got shape {logits.shape}")
    if len(labels) and (labels.min() < 0 or labels.max() >= c):
        raise EvaluateError(f"labels: expected 0 to {c - 1}, got {labels.min()} to {labels.max()}")
    if np.isnan(logits.max(initial=-np.inf)):  # makes no array of the size of the logits
        raise EvaluateError("logits: not a number; did the training diverge?")


def _place_of_label(logits: Array, labels: Array) -> Array:
    """(n,) how many classes come before the label when classes are sorted by logit descending, then by number."""
    step = max(1, _COMPARED // logits.shape[1])
    cuts = range(0, len(logits), step)
    parts = [_places(logits[i : i + step], labels[i : i + step]) for i in cuts]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _places(logits: Array, labels: Array) -> Array:
    own = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    return np.asarray(((logits > own) | ((logits == own) & before)).sum(axis=1))


def _extreme(classes: Sequence[str], accuracy: Sequence[float | None], sign: int) -> Iterator[dict[str, Any]]:
    known = [(sign * value, number) for number, value in enumerate(accuracy) if value is not None]
    for _, number in sorted(known)[:_SHOWN_CLASSES]:
        yield {"class": classes[number], "accuracy": accuracy[number]}


def segmentation_metrics(confusion: Array, images: int, classes: Sequence[str]) -> dict[str, Any]:
    """Metrics of pixels from a confusion matrix (c, c), rows the true class, columns the predicted one.

    Returns top1 (pixel accuracy), balanced_accuracy (mean of the classes' accuracies), per_class_accuracy, miou (mean
    intersection over union of the classes that occur in mask or prediction), per_class_iou (None where a class does
    not), per_class_count (pixels of the masks), worst_classes and best_classes (by accuracy), num_images. Raises
    EvaluateError without a single pixel.
    """
    true, right = confusion.sum(1), np.diag(confusion)
    union = true + confusion.sum(0) - right
    if not true.sum():
        raise EvaluateError("no pixels to evaluate on: all masks are void")
    accuracy = [float(r / t) if t else None for r, t in zip(right, true, strict=True)]
    overlap = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    return {
        "top1": float(right.sum() / true.sum()),
        "balanced_accuracy": float(np.mean([value for value in accuracy if value is not None])),
        "miou": float(np.mean([value for value in overlap if value is not None])),
        "per_class_accuracy": accuracy,
        "per_class_iou": overlap,
        "per_class_count": [int(number) for number in true],
        "worst_classes": list(_extreme(classes, accuracy, 1)),
        "best_classes": list(_extreme(classes, accuracy, -1)),
        "num_images": images,
    }
