"""Metrics against scikit-learn and plain NumPy, ties and absent classes included."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, top_k_accuracy_score

from alray import RunConfig
from alray.cluster import Joined
from alray.config import ResourceConfig
from alray.data.catalog import index
from alray.features.table import write_arrays
from alray.models.head import Head
from alray.progress import Stages
from alray.store import Store
from alray.train.evaluate import EvaluateError, classification_metrics, evaluate_blocks, labeled_set_metrics
from alray.train.learners import LinearLearner


def problem(n: int, c: int, seed: int = 0, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.integers(0, 3, (n, c)).astype(np.float32) if tied else random.normal(size=(n, c)).astype(np.float32)
    return logits, random.integers(0, c, n)


def names(c: int) -> list[str]:
    return [f"class {i}" for i in range(c)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equals_scikit_learn(dtype: type) -> None:
    logits, labels = problem(5000, 12)
    logits = logits.astype(dtype) + np.linspace(0, 1e-3, 12).astype(dtype)
    logits[np.arange(5000), labels] += 1.0
    metrics = classification_metrics(logits, labels, classes=names(12), top_k=(2, 5))
    predicted = logits.argmax(1)
    assert metrics["top1"] == accuracy_score(labels, predicted)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    np.testing.assert_allclose(metrics["per_class_accuracy"], recall_score(labels, predicted, average=None))
    if dtype == np.float32:  # float16 has ties, which scikit-learn breaks otherwise
        assert metrics["top5"] == top_k_accuracy_score(labels, logits, k=5)
    assert metrics["num_images"] == 5000
    assert json.loads(json.dumps(metrics)) == metrics


def test_ties_go_to_the_lower_class() -> None:
    logits, labels = problem(2000, 9, tied=True)
    metrics = classification_metrics(logits, labels, classes=names(9), top_k=(3,))
    order = np.argsort(-logits, axis=1, kind="stable")
    assert metrics["top1"] == np.mean(logits.argmax(1) == labels)
    assert metrics["top3"] == np.mean((order[:, :3] == labels[:, None]).any(1))


def test_top_k_only_where_it_says_something() -> None:
    logits, labels = problem(50, 5)
    metrics = classification_metrics(logits, labels, classes=names(5), top_k=(2, 4, 5, 10))
    assert {"top2", "top4"} < metrics.keys() and not {"top5", "top10"} & metrics.keys()


def test_absent_classes_are_null_and_left_out_of_the_mean() -> None:
    logits = np.eye(8, dtype=np.float32)[[0, 0, 3, 1]]
    labels = np.array([0, 0, 3, 3])
    metrics = classification_metrics(logits, labels, classes=names(8))
    assert metrics["per_class_accuracy"] == [1.0, None, None, 0.5, None, None, None, None]
    assert metrics["balanced_accuracy"] == 0.75
    assert metrics["worst_classes"] == [{"class": "class 3", "accuracy": 0.5}, {"class": "class 0", "accuracy": 1.0}]
    assert metrics["best_classes"] == metrics["worst_classes"][::-1]


def test_five_worst_and_best_in_order() -> None:
    labels = np.repeat(np.arange(8), 8)
    right = np.concatenate([np.arange(8) < k for k in (3, 0, 8, 5, 5, 1, 7, 2)])
    logits = np.eye(8)[np.where(right, labels, (labels + 1) % 8)]
    metrics = classification_metrics(logits, labels, classes=list("abcdefgh"))
    assert [item["class"] for item in metrics["worst_classes"]] == list("bfhad")
    assert [item["class"] for item in metrics["best_classes"]] == list("cgdea")


def test_blocks_equal_the_whole() -> None:
    logits, labels = problem(9001, 6)
    whole = classification_metrics(logits, labels, classes=names(6), top_k=(2,))
    cuts = np.split(np.arange(9001), [1, 1, 500, 8000])
    assert evaluate_blocks(((logits[i], labels[i]) for i in cuts), classes=names(6), top_k=(2,)) == whole


@pytest.mark.parametrize("stored", [False, True])
def test_100_000_classes_fit_in_memory(tmp_path: Path, stored: bool) -> None:
    """2,000 images: all logits would take 800 MB, and 1.6 GB in float64, several times over."""
    n, d, c = 2000, 4, 100_000
    random = np.random.default_rng(0)
    labels = random.integers(0, c, n)
    features = random.integers(-3, 4, (n, d)).astype(np.float32)
    np.savez(tmp_path / "e.npz", features=features[:2], label=np.array(["0", "1"]))
    classes = tuple(map(str, range(c)))
    catalog = index(str(tmp_path / "e.npz"), str(tmp_path / "catalog"), classes=classes)
    learner = LinearLearner(RunConfig(top_k=(5,)), catalog, Joined(ResourceConfig()))
    head = Head(random.integers(-3, 4, (c, d)).astype(np.float32), np.arange(c, dtype=np.float32) % 7)
    store = Store(str(tmp_path / "round"))
    head.save(store.child("checkpoint"))
    logits, rows = features @ head.weight.T + head.bias, np.arange(n)
    table = write_arrays(
        Store(str(tmp_path / "features")), rows, features, "float32", "mark", logits if stored else None, part_rows=500
    )
    expected = classification_metrics(logits, labels, classes=classes, top_k=(5,))
    del logits
    tracemalloc.start()
    found = learner.evaluate(table, rows, labels, store, Stages(quiet=True))
    evaluated = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    predicted, probability = learner.predict(table, rows[::-1], store)
    asked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == expected
    assert predicted is not None and probability is not None
    logits = (features[::-1] @ head.weight.T + head.bias)[:300].astype(np.float64)
    assert predicted[:300].tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(probability[:300], np.exp(logits.max(1)) / np.exp(logits).sum(1), rtol=1e-12)
    assert evaluated < 600e6
    assert asked < 900e6


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no images"),
        (np.zeros((2, 4)), np.zeros(2, int), r"expected logits \(2, 3\)"),
        (np.zeros((2, 3)), np.array([0, 3]), "expected 0 to 2, got 0 to 3"),
        (np.zeros((2, 3)), np.array([-1, 0]), "expected 0 to 2, got -1 to 0"),
        (np.array([[0, np.nan, 0]]), np.array([0]), "not a number"),
    ],
)
def test_refusals(logits: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(EvaluateError, match=words):
        classification_metrics(logits, labels, classes=names(3))


def test_labeled_set() -> None:
    counts, pool = [8, 4, 4, 0], [10, 20, 50, 20]
    metrics = labeled_set_metrics(counts, pool)
    assert metrics["counts"] == counts and metrics["empty_classes"] == 1 and metrics["max_min_ratio"] is None
    assert metrics["normalised_entropy"] == pytest.approx(entropy(counts, base=4))
    assert metrics["kl_to_pool"] == pytest.approx(entropy(counts, pool))
    assert labeled_set_metrics([6, 3], [60, 30])["max_min_ratio"] == 2.0
    assert labeled_set_metrics(np.array([6, 3, 0]))["kl_to_pool"] is None
    assert json.loads(json.dumps(metrics)) == metrics


def test_a_balanced_labeled_set_of_a_balanced_pool() -> None:
    metrics = labeled_set_metrics([7] * 10, [70] * 10)
    assert metrics["normalised_entropy"] == pytest.approx(1.0) and metrics["kl_to_pool"] == 0.0
    assert metrics["max_min_ratio"] == 1.0 and metrics["empty_classes"] == 0
    assert labeled_set_metrics([5], [9])["normalised_entropy"] == 1.0
    one = labeled_set_metrics([5, 0], [5, 5])
    assert one["normalised_entropy"] == 0.0 and one["kl_to_pool"] == pytest.approx(math.log(2))


def test_labeled_set_refusals() -> None:
    with pytest.raises(EvaluateError, match="empty"):
        labeled_set_metrics([0, 0], [1, 1])
    with pytest.raises(EvaluateError, match="more labels than the pool"):
        labeled_set_metrics([2, 1], [5, 0])
