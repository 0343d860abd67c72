"""PT4AL's order, strides and options against their slow twin; k-means against brute force."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference

import alray
from alray import RunConfig, replace
from alray.cold_start import SeedSet, notes
from alray.config import ConfigError
from alray.data.catalog import CatalogError
from alray.features.arrays import cut
from alray.keyed import stream_key
from alray.models.head import Head
from alray.prepare import prepare
from alray.rounds import run
from alray.selection.kernels.centroids import centroids_of, order_of, ordered, sample_size
from alray.selection.kernels.distance import Space
from alray.selection.protocol import Context, SelectionError, Strategy
from alray.selection.registry import build
from alray.selection.strategies.k_means import KMeans
from alray.selection.strategies.pt4al import Pt4al
from alray.store import Store

SHARDS = [1, 2, 7, 30]
N, C, K = 97, 4, 9
OPTIONS: list[dict[str, Any]] = [
    {},
    {"uncertainty": "entropy"},
    {"normalise_logits": True},
    {"class_balanced": True},
    {"class_balanced": True, "uncertainty": "entropy"},
    {"cold_start": "middle"},
    {"rest": "carry"},
    {"batches": 7},
    {"batches": 97},
]


def made(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pretext losses, logits, labeled rows."""
    rng = np.random.default_rng(len(kind))
    loss, logits = rng.exponential(size=N), 3 * rng.normal(size=(N, C))
    if kind == "tied":
        loss, logits = rng.integers(0, 4, N).astype(float), rng.integers(-1, 2, (N, C)).astype(float)
    return loss.astype(np.float32), logits.astype(np.float32), rng.permutation(N)[:20]


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_twin(options: dict[str, Any], kind: str, shards: int) -> None:
    loss, logits, labeled = made(kind)
    for round in (0, 1, 4, 6):
        for budget in (1, K, 40):  # the last: more than a batch has
            picks = alray.select(
                "pt4al", budget, strategy_options=options, pretext_loss=loss, logits=logits, labeled=labeled,
                round=round, num_shards=shards,
            )  # fmt: skip
            rows, scores = reference.pt4al(loss, logits, np.arange(N), budget, round, labeled, **options)
            np.testing.assert_array_equal(picks.rows, rows)
            np.testing.assert_allclose(picks.scores, scores, rtol=1e-12)


def test_ten_batches_of_the_whole_pool_whatever_is_labeled() -> None:
    """Batches are cut from all rows, so that a round's batch does not move as labels are bought."""
    loss = -np.arange(100.0)
    logits = np.random.default_rng(0).normal(size=(100, 3))
    first = alray.select("pt4al", 5, pretext_loss=loss, round=0)  # no model yet, no logits needed
    assert first.rows.tolist() == [0, 2, 4, 6, 8]
    third = alray.select("pt4al", 5, pretext_loss=loss, logits=logits, labeled=first.rows, round=3)
    assert set(third.rows) <= set(range(30, 40))


def brought(tmp_path: Path) -> RunConfig:
    """A run on embeddings that come with pretext losses."""
    rng = np.random.default_rng(2)
    label, features = np.arange(90) % 3, rng.normal(size=(90, 4)).astype(np.float32)
    features[:, 0] += label
    source, row = tmp_path / "e.npz", np.arange(90)
    test = row % 9 == row // 9 % 3  # of all classes
    np.savez(source, features=features, label=label, is_test=test, pretext_loss=rng.exponential(size=90))
    return RunConfig(
        root=str(tmp_path / "runs"),
        rounds=3,
        budget=6,
        strategy="pt4al",
        strategy_options={"batches": 5},
        top_k=(),
        data={"root": str(source)},
        split={"seed_set_size": 6, "seed_set_how": "pretext", "val_size": 10},
        train={"mode": "linear", "epochs": 5},
        resources={"select_workers": "process"},
    )  # type: ignore[arg-type]


