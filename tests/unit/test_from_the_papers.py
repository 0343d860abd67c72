"""Cluster-Margin, balanced draws, imbalanced pools and list files, checked against the papers alone.

Every expected value here was written from Citovsky et al. 2021 (*Batch Active Learning at Scale*), from Emam et al.
2021 and the counts of its imbalanced CIFAR-10, or from the format of ImageNet-LT (Liu et al. 2019), and not from
alray's code. Where alray documents a difference from a paper, the test says which. The networks have
`test_networks_from_the_papers.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import softmax
from scipy.stats import chisquare

from alray import RunConfig, select
from alray.config import DataConfig, ImbalanceConfig, ModelConfig, SplitConfig, TrainConfig
from alray.data.splits import SplitError, draw_balanced, from_list, imbalance, imbalanced_counts, water_fill
from alray.prepare import check

# Imbalanced CIFAR-10 of Emam et al. 2021: int(5000 f^(c/9)).
EXPONENTIAL = {
    0.1: ([5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500], 20_431),
    0.01: ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 12_406),
}


def margins(logits: np.ndarray) -> np.ndarray:
    """The difference of the two largest probabilities."""
    p = np.sort(softmax(logits.astype(np.float64), axis=1), axis=1)
    return p[:, -1] - p[:, -2]


def blobs(sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings in clusters that are far apart, logits that have nothing to do with them, and the clusters."""
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = 100.0 * np.eye(len(sizes), 12)
    return centers[cluster] + rng.normal(size=(len(cluster), 12)), rng.normal(size=(len(cluster), 4)), cluster


