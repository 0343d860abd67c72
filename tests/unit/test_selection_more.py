"""Balanced random, Balancing, Cluster-Margin, robust and partitioned k-center, and BASE's filled quotas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference

from alray.selection.protocol import Picks, SelectionError
from alray.selection.registry import STRATEGIES, build
from alray.selection.select import select
from alray.selection.strategies.cluster_margin import ClusterMargin
from alray.selection.strategies.partitioned import PartitionedBadge, PartitionedKCenter
from alray.selection.strategies.robust_k_center import RobustKCenter

SHARDS = [1, 2, 7, 30]
N, C, D = 130, 5, 6


def made(kind: str, n: int = N) -> dict[str, Any]:
    rng = np.random.default_rng(["random", "tied", "duplicates"].index(kind))
    x, z = rng.normal(size=(n, D)), rng.normal(size=(n, C))
    if kind == "tied":
        x, z = rng.integers(-1, 2, (n, D)).astype(float), rng.integers(-1, 2, (n, C)).astype(float)
    elif kind == "duplicates":
        at = rng.integers(0, n // 6, n)
        x, z = x[at], z[at]
    labels = rng.choice(C, n, p=[0.5, 0.25, 0.15, 0.06, 0.04])
    return {
        "embedding": x.astype(np.float32), "logits": z.astype(np.float32), "labels": labels,
        "head": (rng.normal(size=(C, D)), np.zeros(C)),
    }  # fmt: skip


def chosen(name: str, k: int, data: dict[str, Any], labeled: np.ndarray, **options: Any) -> Picks:
    """The picks, after it was made sure that no cut changes them."""
    strategy = build(name, options)
    one = select(strategy, k, **data, labeled=labeled, seed=1, round=2)
    for shards in SHARDS[1:]:
        assert select(strategy, k, **data, labeled=labeled, seed=1, round=2, num_shards=shards) == one
    return one


def assert_twin(picks: Picks, expected: reference.Picked) -> None:
    np.testing.assert_array_equal(picks.rows, expected[0])
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates"])
@pytest.mark.parametrize("k", [1, 7, 40, 110])
def test_balanced_random(k: int, kind: str) -> None:
    data, labeled = made(kind), np.arange(20)
    rows = np.arange(20, N)
    expected = reference.balanced_random(rows, data["labels"][20:], k, C, 1, 2)
    assert_twin(chosen("balanced_random", k, data, labeled), expected)


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates"])
@pytest.mark.parametrize("k", [5, 60])
def test_balancing(k: int, kind: str) -> None:
    """60 is more than it takes to level the classes: the first draws are uniform, then it balances."""
    data, labeled = made(kind), np.arange(20)
    expected = reference.balancing(
        data["embedding"][20:], np.arange(20, N), data["labels"][20:], k,
        data["embedding"][:20], data["labels"][:20], C, 1, 2,
    )  # fmt: skip
    assert_twin(chosen("balancing", k, data, labeled), expected)


def test_strategies_that_peek_need_the_labels_and_say_so() -> None:
    data = made("random")
    del data["labels"]
    for name in ("balanced_random", "balancing"):
        assert "labels" in STRATEGIES[name].needs
        with pytest.raises(SelectionError, match="needs labels; got embedding, logits"):
            select(name, 3, **data, labeled=[1])
    assert [name for name, kind in STRATEGIES.items() if "labels" in kind.needs] == ["balanced_random", "balancing"]


def test_labels_of_unlabeled_rows_are_not_looked_at() -> None:
    """Whatever they are, strategies that do not peek choose the same."""
    data, labeled = made("random"), np.arange(20)
    other = {**data, "labels": np.where(np.arange(N) < 20, data["labels"], 0)}
    beside = {"pretext_loss": data["embedding"][:, 0], "discriminator": data["embedding"][:, 1]}
    for name in STRATEGIES.keys() - {"balanced_random", "balancing"}:
        one, two = (select(name, 10, **given, **beside, labeled=labeled) for given in (data, other))
        assert one == two, name


@pytest.mark.parametrize("kind", ["random", "duplicates"])
@pytest.mark.parametrize(("k", "candidates", "clusters"), [(8, 3, 4), (20, 2, 6), (30, 10, 20)])
def test_cluster_margin(k: int, candidates: int, clusters: int, kind: str) -> None:
    if kind == "duplicates" and clusters == 20:
        pytest.skip("which of equally distant groups are merged is linkage's choice")
    data, labeled = made(kind), np.arange(20)
    expected = reference.cluster_margin(
        data["embedding"][20:], data["logits"][20:], np.arange(20, N), k, candidates, clusters, 1, 2
    )
    assert_twin(chosen("cluster_margin", k, data, labeled, candidates=candidates, clusters=clusters), expected)


def test_clusters_of_equal_size_are_not_visited_in_the_order_of_the_catalog() -> None:
    """Forty clusters of one row each: the ten that are visited first differ from round to round."""
    x = np.random.default_rng(0).normal(size=(40, 6)) * 100
    given = {"embedding": x, "logits": np.zeros((40, 3)), "strategy_options": {"candidates": 4, "clusters": 40}}
    first, second = (select("cluster_margin", 10, **given, round=number).rows for number in (0, 1))
    assert max(first.tolist()) > 20
    assert set(first.tolist()) != set(second.tolist())


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates"])
def test_cluster_margin_on_a_summary_does_not_depend_on_the_cut(kind: str) -> None:
    data = made(kind)
    picks = chosen("cluster_margin", 30, data, np.arange(20), points=12, clusters=5)
    margins = select("margin", 110, **data, labeled=np.arange(20), seed=1, round=2)
    assert dict(zip(margins.rows, margins.scores, strict=True)).items() >= set(
        zip(picks.rows, picks.scores, strict=True)
    )


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates"])
@pytest.mark.parametrize(("m", "k", "outliers"), [(0, 3, 0), (3, 3, 0), (0, 2, 2), (3, 3, 3), (2, 1, 1)])
def test_robust_k_center_finds_the_optimum(m: int, k: int, outliers: int, kind: str) -> None:
    data, labeled = made(kind, n=14 + m), np.arange(m)
    x = data["embedding"]
    best = reference.robust_radius(x[m:], k, x[:m], outliers)
    picks = chosen("robust_k_center", k, data, labeled, outliers=outliers / 14)
    assert picks.account["radius"] == pytest.approx(best, rel=1e-9)
    assert picks.account["gap"] == 0
    assert picks.account["outliers"] <= outliers
    centers = np.concatenate([x[:m], x[picks.rows]]).astype(float)
    nearest = np.sort(np.sqrt(((x[m:, None].astype(float) - centers[None]) ** 2).sum(-1)).min(axis=1))[::-1]
    assert nearest[outliers] == pytest.approx(best, rel=1e-9)


def test_planted_outliers_are_left_alone() -> None:
    """Greedy runs after them; with as many outliers allowed the radius is that of the rest."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    x[[5, 17, 41]] += 100 * np.eye(4)[:3]
    picks = select(RobustKCenter(outliers=3 / 60), 4, embedding=x)
    assert set(picks.rows).isdisjoint({5, 17, 41})
    assert picks.account["outliers"] == 3
    assert picks.account["radius"] < 0.9 * picks.account["greedy_radius"]


