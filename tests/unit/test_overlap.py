"""labels.overlap: while a batch is out, the next one is chosen with the model that there is, and given out as well."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import alray
from alray.cli import main
from alray.config import (
    DataConfig,
    FeatureConfig,
    LabelConfig,
    ModelConfig,
    ResourceConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
    replace,
)
from alray.explain.briefly import Briefly
from alray.explain.why import why
from alray.export.labels import labeled
from alray.features.table import FeatureTable
from alray.labeling import receive, state
from alray.labeling.desk import Waiting
from alray.labeling.standing import lines
from alray.labeling.turns import past_turn, turn_at, turns_of
from alray.prepare import prepare
from alray.progress import Stages
from alray.query import Query
from alray.report import report
from alray.rounds import run
from alray.rundir import RunDir, RunError
from alray.selection.registry import STRATEGIES
from alray.verify import verify

N, NAMES, BUDGET, ROUNDS = 90, ("ant", "bee", "cat"), 7, 4
RUNNABLE = [name for name in STRATEGIES if name != "vaal"]  # VAAL trains on images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("overlap"), np.random.default_rng(0)
    label = np.arange(N) % 3
    features = (2 * np.eye(3, 6)[label] + rng.standard_normal((N, 6))).astype(np.float32)
    np.savez(root / "pool.npz", features=features, label=label, pretext_loss=rng.random(N))
    return root


def config_of(data, **changes):
    config = RunConfig(
        name="overlap", root=str(data / "runs"), rounds=ROUNDS, budget=BUDGET, top_k=(), strategy="margin",
        data=DataConfig(root=str(data / "pool.npz"), classes=NAMES), split=SplitConfig(seed_set_size=9, test_share=0.1),
        model=ModelConfig(), train=TrainConfig(mode="linear", epochs=3, lr=1.0), features=FeatureConfig(keep="all"),
        labels=LabelConfig(overlap=1), resources=ResourceConfig(select_workers="process", select_shards=2),
    )  # fmt: skip
    return replace(config, changes)


def picked(folder, number):
    return folder.round(number).picks()["row"].to_numpy()


FAST = ["balancing", "badge", "cluster_margin"]
CASES = [pytest.param(name, {}, {}, marks=[] if name in FAST else pytest.mark.slow) for name in RUNNABLE] + [
    ("base", {"quota": "fill"}, {}),
    ("k_center", {}, {"subset_labeled": 12, "subset_unlabeled": 20}),
    ("pt4al", {"batches": 20}, {}),  # a batch has fewer rows than the budget, so that rounds look at later batches
]


@pytest.mark.parametrize(("name", "options", "more"), CASES)
def test_a_run_picks_what_select_picks_with_the_same_model_and_pending_rows(name, options, more, data):
    folder = RunDir(run(config_of(data, strategy=name, strategy_options=options, **more), quiet=True).dir)
    catalog = folder.catalog()
    labels = catalog.labels()
    known, everyone = folder.seed()[0], np.union1d(folder.pool(), folder.seed()[0])
    pending = np.empty(0, np.int64)
    for batch in range(ROUNDS - 1):
        model = max(0, batch - 1)
        turn, _ = past_turn(folder, batch)
        assert (turn.model, turn.pending.tolist()) == (model, sorted(pending))
        table = FeatureTable.open(next((Path(folder.uri).parent / "features").iterdir()).as_posix())
        head = folder.round(model).head()
        expected = alray.select(
            name, BUDGET, strategy_options=options, embedding=table.read(np.arange(N), "embedding"),
            head=(head.weight, head.bias), labels=labels, pretext_loss=catalog.pretext_loss(),
            discriminator=np.zeros(N), labeled=known, pending=pending,
            exclude=np.setdiff1d(np.arange(N), everyone), seed=0, round=batch, num_shards=3, **more,
        )  # fmt: skip
        np.testing.assert_array_equal(picked(folder, batch), expected.rows)
        if batch:
            known = np.union1d(known, pending)
        pending = picked(folder, batch)
    bought = [row for number in range(ROUNDS - 1) for row in picked(folder, number).tolist()]
    assert len(set(bought)) == len(bought) == (ROUNDS - 1) * BUDGET
    metrics = [folder.round(number).metrics() for number in range(ROUNDS)]
    assert [one["labels"] for one in metrics] == [9 + number * BUDGET for number in range(ROUNDS)]
    assert [one["labels_bought"] for one in metrics] == [number * BUDGET for number in range(ROUNDS)]
    assert verify(folder.uri).problems == []
    briefly, keys = Briefly(folder), catalog.keys().to_pylist()
    for number in range(ROUNDS - 1):
        rows = picked(folder, number)
        assert all(f"pick {at + 1} of 7" in text or "partitioned" in name
                   for at, text in enumerate(briefly.of(number, rows.tolist()).values()))  # fmt: skip
        for row in rows[:2]:
            said = " ".join(why(folder, keys[row]))
            assert f"It is labeled since round {number}, which picked it" in said
            ahead = f" with the model of round {number - 1}" if number else ""
            assert f"Round {number}, by {name}{ahead}: picked." in said
            assert "nan" not in said
    waits = why(folder, keys[picked(folder, 1)[0]], 2)
    assert waits[-1].endswith("it was picked before, and its label was awaited.")


def test_a_run_that_goes_on_with_more_rounds_has_two_batches_out_again(data, tmp_path):
    config = config_of(data, root=str(tmp_path), rounds=3)
    run(config, quiet=True)
    folder = RunDir(run(replace(config, {"rounds": 6}), quiet=True).dir)
    turns = [past_turn(folder, batch)[0] for batch in range(5)]
    assert [turn.model for turn in turns] == [0, 0, 2, 2, 3]
    assert [len(turn.pending) for turn in turns] == [0, 7, 0, 7, 7]
    assert [one["labels"] for one in map(RunDir.round, [folder] * 6, range(6)) for one in [one.metrics()]] == [
        9 + number * BUDGET for number in range(6)
    ]
    assert len(set(np.concatenate([picked(folder, batch) for batch in range(5)]).tolist())) == 5 * BUDGET
    assert "Round 3, by margin with the model of round 2: picked." in " ".join(why(folder, key(folder, 3, 0)))


def key(folder, batch, at):
    return folder.round(batch).picks()["key"][at].as_py()


@pytest.fixture
def waiting(data, tmp_path):
    """A run that waits for the labels of its first two batches, and its configuration."""
    with np.load(data / "pool.npz") as arrays:
        np.savez(tmp_path / "pool.npz", features=arrays["features"], label=np.full(N, -1))
    config = config_of(
        data, root=str(tmp_path / "runs"), **{
            "data.root": str(tmp_path / "pool.npz"), "labels.oracle": "files", "labels.wait": "exit",
            "split.test_share": 0.0,
        }
    )  # fmt: skip
    wait(config)
    (path,) = (tmp_path / "runs").glob("overlap-*")
    folder = RunDir(str(path))
    give(folder, tmp_path, keys_of(folder, 0))
    wait(config)
    return config, folder


def wait(config):
    with pytest.raises(Waiting) as stopped:
        run(config, quiet=True)
    return str(stopped.value)


def keys_of(folder, at):
    return state.open_batches(folder)[at].requests["key"].to_pylist()


def give(folder, tmp_path, keys, status=""):
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [(key, "" if status else NAMES[int(key) % 3], status) for key in keys]
        csv.writer(file).writerows([("key", "label", "status"), *rows])
    return receive.receive(folder, [str(tmp_path / "labels.csv")]).open


def test_two_batches_are_out_and_answers_to_either_are_taken(waiting, tmp_path):
    config, folder = waiting
    assert "waiting for labels, round 0: 0 of 7 answers are there. round 1 is out, too" in wait(config)
    first, second = keys_of(folder, 0), keys_of(folder, 1)
    assert not set(first) & set(second)
    assert folder.round(0).metrics()["labels"] == 9
    assert give(folder, tmp_path, second[:3]) == {"round 0": (7, 7), "round 1": (4, 7)}
    said = lines(folder)
    assert "waiting for labels, round 0: 0 of 7 images have an answer" in said
    assert "waiting for labels, round 1: 3 of 7 images have an answer" in said
    assert "2 batches are out; round 0 is needed first" in said
    assert said[-1] == f"next: alray label {folder.uri} FILE"
    assert "0 of 7 answers are there" in wait(config)
    assert give(folder, tmp_path, [*first, second[3]]) == {"round 0": (0, 7), "round 1": (3, 7)}
    assert "2 batches are out; the run can go on without round 1" in lines(folder)
    assert "round 0: all 7 images have an answer, which the run takes when it goes on" in lines(folder)
    assert lines(folder)[-1].startswith("next: alray run ")
    assert "waiting for labels, round 1: 4 of 7 answers are there. round 2 is out, too" in wait(config)
    assert {one.key: one.origin for one in labeled(folder, folder.catalog())}[second[0]] == "round 1"


def test_answers_to_the_later_batch_count_when_it_is_closed(waiting, tmp_path):
    config, folder = waiting
    first, second = keys_of(folder, 0), keys_of(folder, 1)
    give(folder, tmp_path, second[:5])
    give(folder, tmp_path, second[5:6], "skip")
    give(folder, tmp_path, second[6:], "unusable")
    give(folder, tmp_path, first)
    wait(config)
    metrics = folder.round(1).metrics()
    assert (metrics["labels"], metrics["labels_bought"], metrics["unlabeled"]) == (16, 7, N - 16)
    assert folder.round(1).labels()[0].tolist() == [int(key) for key in second[:5]]  # asked for, answered before
    assert keys_of(folder, 0) == folder.round(2).picks()["key"].to_pylist()
    assert past_turn(folder, 2)[0].pending.tolist() == sorted(map(int, second))
    give(folder, tmp_path, keys_of(folder, 0))
    assert run(config, quiet=True).rounds[-1]["labels"] == 9 + 7 + 5 + 7
    assert folder.round(2).metrics()["unlabeled"] == N - 21 - 1
    report([folder.uri], str(tmp_path / "report"))


def test_only_the_batch_that_is_needed_first_is_closed(waiting, tmp_path, capsys):
    config, folder = waiting
    give(folder, tmp_path, keys_of(folder, 0)[:4])
    main(["label", folder.uri, "--close"])
    assert "round 0: the batch is closed; 3 of its 7 images got no answer" in capsys.readouterr().out
    with pytest.raises(RunError, match="the batch round 0 is closed already"):
        receive.close(folder)
    assert lines(folder)[-1].startswith("next: alray run ")
    assert "waiting for labels, round 1" in wait(config)
    assert folder.round(1).metrics()["labels"] == 13


def test_why_tells_of_both_batches_that_are_out(waiting):
    folder = waiting[1]
    assert "Round 0, by margin: picked, and its label is awaited." in why(folder, key(folder, 0, 0))
    said = why(folder, key(folder, 1, 0))
    assert "Round 1, by margin with the model of round 0: picked, and its label is awaited." in said
    assert "Its label is awaited: people are asked for it with round 1." in said
    assert "It has no label so far." not in said
    assert any(line.startswith("Round 0, by margin: not picked.") for line in said)


def test_the_batch_of_a_waiting_run_is_given_to_select_as_pending(waiting, tmp_path):
    folder = waiting[1]
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((N, 4)))
    files = folder.batch_files("round 0").at("batch.csv")
    main([
        "select", "k_center", "5", "--embedding", str(tmp_path / "x.npy"), "--catalog", folder.catalog().uri,
        "--pending", files, "--out", str(tmp_path / "picks.csv"),
    ])  # fmt: skip
    with (tmp_path / "picks.csv").open() as file:
        rows = [int(line["row"]) for line in csv.DictReader(file)]
    out = [int(key) for key in keys_of(folder, 0)]
    assert rows == alray.select("k_center", 5, embedding=str(tmp_path / "x.npy"), labeled=out).rows.tolist()


def test_an_overlap_is_part_of_the_identity_and_more_than_one_is_refused(data):
    from alray.config import ConfigError, fingerprint, identity

    marks = {fingerprint(identity(config_of(data, **{"labels.overlap": n}), "d", "w")) for n in (0, 1)}
    assert len(marks) == 2
    with pytest.raises(ConfigError, match=r"labels\.overlap: expected one of 0, 1, got 2"):
        config_of(data, **{"labels.overlap": 2})


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("k_center", {}, {"subset_labeled": 12, "subset_unlabeled": 20}),
        ("k_center", {}, {"subset_labeled": 4, "subset_unlabeled": 20, "budget": 20}),
        ("pt4al", {"batches": 20, "rest": "carry"}, {}),
        ("pt4al", {"batches": 30}, {}),
    ],
)
def test_a_round_embeds_all_that_its_second_selection_reads_before_the_first_has_chosen(name, options, more, data):
    """Where a network is trained, each round embeds only the rows that are read."""
    config = config_of(data, strategy=name, strategy_options=options, **more)
    folder = RunDir(run(config, quiet=True).dir)
    ready, stages = prepare(config), Stages(quiet=True)
    query = Query(ready, stages)
    early = query.rows_to_embed(ready.pool, turns_of(folder, config, 0), stages)
    late = query.rows_to_embed(ready.pool, [turn_at(folder, 0, 1)], stages)
    assert set(late.tolist()) <= set(early.tolist())
    assert len(early) < len(ready.pool)