def test_a_run_on_embeddings_orders_them_by_the_losses_that_came_along(tmp_path: Path) -> None:
    config = brought(tmp_path)
    out = Store(run(config, quiet=True).dir)
    arrays = np.load(config.data.root)
    held_out = out.read_table("splits.parquet")["row"].to_numpy()
    pool = np.setdiff1d(np.flatnonzero(~arrays["is_test"]), held_out)
    loss, features = arrays["pretext_loss"][pool], arrays["features"][pool]
    labeled = out.read_table("seed_set.parquet")["row"].to_numpy()
    assert labeled.tolist() == reference.pt4al(loss, np.zeros((len(pool), 3)), pool, 6, 0, [], batches=5)[0].tolist()
    for number in range(2):
        head = Head.load(out.child(f"round_{number:02d}", "checkpoint"))
        logits = reference.logits_of(features, head.weight, head.bias)
        expected = reference.pt4al(loss, logits, pool, 6, number + 1, labeled, batches=5)[0]
        picks = out.child(f"round_{number:02d}").read_table("picks.parquet")["row"].to_numpy()
        np.testing.assert_array_equal(picks, expected)
        labeled = np.append(labeled, picks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretext.task": "rotation"}, "a task needs images, but the source has only embeddings"),
        (
            {"pretext.task": "rotation", "strategy": "margin", "split.seed_set_how": "random"},
            "expected task none and as_backbone False, got task rotation, as_backbone False",
        ),
        ({"pretext.as_backbone": True}, "expected task none and as_backbone False, got task none, as_backbone True"),
        ({"strategy": "vaal"}, "discriminator, pretext_loss is measured on images"),
    ],
)
def test_what_cannot_be_measured_of_embeddings_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(replace(brought(tmp_path), changes), quiet=True)


def test_losses_that_came_after_the_catalog_are_told_from_none(tmp_path: Path) -> None:
    config = brought(tmp_path)
    arrays = dict(np.load(config.data.root))
    np.savez(config.data.root, **{name: array for name, array in arrays.items() if name != "pretext_loss"})
    with pytest.raises(ConfigError, match=r"only embeddings; expected images \(or, for pt4al, an array pretext_loss\)"):
        prepare(config)
    np.savez(config.data.root, **arrays)
    with pytest.raises(CatalogError, match=r"the embeddings or the pretext losses are others"):
        prepare(config)
    shutil.rmtree(tmp_path / "runs" / "catalogs")
    assert prepare(config).needs_pretext


@pytest.mark.parametrize(
    ("changes", "strategy", "expected"),
    [
        ({}, None, Pt4al(batches=5)),
        ({"split.seed_set_options": {"cold_start": "middle"}}, None, Pt4al(batches=5, cold_start="middle")),
        ({"split.seed_set_options": {"batches": 7}, "strategy": "random"}, None, Pt4al(batches=7)),
        ({"strategy": "random"}, None, Pt4al()),
        ({}, Pt4al(batches=4, cold_start="middle"), Pt4al(batches=4, cold_start="middle")),
        ({"split.seed_set_options": {"rest": "carry"}}, Pt4al(batches=4), Pt4al(batches=4, rest="carry")),
        ({"split.seed_set_how": "k_means"}, None, KMeans()),
        ({"split.seed_set_how": "k_means", "split.seed_set_options": {"metric": "cosine"}}, None,
         KMeans(metric="cosine")),
        ({"split.seed_set_how": "k_means", "strategy": "k_means", "strategy_options": {"metric": "cosine"}}, None,
         KMeans(metric="cosine")),
        ({"split.seed_set_how": "k_means"}, KMeans(iterations=3), KMeans(iterations=3)),
        ({"split.seed_set_how": "random"}, None, None),
    ],
    ids=str,
)  # fmt: skip
def test_what_chooses_the_seed_set(
    changes: dict[str, Any], strategy: Strategy | None, expected: Strategy | None, tmp_path: Path
) -> None:
    assert prepare(replace(brought(tmp_path), changes), strategy=strategy).seed_set.chooser == expected


@pytest.mark.parametrize("strategy", ["random", "pt4al"])
def test_any_strategy_may_start_from_the_middle(strategy: str, tmp_path: Path) -> None:
    changes = {"strategy": strategy, "rounds": 1, "split.seed_set_options": {"cold_start": "middle", "batches": 5}}
    config = replace(brought(tmp_path), changes)
    out = Store(run(config, quiet=True).dir)
    ready = prepare(config)
    pool = np.setdiff1d(ready.pool_rows, out.read_table("splits.parquet")["row"].to_numpy())
    loss = np.load(config.data.root)["pretext_loss"][pool]
    expected = reference.pt4al(loss, np.zeros((len(pool), 3)), pool, 6, 0, [], batches=5, cold_start="middle")[0]
    assert out.read_table("seed_set.parquet")["row"].to_pylist() == expected.tolist()