def test_a_summary_keeps_its_promise() -> None:
    """All rows but the outliers lie within the bound; the picks do not depend on the cut."""
    data = made("random", n=400)
    x = data["embedding"].astype(float)
    picks = chosen("robust_k_center", 8, data, np.arange(4), outliers=0.05, points=40)
    centers = np.concatenate([x[:4], x[picks.rows]])
    nearest = np.sqrt(((x[4:, None] - centers[None]) ** 2).sum(-1)).min(axis=1)
    assert (nearest > picks.account["bound"]).sum() <= int(0.05 * 396)
    assert picks.account["bound"] == picks.account["radius"] + picks.account["summary_radius"]


def test_out_of_time_the_greedy_solution_and_its_gap_are_returned() -> None:
    data = made("random", n=200)
    hurried = RobustKCenter(outliers=0, time_limit=1e-9)
    picks = select(hurried, 10, embedding=data["embedding"])
    assert picks.account["radius"] == picks.account["greedy_radius"]
    assert 0 < picks.account["gap"] <= 1
    (remark,) = hurried.remarks(picks)
    assert remark.startswith("robust_k_center: time_limit: 1e-09 s were not enough")
    assert RobustKCenter().remarks(select(RobustKCenter(), 2, embedding=data["embedding"][:20])) == []