def nearest_the_boundary(logits: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(margins(logits), kind="stable")[:count]


def round_robin(candidates: np.ndarray, cluster: np.ndarray, margin: np.ndarray, budget: int) -> list[int]:
    """One row of every cluster in each turn, the smallest cluster first; a cluster that is empty is left out.

    The sizes of the clusters must differ. cluster and margin (n,) are those of all rows.
    """
    queues = {c: sorted(candidates[cluster[candidates] == c], key=lambda row: margin[row]) for c in set(cluster)}
    waiting = sorted((queue for queue in queues.values() if queue), key=len)
    assert len({len(queue) for queue in waiting}) == len(waiting), "the order of the clusters must be unique"
    picks: list[int] = []
    while len(picks) < budget:
        for queue in waiting:
            if queue and len(picks) < budget:
                picks.append(int(queue.pop(0)))
    return picks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("budget", [4, 17, 38, 62, 83])
def test_cluster_margin_takes_turns_and_leaves_out_exhausted_clusters(budget: int, shards: int, seed: int) -> None:
    sizes = [2, 5, 9, 15, 21, 31]  # all 83 rows are candidates: budgets of 17 and more exhaust clusters
    x, logits, cluster = blobs(sizes, seed)
    options = {"candidates": 83, "clusters": 6}
    picks = select("cluster_margin", budget, strategy_options=options, embedding=x, logits=logits, num_shards=shards)
    assert picks.rows.tolist() == round_robin(np.arange(83), cluster, margins(logits), budget)
    taken = np.bincount(cluster[picks.rows], minlength=6)
    turns = next(t for t in range(32) if np.minimum(sizes, t).sum() >= budget)
    whole, further = np.minimum(sizes, turns - 1), np.minimum(sizes, turns)
    assert (taken >= whole).all() and (taken <= further).all()


@pytest.mark.parametrize("seed", range(5))
def test_cluster_margin_chooses_among_the_smallest_margins_only(seed: int) -> None:
    x, logits, cluster = blobs([100, 60, 40], seed)
    logits[cluster == 2] *= 50  # a cluster of certain rows, of which none may become a candidate
    candidates = nearest_the_boundary(logits, 3 * 20)
    options = {"candidates": 3, "clusters": 3}
    picks = select("cluster_margin", 20, strategy_options=options, embedding=x, logits=logits).rows
    assert set(picks) <= set(candidates)
    assert len({*cluster[candidates]}) == len({*cluster[picks]})
    assert (cluster[picks] == 2).sum() <= (cluster[candidates] == 2).sum()


@pytest.mark.parametrize("seed", range(6))
def test_cluster_margin_cuts_average_linkage_of_the_candidates_into_the_number_of_clusters(seed: int) -> None:
    """Without structure in the data, average linkage gives a few large clusters and many equal ones: the turns are
    then unique up to the order of clusters of equal size."""
    rng = np.random.default_rng(seed)
    x, logits, budget = rng.normal(size=(150, 3)), rng.normal(size=(150, 5)), 30
    candidates = nearest_the_boundary(logits, 2 * budget)
    cluster = np.full(150, -1)
    cluster[candidates] = fcluster(linkage(x[candidates], "average"), 8, "maxclust")
    options = {"candidates": 2, "clusters": 8}
    picks = select("cluster_margin", budget, strategy_options=options, embedding=x, logits=logits).rows
    size, margin = np.bincount(cluster[candidates]), margins(logits)
    turn = np.array([(cluster[picks[:at]] == cluster[row]).sum() for at, row in enumerate(picks)])
    for c in set(cluster[picks]):
        mine = candidates[cluster[candidates] == c]
        in_order = mine[np.argsort(margin[mine])]
        assert picks[cluster[picks] == c].tolist() == in_order[: (cluster[picks] == c).sum()].tolist()
    first = {cluster[row]: at for at, row in reversed(list(enumerate(picks)))}
    places = [(t, size[cluster[row]], first[cluster[row]]) for t, row in zip(turn, picks, strict=True)]
    assert places == sorted(places)
    for t in range(turn.max()):  # every turn but the last serves all clusters that are not exhausted
        assert (turn == t).sum() == (size[np.unique(cluster[candidates])] > t).sum()


@pytest.mark.parametrize("seed", range(4))
def test_cluster_margin_takes_as_many_from_every_cluster_as_the_original(seed: int) -> None:
    """The original clusters the whole pool once, to a distance threshold, and draws at random in a cluster. alray
    clusters the candidates and takes the smallest margin. Where the clusters are clear, the counts are equal."""
    x, logits, _ = blobs([90, 70, 50, 30, 20], seed)
    original = fcluster(linkage(x, "average"), 50.0, "distance")
    assert original.max() == 5
    candidates = nearest_the_boundary(logits, 10 * 12)
    sizes = np.bincount(original[candidates], minlength=6)[1:]
    expected, left = np.zeros(5, int), 12
    while left:
        for c in np.argsort(sizes, kind="stable"):
            if left and expected[c] < sizes[c]:
                expected[c], left = expected[c] + 1, left - 1
    options = {"candidates": 10, "clusters": 5}
    picks = select("cluster_margin", 12, strategy_options=options, embedding=x, logits=logits).rows
    assert sorted(np.bincount(original[picks], minlength=6)[1:]) == sorted(expected)


@pytest.mark.parametrize("points", [6, 20, 82])
def test_cluster_margin_through_a_summary_finds_the_same_clusters(points: int) -> None:
    """Any k-center summary has a row in each of some clusters that are far apart."""
    x, logits, cluster = blobs([2, 5, 9, 15, 21, 31], seed=3)
    options = {"candidates": 83, "clusters": 6, "points": points}
    picks = select("cluster_margin", 50, strategy_options=options, embedding=x, logits=logits).rows
    assert picks.tolist() == round_robin(np.arange(83), cluster, margins(logits), 50)


def shared_out(limits: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Rows are given one at a time to a class with the fewest so far, of these to the largest."""
    given = np.zeros(len(limits), int)
    for _ in range(total):
        open_classes = [c for c in range(len(limits)) if given[c] < limits[c]]
        given[min(open_classes, key=lambda c: (given[c], -sizes[c], c))] += 1
    return given


def labels_of(histogram: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(histogram)), histogram)).astype(np.int32)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("seed", range(25))
def test_a_balanced_draw_is_as_even_as_the_classes_allow(seed: int, share: float) -> None:
    """Among the histograms are those on which the published code stops or hangs."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 40, rng.integers(1, 9)) * (rng.random() < 0.8) + rng.integers(0, 3)
    histogram = {0: [3, 50, 2, 50], 1: [5, 5, 5, 5], 2: [50, 2, 50, 3]}.get(seed, drawn.tolist())
    labels, rows = labels_of(histogram, seed), 7 + 3 * np.arange(sum(histogram))
    limits = np.floor(share * np.array(histogram)).astype(int)
    for size in {0, limits.sum() // 3, limits.sum() // 2, limits.sum()}:
        got = draw_balanced(rows, labels, int(size), seed, "eval", len(histogram), share)
        assert len(got) == size and (np.diff(got) > 0).all() and np.isin(got, rows).all()
        counts = np.bincount(labels[(got - 7) // 3], minlength=len(histogram))
        assert (counts <= limits).all()
        unexhausted = counts[counts < limits]
        assert not len(unexhausted) or counts.max() - unexhausted.min() <= 1
        # Which classes get the remainder is not said: the multiset of the counts is unique, the counts are not.
        assert sorted(counts) == sorted(shared_out(limits, np.array(histogram), int(size)))
        exact = water_fill(np.array(histogram), int(size))
        assert exact.tolist() == shared_out(np.array(histogram), np.array(histogram), int(size)).tolist()
    with pytest.raises(SplitError):
        draw_balanced(rows, labels, int(limits.sum()) + 1, seed, "eval", len(histogram), share)


def test_a_balanced_draw_takes_every_row_of_a_class_equally_often() -> None:
    labels = labels_of([12, 30, 5], seed=0)
    drawn = np.zeros(47)
    for seed in range(2000):
        drawn[draw_balanced(np.arange(47), labels, 9, seed, "eval", 3)] += 1
    for c in range(3):
        assert drawn[labels == c].sum() == 3 * 2000
        assert chisquare(drawn[labels == c]).pvalue > 1e-4


@pytest.mark.parametrize("factor", [0.1, 0.01])
def test_exponential_imbalance_has_the_counts_of_imbalanced_cifar_10(factor: float) -> None:
    counts, total = EXPONENTIAL[factor]
    assert imbalanced_counts("exponential", 5000, factor, 10).tolist() == counts
    assert sum(counts) == total
    labels = labels_of([5000] * 10, seed=1)
    before = str(np.random.get_state(legacy=False))
    rows = imbalance(np.arange(50_000), labels, "exponential", factor, 0, 10)
    assert np.bincount(labels[rows], minlength=10).tolist() == counts
    assert str(np.random.get_state(legacy=False)) == before
    assert (rows == imbalance(np.arange(50_000), labels, "exponential", factor, 0, 10)).all()
    assert set(rows) != set(imbalance(np.arange(50_000), labels, "exponential", factor, 1, 10))


@pytest.mark.parametrize("factor", [0.1, 0.01, 0.3])
def test_step_imbalance_cuts_half_of_the_classes(factor: float) -> None:
    labels = labels_of([5000] * 10, seed=2)
    rows = imbalance(np.arange(50_000), labels, "step", factor, 0, 10)
    assert np.bincount(labels[rows]).tolist() == [5000] * 5 + [int(5000 * factor)] * 5


@pytest.mark.parametrize(("factor", "share"), [(0.1, 0.5), (0.01, 0.5), (0.01, 0.2)])
def test_a_balanced_validation_set_leaves_rare_classes_in_an_imbalanced_pool(factor: float, share: float) -> None:
    """With factor 0.01 the published code leaves 1, 0 and 0 images of the three rarest classes."""
    counts = np.array(EXPONENTIAL[factor][0])
    labels, size = labels_of(counts.tolist(), seed=4), counts.sum() // 10
    val = draw_balanced(np.arange(len(labels)), labels, int(size), 99, "val", 10, share)
    taken = np.bincount(labels[val], minlength=10)
    assert taken.sum() == size and (taken <= np.floor(share * counts)).all()
    assert sorted(taken) == sorted(shared_out(np.floor(share * counts).astype(int), counts, int(size)))
    assert (counts - taken >= (1 - share) * counts).all()


def run_config(folder: Path, **sections: object) -> RunConfig:
    fast = {"model": ModelConfig(backbone="test_resnet"), "train": TrainConfig(epochs=1)}
    return RunConfig(name="paper", root=str(folder / "runs"), rounds=2, budget=3, **{**fast, **sections})


@pytest.mark.parametrize("how", ["balanced", "random"])
def test_a_run_draws_validation_and_seed_set_from_the_imbalanced_pool(how: str, tmp_path: Path) -> None:
    labels = np.concatenate([labels_of([200] * 10, seed=5), np.zeros(20, np.int32)])
    place, is_test = tmp_path / "features.npz", np.arange(2020) >= 2000
    np.savez(place, features=np.random.default_rng(0).normal(size=(2020, 3)), label=labels, is_test=is_test)
    config = run_config(
        tmp_path,
        data=DataConfig(root=str(place), imbalance=ImbalanceConfig(kind="exponential", factor=0.01)),
        split=SplitConfig(val_size=49, val_how=how, seed_set_size=40, seed_set_how=how),
        train=TrainConfig(mode="linear", epochs=1),
    )
    found = check(config)
    counts = np.array([int(200 * 0.01 ** (c / 9)) for c in range(10)])
    assert counts.tolist() == [200, 119, 71, 43, 25, 15, 9, 5, 3, 2]
    assert np.bincount(labels[found.pool_rows]).tolist() == counts.tolist()
    val, seed_set = found.draw()
    assert len(val) == 49 and len(seed_set) == 40
    assert len({*val, *seed_set}) == 89 and {*val, *seed_set} <= {*found.pool_rows}
    if how == "balanced":
        taken = np.bincount(labels[val], minlength=10)
        assert sorted(taken) == sorted(shared_out(counts // 2, counts, 49))
        first = np.bincount(labels[seed_set], minlength=10)
        assert sorted(first) == sorted(shared_out(counts - taken, counts - taken, 40))
        assert first.min() >= 1


def written(place: Path, *names: str) -> None:
    for at, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (at * 37 % 256, at * 11 % 256, at * 91 % 256)).save(place / name)


@pytest.mark.parametrize("between", [" ", "\t", ","])
def test_the_lists_of_imagenet_lt_make_the_pool_the_validation_and_the_test_set(between: str, tmp_path: Path) -> None:
    """ImageNet-LT has a line "train/n01440764/n01440764_190.JPEG 0" per image: the training list is the pool, the
    validation list names further training images, and the test list names images of ImageNet's validation set."""
    wnids, root = ("n01440764", "n01443537", "n01484850"), tmp_path / "imagenet"
    names = [f"train/{wnid}/{wnid}_{at}.png" for wnid in wnids for at in range(10)]
    tests = [f"val/{wnid}/ILSVRC2012_val_0000000{at}.png" for at, wnid in enumerate(wnids)]
    written(root, *names, *tests)
    chosen = {
        "train": names[:8] + names[10:14] + names[20:22],  # 8, 4 and 2 images: a long tail
        "val": [names[9], names[19], names[29]],
        "test": tests[:2],
    }
    lists = {}
    for part, keys in chosen.items():
        lists[part] = tmp_path / f"ImageNet_LT_{part}.txt"
        lines = [f"{key}{between}{wnids.index(key.split('/')[1])}" for key in reversed(keys)]
        lists[part].write_text("\n".join(lines) + "\n")
    config = run_config(
        tmp_path,
        data=DataConfig(root=str(root), catalog=str(tmp_path / "catalog"), train_list=str(lists["train"])),
        split=SplitConfig(seed_set_size=3, val_list=str(lists["val"]), test_list=str(lists["test"])),
    )
    found = check(config)
    val, seed_set = found.draw()
    pool = np.setdiff1d(found.pool_rows, val)
    for rows, part in ((pool, "train"), (val, "val"), (found.test_rows, "test")):
        assert set(found.catalog.keys(rows).to_pylist()) == set(chosen[part])
    assert np.bincount(found.catalog.labels()[pool]).tolist() == [8, 4, 2]
    assert set(seed_set) <= set(pool)


def test_the_test_list_of_imagenet_lt_labels_the_flat_validation_folder_of_imagenet(tmp_path: Path) -> None:
    """Its numbers are positions in the sorted names of the classes, which a user of alray has to declare."""
    names = [f"train/{wnid}/{at}.png" for wnid in ("n03", "n01", "n02") for at in range(4)]
    tests = [f"val/ILSVRC2012_val_0000000{at}.png" for at in range(3)]
    written(tmp_path / "imagenet", *names, *tests)
    listed = tmp_path / "ImageNet_LT_test.txt"
    listed.write_text("".join(f"{key} {number}\n" for key, number in zip(tests, (2, 0, 1), strict=True)))
    data = {"root": str(tmp_path / "imagenet"), "catalog": str(tmp_path / "catalog"), "test_labels": str(listed)}
    found = check(
        run_config(tmp_path, data=DataConfig(**data, test_label_numbers="sorted"), split=SplitConfig(seed_set_size=3))
    )
    assert found.catalog.classes == ("n01", "n02", "n03")
    of = dict(zip(found.catalog.keys().to_pylist(), found.catalog.labels().tolist(), strict=True))
    assert [of[key] for key in tests] == [2, 0, 1]
    assert set(found.catalog.keys(found.test_rows).to_pylist()) == set(tests)


def test_a_list_that_names_an_image_twice_or_not_of_the_source_is_not_taken_silently() -> None:
    keys, rows = pa.array(["train/a/1.png", "train/a/2.png", "train/b/1.png"]), [0, 2]
    assert from_list(keys, ["train/b/1.png 1", "train/a/1.png 0", "train/b/1.png 1"], "list").rows.tolist() == rows
    for lines in ([], ["train/c/1.png 0"], ["train/a/1.png 0", "train/a/1.png 1"]):
        with pytest.raises(SplitError, match="list"):
            from_list(keys, lines, "list")