@pytest.mark.parametrize("strategy", [None, Pt4al(batches=5)], ids=["by name", "object"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split.seed_set_options": {"metric": "l2"}}, r"split.seed_set_options: .*unknown option 'metric'"),
        ({"split.seed_set_options": {"batches": 0}}, "split.seed_set_options: pt4al: batches: expected an integer"),
        ({"split.seed_set_how": "k_means", "split.seed_set_options": {"batches": 2}},
         "split.seed_set_options: strategy k_means: unknown option 'batches'; expected one of metric, iterations"),
        ({"split.seed_set_how": "random", "split.seed_set_options": {"batches": 2}},
         "split.seed_set_options: expected none for split.seed_set_how=random, got batches"),
        ({"split.seed_set_options": {"batches": 71}}, "pt4al: batches: expected at most 70, .* got 71"),
    ],
)  # fmt: skip
def test_bad_options_of_a_seed_set_are_refused_early(
    changes: dict[str, Any], message: str, strategy: Strategy | None, tmp_path: Path
) -> None:
    with pytest.raises(SelectionError, match=message):
        prepare(replace(brought(tmp_path), changes), strategy=strategy)
    assert not list(tmp_path.glob("runs/run-*"))


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, []),
        ({"strategy_options": {"batches": 12}},
         ["pt4al: the seed set of 6 is more than a batch has, 5 (70 images in 12 batches)",
          "pt4al: the budget of 6 is more than a batch has, 5 (70 images in 12 batches)"]),
        ({"strategy_options": {"batches": 12}, "rounds": 1}, ["pt4al: the seed set of 6 is more"]),
        ({"split.seed_set_how": "random"},
         ["pt4al: the first query, after a seed set by random, is round 0: strides of the hardest batch"]),
        ({"split.seed_set_options": {"batches": 4}}, ["pt4al: the seed set is of one of 4 batches, the queries of 5"]),
        ({"strategy": "margin"}, []),
    ],
    ids=str,
)  # fmt: skip
def test_what_may_not_be_meant_is_noted(changes: dict[str, Any], starts: list[str], tmp_path: Path) -> None:
    said = prepare(replace(brought(tmp_path), changes)).notes.splitlines()
    assert len(said) == len(starts)
    for line, start in zip(said, starts, strict=True):
        assert line.startswith(start)


def test_as_many_centroids_as_take_hours_are_noted() -> None:
    config = RunConfig(split={"seed_set_size": 30_000, "seed_set_how": "k_means"})  # type: ignore[arg-type]
    assert "30,000 centroids" in notes(config, Pt4al(), SeedSet.of(config, Pt4al()), 10**6)[0]


def test_losses_are_sorted_as_numbers() -> None:
    """1e-05 is a small number, though the text "1e-05" comes after "0.36"."""
    picks = alray.select(Pt4al(batches=2), 2, pretext_loss=np.array([1e-05, 0.36, 0.2, 3e-04]))
    assert picks.rows.tolist() == [1, 2]


@pytest.mark.data
def test_published_rotation_losses(shared_data: Path) -> None:
    """The hardest 5,000 of CIFAR-10 are those with a loss of at least 0.348; the published batches are not those."""
    published = np.load(shared_data / "reference/pt4al_cifar10_rotation_loss.npz")
    loss = next(published[name] for name in published.files if published[name].dtype.kind == "f")
    picks = alray.select("pt4al", 5000, pretext_loss=loss, num_shards=3)
    assert np.array_equal(np.sort(picks.rows), np.sort(np.lexsort((np.arange(50_000), -loss))[:5000]))
    least = loss[picks.rows].min()
    assert round(float(least), 3) == 0.348 and np.delete(loss, picks.rows).max() <= least
    official = next(published[name] for name in published.files if len(np.unique(published[name])) == 10)
    assert (official[picks.rows] == official.min()).sum() == 921  # sorted as text