def test_a_summary_claims_no_more_than_it_knows() -> None:
    """The best radius of few centers is no lower bound: against all pairs of rows."""
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(14, 2))
        picks = select(RobustKCenter(outliers=0.0, points=6), 2, embedding=x)
        best = reference.robust_radius(x, 2, x[:0], 0)
        assert picks.account["lower_bound"] <= best * (1 + 1e-12)
        assert best <= picks.account["bound"] * (1 + 1e-12)


@pytest.mark.parametrize("name", ["balanced_random", "balancing", "base"])
def test_labels_that_are_no_class_are_refused_with_their_row(name: str) -> None:
    strategy = build(name, {"quota": "fill"} if name == "base" else {})
    for bad in (-1, C, 10**12):
        data = made("random")
        data["labels"][5] = bad  # a labeled row
        with pytest.raises(SelectionError, match=f"labels: expected 0 to 4, row 5 has {bad}"):
            select(strategy, 8, **data, labeled=np.arange(10))
        data = made("random")
        data["labels"][50] = bad
        if name == "base":
            select(strategy, 8, **data, labeled=np.arange(10))
        else:
            with pytest.raises(SelectionError, match=f"labels: expected 0 to 4, row 50 has {bad}"):
                select(strategy, 8, **data, labeled=np.arange(10))


def test_balancing_knows_classes_that_no_labeled_row_has() -> None:
    """Without head or logits the labels say how many there are; a class without labels is the rarest."""
    data = made("random")
    labels = np.where(np.arange(N) < 20, 0, data["labels"])
    labels[10:20] = 1
    expected = reference.balancing(
        data["embedding"][20:], np.arange(20, N), labels[20:], 20, data["embedding"][:20], labels[:20], C, 0, 0
    )
    picks = select("balancing", 20, embedding=data["embedding"], labels=labels, labeled=np.arange(20), num_shards=2)
    assert_twin(picks, expected)


@pytest.mark.parametrize("name", ["balancing", "k_center", "robust_k_center", "partitioned_k_center", "cluster_margin"])
@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e-150, 1e140, 1e160])
def test_tiny_and_huge_embeddings(scale: float, name: str) -> None:
    """Picked without repetition, or refused by row."""
    data = made("random")
    data["embedding"] = data["embedding"].astype(np.float64) * scale
    if scale == 1e160:
        with pytest.raises(SelectionError, match="embedding: expected values below 3.1e"):
            select(name, 12, **data, labeled=np.arange(20))
    else:
        assert len(np.unique(chosen(name, 12, data, np.arange(20)).rows)) == 12


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e-150, 1e140])
def test_badge_comes_to_an_end_on_tiny_and_huge_embeddings(scale: float) -> None:
    data = made("random")
    data["embedding"] = data["embedding"].astype(np.float64) * scale
    assert len(np.unique(chosen("badge", 12, data, np.arange(20)).rows)) == 12


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_partitioned_k_center_is_k_center_in_every_part(kind: str) -> None:
    data, labeled = made(kind), np.arange(21)
    x, rows = data["embedding"], np.arange(21, N)
    picks = chosen("partitioned_k_center", 30, data, labeled, parts=4, first="largest_norm")
    expected = reference.partitioned_k_center(x[21:], rows, 30, x[:21], labeled, 4, seed=1, round=2)
    np.testing.assert_array_equal(picks.rows, expected[0])
    np.testing.assert_allclose(picks.scores, expected[1], rtol=1e-12)


