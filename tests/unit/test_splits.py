from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from alray.data import splits


def brute_water_fill(available: list[int], total: int) -> list[int]:
    """One at a time to the class that has got least so far; ties to the class with most images, then the first."""
    quotas = [0] * len(available)
    for _ in range(total):
        c = min(
            (c for c in range(len(available)) if quotas[c] < available[c]), key=lambda c: (quotas[c], -available[c], c)
        )
        quotas[c] += 1
    return quotas


@pytest.mark.parametrize("seed", range(30))
def test_water_filling_equals_handing_out_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    available = rng.integers(0, 12, rng.integers(1, 9))
    total = int(rng.integers(0, available.sum() + 1))
    assert splits.water_fill(available, total).tolist() == brute_water_fill(available.tolist(), total)


@pytest.mark.parametrize("counts", [[3, 50, 2, 50], [5, 5, 5, 5]])  # the published generator asserts or never ends
def test_histograms_the_published_code_fails_on(counts: list[int]) -> None:
    labels = np.repeat(np.arange(4), counts).astype(np.int32)
    rows = np.arange(len(labels))
    size = min(40, len(labels))
    drawn = splits.draw_balanced(rows, labels, size, 0, "val", 4)
    got = np.bincount(labels[drawn], minlength=4)
    assert len(np.unique(drawn)) == size
    assert (got <= counts).all()
    open_classes = got[got < np.array(counts)]
    assert open_classes.size == 0 or open_classes.max() - open_classes.min() <= 1


def test_too_many_asked_for_is_refused() -> None:
    with pytest.raises(splits.SplitError, match="expected at least 11 images, got 10"):
        splits.draw_random(np.arange(10), 11, 0, "seed_set")
    with pytest.raises(splits.SplitError, match="got 5 with at most 50% of each class"):
        splits.draw_balanced(np.arange(10), np.zeros(10, np.int32), 6, 0, "val", 1, 0.5)
    with pytest.raises(splits.SplitError, match="got none for row 3"):
        splits.draw_balanced(np.arange(4), np.array([0, 0, 0, -1], np.int32), 2, 0, "val", 1)


def test_a_balanced_draw_does_not_swallow_rare_classes() -> None:
    counts = splits.imbalanced_counts("exponential", 5000, 0.01, 10)
    labels = np.repeat(np.arange(10), counts).astype(np.int32)
    drawn = splits.draw_balanced(np.arange(len(labels)), labels, len(labels) // 10, 0, "val", 10, 0.5)
    left = counts - np.bincount(labels[drawn], minlength=10)
    assert (left >= np.ceil(counts / 2)).all()  # the published split leaves 1, 0 and 0 of the last three


def test_the_papers_imbalanced_counts() -> None:
    exponential = splits.imbalanced_counts("exponential", 5000, 0.1, 10)
    assert exponential.tolist() == [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert splits.imbalanced_counts("step", 5000, 0.1, 10).tolist() == [5000] * 5 + [500] * 5
    assert splits.imbalanced_counts("exponential", 5000, 0.01, 10).sum() == 12406
    labels = np.tile(np.arange(10), 5000).astype(np.int32)
    kept = splits.imbalance(np.arange(50_000), labels, "exponential", 0.1, 0, 10)
    assert np.bincount(labels[kept]).tolist() == exponential.tolist()


def test_draws_depend_on_seed_and_rows_alone() -> None:
    rows = np.arange(1000)
    first = splits.draw_random(rows, 100, 0, "seed_set")
    assert np.array_equal(first, splits.draw_random(rows[::-1], 100, 0, "seed_set"))
    assert not np.array_equal(first, splits.draw_random(rows, 100, 1, "seed_set"))
    assert not np.array_equal(first, splits.draw_random(rows, 100, 0, "val"))
    # What is drawn of a part is what is drawn of the whole, as far as it lies in the part.
    half = splits.draw_random(rows[:500], 50, 0, "seed_set")
    whole = splits.draw_random(rows, 1000, 0, "seed_set")
    assert set(half) <= set(whole)


def test_list_files_with_and_without_labels() -> None:
    keys = pa.array(["train/a/1.jpg", "train/a/2 b.jpg", "train/b/3.jpg", "x,y 1"])
    lines = ["train/b/3.jpg 1", "train/a/2 b.jpg 0", "", "train/b/3.jpg 1"]
    found = splits.from_list(keys, lines, "lt.txt")
    assert found.rows.tolist() == [1, 2]
    assert found.classes.to_pylist() == ["0", "1"]
    found = splits.from_list(keys, ["train/a/1.jpg", "x,y 1", "train/b/3.jpg, white shark"], "lt.txt")
    assert found.rows.tolist() == [0, 2, 3]
    assert found.classes.to_pylist() == [None, "white shark", None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train/a/1.jpg 0", "train/c/9.jpg 5"], r"lt.txt: expected keys .* 1 of 2 others, first 'train/c/9.jpg 5'"),
        (["", "  "], "lt.txt: .* got an empty list"),
        (["train/a/1.jpg cat", "train/a/1.jpg dog"], "train/a/1.jpg: expected one class, got cat and dog"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(splits.SplitError, match=message):
        splits.from_list(pa.array(["train/a/1.jpg"]), lines, "lt.txt")