def test_the_window_holds_what_the_round_looks_at() -> None:
    """Logits of other rows do not count: a run need not compute them."""
    loss, logits, labeled = made("random")
    available = np.setdiff1d(np.arange(N), labeled)
    for options in OPTIONS:
        strategy = Pt4al(**options)
        for round in (1, 4, 6):
            context = Context(round=round, pretext=(np.arange(N), loss.astype(float)))
            window = strategy.window(context, available, K)
            blind = np.full_like(logits, 7.0)
            blind[window] = logits[window]
            arguments = {"pretext_loss": loss, "labeled": labeled, "round": round}
            assert alray.select(strategy, K, logits=blind, **arguments) == alray.select(
                strategy, K, logits=logits, **arguments
            )
            assert len(window) < N or options.get("rest") == "carry"


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"batches": 0}, {}, "pt4al: batches: expected an integer of at least 1, got 0"),
        ({"rest": "keep"}, {}, "pt4al: rest: expected one of drop, carry, got 'keep'"),
        ({"normalise_logits": 1}, {}, "pt4al: normalise_logits: expected true or false, got 1"),
        ({"batches": N + 1}, {}, f"pt4al: batches: expected at most {N}, one row of the pool in each, got {N + 1}"),
        ({}, {"round": 10}, "pt4al: round 10, but there are 10 batches"),
        ({}, {"logits": None, "round": 1}, "pt4al needs logits"),
        ({}, {"pretext_loss": None}, "pt4al needs pretext_loss"),
    ],
)
def test_bad_input(options: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    loss, logits, _ = made("random")
    with pytest.raises(SelectionError, match=message):
        alray.select("pt4al", 3, strategy_options=options, **({"pretext_loss": loss, "logits": logits} | arguments))


@pytest.mark.parametrize("text", ["true", "True"])
def test_flags_may_come_from_a_command_line(text: str) -> None:
    assert build("pt4al", {"class_balanced": text, "batches": 4}) == Pt4al(class_balanced=True, batches=4)


def test_a_loss_that_is_no_number_is_named() -> None:
    loss, logits, labeled = made("random")
    loss[labeled[0]] = np.nan
    with pytest.raises(SelectionError, match=f"pretext_loss.*row {labeled[0]}"):
        alray.select("pt4al", 3, pretext_loss=loss, logits=logits, labeled=labeled)


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["random", "tied", "offset"])
def test_k_means_takes_the_rows_nearest_to_its_centroids(kind: str, metric: str, shards: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 6)) + 4 * rng.integers(0, 3, (150, 1))
    if kind == "tied":
        x = rng.integers(-1, 2, (150, 6)).astype(float)
    x = (x + 300 * (kind == "offset")).astype(np.float32)
    picks = alray.select(KMeans(metric=metric), 12, embedding=x, num_shards=shards)  # type: ignore[arg-type]
    seen = Space.around(metric, x).canonical(x)  # type: ignore[arg-type]
    sample = seen[order_of(np.arange(150), 0, "k_means/0")].astype(np.float32)
    centroids = centroids_of(sample, 12, 20, stream_key(0, "k_means/0"))
    if metric == "cosine":
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    rows, scores = reference.nearest_to(centroids, seen, np.arange(150))
    if kind == "random":  # elsewhere rows are as near as others up to float64's rounding, which the twin has another of
        np.testing.assert_array_equal(picks.rows, rows)
    np.testing.assert_allclose(picks.scores, scores, rtol=1e-6, atol=1e-9)
    alone = alray.select(KMeans(metric=metric), 12, embedding=x, num_shards=1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(picks.rows, alone.rows)
    np.testing.assert_array_equal(picks.scores, alone.scores)


def test_the_sample_of_k_means_has_a_limit() -> None:
    """What FAISS advises, as much as 2 GiB hold, and never fewer rows than centroids."""
    assert sample_size(1_000, 512) == 256_000
    assert sample_size(30_000, 2048) == 2**31 // (4 * 2048)
    assert sample_size(6_721, 2048) / 6_721 > 39 > sample_size(6_722, 2048) / 6_722 - 0.01
    assert sample_size(200_000, 2048) == 400_000


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_driver_holds_the_sample_once_beside_its_parts(metric: str) -> None:
    """In float32: no copy in float64, none that is only sorted."""
    x = np.random.default_rng(0).normal(size=(40_000, 128)).astype(np.float32)
    rows = np.random.default_rng(1).permutation(len(x))
    parts = [(rows[part], x[rows[part]]) for part in cut(len(x), 3)]
    tracemalloc.start()
    sample = ordered(parts, metric, 0, "s")  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.8 * x.nbytes
    expected = Space(metric, np.zeros(128)).canonical(x)[order_of(np.arange(len(x)), 0, "s")]  # type: ignore[arg-type]
    assert sample.dtype == np.float32
    np.testing.assert_array_equal(sample, expected.astype(np.float32))


@pytest.mark.parametrize("shards", SHARDS)
def test_a_sample_that_is_drawn_does_not_depend_on_the_cut(shards: int) -> None:
    x = np.random.default_rng(0).normal(size=(2_000, 3)).astype(np.float16)
    picks = alray.select(KMeans(iterations=2), 2, embedding=x, num_shards=shards)  # 512 of 2,000 rows
    assert picks == alray.select(KMeans(iterations=2), 2, embedding=x)


def test_k_means_finds_planted_clusters() -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(0, 8, 400)
    x = (20 * rng.normal(size=(8, 5)))[which] + rng.normal(size=(400, 5))
    picks = alray.select("k_means", 8, embedding=x)
    assert len(set(which[picks.rows])) >= 7  # k-means finds a local optimum