def test_one_part_is_the_whole() -> None:
    data, labeled = made("random"), np.arange(20)
    whole = select("k_center", 25, **data, labeled=labeled)
    one = select(PartitionedKCenter(parts=1), 25, **data, labeled=labeled)
    np.testing.assert_array_equal(one.rows, whole.rows)
    whole = select("badge", 25, **data, labeled=labeled)
    one = select(PartitionedBadge(parts=1, pooled=False), 25, **data, labeled=labeled, num_shards=3)
    np.testing.assert_array_equal(one.rows, whole.rows)


@pytest.mark.parametrize("kind", ["random", "tied", "duplicates"])
@pytest.mark.parametrize("k", [3, 30, 110])
def test_partitioned_badge_does_not_depend_on_the_cut(k: int, kind: str) -> None:
    data = made(kind)
    picks = chosen("partitioned_badge", k, data, np.arange(20), parts=4)
    assert set(picks.rows).isdisjoint(range(20))


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_partitioned_badge_is_badge_in_every_part(kind: str, pooled: bool) -> None:
    data, labeled = made(kind), np.arange(21)
    x, z, rows = data["embedding"], data["logits"], np.arange(21, N)
    picks = chosen("partitioned_badge", 30, data, labeled, parts=3, pooled=pooled)
    expected = reference.partitioned_badge(
        x[21:], z[21:], rows, 30, x[:21], z[:21], labeled, 3, pooled, seed=1, round=2
    )
    assert_twin(picks, expected)


def test_pooled_gradients_are_others() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(90, 40)), rng.normal(size=(90, 20))
    pooled, whole = (
        select(PartitionedBadge(2, pooled), 20, embedding=x, logits=z, num_shards=3) for pooled in (True, False)
    )
    assert pooled != whole


@pytest.mark.parametrize("k", [1, 4, 13, 60])
def test_filled_quotas_level_the_classes(k: int) -> None:
    """Against giving one after the other to the class with the fewest, the earlier served first."""
    data, labeled = made("random"), np.arange(20)
    have = np.bincount(data["labels"][:20], minlength=C)
    quotas = np.zeros(C, int)
    for _ in range(k):
        quotas[int(np.argmin(have + quotas))] += 1
    picks = chosen("base", k, data, labeled, quota="fill")
    rows = np.arange(20, N)
    order = [c for c in range(C) for _ in range(quotas[c])]
    distances, others = reference._distances(data["logits"][20:], data["head"][0])
    full = np.array(distances)
    for i, y in enumerate(data["logits"][20:].argmax(1)):
        full[i, y] = min(others[i])
    expected: list[int] = []
    for c in order:
        expected.append(next(i for i in np.lexsort((rows, full[:, c])) if i not in expected))
    np.testing.assert_array_equal(picks.rows, rows[expected])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PartitionedKCenter(parts=0), "partitioned_k_center: parts: expected an integer of at least 1, got 0"),
        (lambda: PartitionedBadge(parts=2.5), "parts: expected an integer of at least 1, got 2.5"),  # type: ignore[arg-type]
        (lambda: PartitionedKCenter(metric="l1"), "metric: expected one of l2, cosine, got 'l1'"),  # type: ignore[arg-type]
        (lambda: ClusterMargin(clusters=0), "clusters: expected an integer of at least 1, got 0"),
        (lambda: RobustKCenter(outliers=1.0), "outliers: expected a number from 0 to below 1, got 1.0"),
        (lambda: RobustKCenter(time_limit=float("nan")), "time_limit: expected a number of at least 0, got nan"),
        (
            lambda: build("cluster_margin", {"candidates": "x"}),
            "candidates: expected an integer of at least 1",
        ),
        (lambda: PartitionedBadge(pooled="no"), "pooled: expected true or false, got 'no'"),  # type: ignore[arg-type]
        (
            lambda: select(RobustKCenter(points=10), 10, embedding=np.eye(20)),
            "points: expected more than the budget of 10",
        ),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        make()
