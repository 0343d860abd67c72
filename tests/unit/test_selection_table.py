"""Every strategy on every kind of input: the same picks however the pool is cut, and never a row twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alray.features.arrays import ArraySource, cut
from alray.selection.protocol import Context
from alray.selection.registry import STRATEGIES, build
from alray.selection.select import select, select_from

N, C, D, M, K = 96, 4, 7, 15, 20
KINDS = ["random", "tied", "duplicates", "offset", "float16", "float64", "identical"]
HASHED = {"k_means", "random", "balanced_random", "balancing", "badge", "partitioned_k_center", "partitioned_badge"}
BESIDE = ("discriminator", "pretext_loss")
TIED = {"cluster_margin", "robust_k_center"}  # equal clusters go by hashes of rows; an optimum need not be the only one


def made(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(KINDS.index(kind))
    x, w = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    if kind == "tied":
        x, w = rng.integers(-1, 2, (N, D)).astype(float), rng.integers(-1, 2, (C, D)).astype(float)
    elif kind == "duplicates":
        x = x[rng.integers(0, N // 8, N)]
    elif kind == "offset":
        x = x + 300
    elif kind == "identical":
        x = np.repeat(x[:1], N, axis=0)
    x = x.astype({"float16": np.float16, "float64": np.float64}.get(kind, np.float32))
    beside = {name: x[:, at].copy() for at, name in enumerate(BESIDE)}
    return {"embedding": x, "head": (w, np.zeros(C)), "labels": rng.integers(0, C, N), **beside}


def columns(data: dict[str, Any], name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The embedding, and what networks beside the main one say where a strategy needs it."""
    return {c: data[c][rows] for c in ("embedding", *BESIDE) if c == "embedding" or c in STRATEGIES[name].needs}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_no_cut_changes_a_pick(name: str, kind: str) -> None:
    """Contiguous and interleaved shards, for a budget and for the whole pool."""
    data = made(kind)
    rows, known, labels = np.arange(M, N), np.arange(M), data["labels"]
    context = Context(
        3, 1, C, data["head"], ArraySource(known, columns(data, name, known)), labels[:M],
        lambda asked: labels[asked], (np.arange(N), data["pretext_loss"].astype(float)),
    )  # fmt: skip
    for budget in (K, N - M):
        one = select_from([ArraySource(rows, columns(data, name, rows))], build(name), budget, context)
        assert len(np.unique(one.rows)) == budget
        assert np.isin(one.rows, rows).all()
        for shards in (2, 7, 30):
            parts = [slice(k, None, shards) for k in range(shards)] if shards != 7 else cut(len(rows), shards)
            sources = [ArraySource(rows[p], columns(data, name, rows[p])) for p in parts]
            assert select_from(sources, build(name), budget, context) == one


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - HASHED - TIED))
def test_the_same_images_under_other_row_numbers(name: str) -> None:
    """Without ties and hashes only the images count."""
    data, other = made("random"), np.random.default_rng(5).permutation(N)
    every = np.arange(N)
    picks = select(name, K, **columns(data, name, every), head=data["head"], labeled=np.arange(M))
    moved = select(
        name, K, **columns(data, name, other), head=data["head"], labeled=np.flatnonzero(other < M), num_shards=3
    )
    np.testing.assert_array_equal(other[moved.rows], picks.rows)
