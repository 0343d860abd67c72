"""The shipped job on a head that is certain of nearly every image: picks of all classes, from the rows it is least sure
of. The embeddings have the norm of a ViT's class token, and rows are sorted by class, as in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from alray import RunConfig, replace, run
from alray.recipes import presets

CLASSES, EACH, WIDTH, BUDGET = 6, 100, 64, 60


def certain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write the embeddings; returns them with their labels."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(CLASSES), EACH)
    x = rng.normal(size=(CLASSES, WIDTH))[label] * 0.35 + rng.normal(size=(CLASSES * EACH, WIDTH))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True) * 45).astype(np.float32)
    np.savez(path, features=x, label=label, is_test=rng.random(len(label)) < 0.2)
    return x, label


def first_picks(folder: Path, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """Run the job for two rounds; returns the picks of the first, and the logits of all images at that time."""
    x, _ = certain(folder / "certain.npz")
    config: RunConfig = presets("imagenet_base")["linear"]
    changed: dict[str, Any] = {
        "data.root": str(folder / "certain.npz"), "root": str(folder / "runs"), "strategy": strategy, "rounds": 2,
        "budget": BUDGET, "split.seed_set_size": 80, "split.val_size": 40, "resources.select_workers": "process",
    }  # fmt: skip
    result = run(replace(config, changed), quiet=True)
    first = Path(result.dir) / "round_00"
    head = np.load(first / "checkpoint" / "head.npz")
    logits = x.astype(np.float16).astype(np.float64) @ head["weight"].astype(np.float64).T + head["bias"]
    return pq.read_table(first / "picks.parquet")["row"].to_numpy(), logits


def entropy_of_classes(label: np.ndarray) -> float:
    """1 where all classes have as many."""
    share = np.bincount(label, minlength=CLASSES) / len(label)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(CLASSES))


@pytest.mark.parametrize("strategy", ["margin", "confidence", "entropy", "base", "cluster_margin"])
def test_class_entropy_of_picks_on_a_saturated_head(strategy: str, tmp_path: Path) -> None:
    rows, logits = first_picks(tmp_path, strategy)
    top = np.sort(logits, axis=1)
    gap = top[:, -1] - top[:, -2]
    assert np.median(gap) > 100  # float64 says that such a probability is 1
    label = np.repeat(np.arange(CLASSES), EACH)
    assert entropy_of_classes(label[rows]) > 0.9
    assert np.median(gap[rows]) < np.median(gap) / 4
    if strategy in ("margin", "confidence", "entropy"):  # nearly in the order of the gap of the two largest logits
        assert np.abs(np.argsort(gap[rows], kind="stable") - np.arange(BUDGET)).max() <= 3


def test_badge_ends_on_a_saturated_head(tmp_path: Path) -> None:
    rows, logits = first_picks(tmp_path, "badge")
    top = np.sort(logits, axis=1)
    assert len(set(rows.tolist())) == BUDGET
    assert (top[:, -1] - top[:, -2]).max() > 1000
