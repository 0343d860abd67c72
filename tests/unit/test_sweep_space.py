"""What a sweep varies: reading it from the command line, making trials of it, the table of a running sweep."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from ray import tune

from alray import RunConfig, replace
from alray.cluster import Cluster, ClusterError
from alray.config import ConfigError, DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.rounds import run
from alray.sweep import Options, SpaceError, SweepError, expand, parse_space, plan
from alray.sweep.table import Screen, lines
from alray.sweep.trials import SWEEP, Ledger
from alray.sweep.tuner import concurrency


def config_of(folder: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    features = (rng.normal(size=(60, 4)) + label[:, None]).astype(np.float32)
    np.savez(folder / "e.npz", features=features, label=label, is_test=np.arange(60) % 4 == 0)
    return RunConfig(
        name="s",
        root=str(folder / "runs"),
        rounds=2,
        budget=3,
        top_k=(2,),
        data=DataConfig(root=str(folder / "e.npz")),
        split=SplitConfig(seed_set_size=6),
        train=TrainConfig(mode="linear", epochs=2),
        resources=ResourceConfig(select_workers="process"),
    )


def test_fields_are_read_from_text() -> None:
    texts = [
        "strategy=random, margin",
        "seed=0..3",
        "train.lr=0.1,1",
        "top_k=[[3], [3, 5]]",
        "train.class_weights=true",
    ]
    assert parse_space(texts) == {
        "strategy": ["random", "margin"],
        "seed": [0, 1, 2, 3],
        "train.lr": [0.1, 1],
        "top_k": [[3], [3, 5]],
        "train.class_weights": [True],
    }
    domain = parse_space(["train.lr=loguniform(1e-3, 1)"])["train.lr"]
    assert all(1e-3 <= value <= 1 for value in domain.sample(size=50))
    assert set(parse_space(["strategy=choice(a, b)"])["strategy"].sample(size=50)) == {"a", "b"}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["strategy"], "expected path=values"),
        (["seed="], "expected path=values"),
        (["seed=1", "seed=2"], "seed: given twice"),
        (["seed=4..2"], "from low to high"),
        (["train.lr=gauss(0, 1)"], r"train.lr: expected one of Tune's uniform.*got gauss"),
        (["train.lr=loguniform(1)"], r"train.lr: loguniform\(1\)"),
        (["top_k=[3"], "JSON list"),
    ],
)
def test_fields_that_cannot_be_read_are_refused(texts: list[str], says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        parse_space(texts)


def test_every_combination_once_whole_seeds_first() -> None:
    trials = expand({"strategy": ["a", "b"], "budget": 5, "seed": range(2)})
    assert trials == [{"strategy": s, "budget": 5, "seed": seed} for seed in (0, 1) for s in ("a", "b")]
    assert list(trials[0]) == ["strategy", "budget", "seed"]
    assert expand({"x": tune.grid_search([1, 2, 2])}) == [{"x": 1}, {"x": 2}]


def test_draws_are_shared_by_the_whole_grid_and_repeat() -> None:
    space = {"strategy": ["a", "b"], "seed": [0, 1], "train.lr": tune.loguniform(0.01, 1)}
    trials = expand(space, samples=3)
    assert len(trials) == 12
    for strategy in ("a", "b"):
        for seed in (0, 1):
            mine = [t["train.lr"] for t in trials if (t["strategy"], t["seed"]) == (strategy, seed)]
            assert mine == [t["train.lr"] for t in trials[:3]]
    assert len({t["train.lr"] for t in trials}) == 3
    assert expand(space, samples=3) == trials
    assert expand(space, samples=3, seed=1) != trials


def test_spaces_without_a_trial_are_refused() -> None:
    for space, says in (({}, "nothing to vary"), ({"a": []}, "empty list"), ({"a": lambda: 1}, "got a function")):
        with pytest.raises(SpaceError, match=says):
            expand(space)
    with pytest.raises(SpaceError, match="at most 100,000 trials"):
        expand({"a": range(1000), "b": range(1000)})


def test_a_plan_checks_every_setting_before_anything_runs(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for space, says in (
        ({"strategy": ["random", "bass"], "seed": [0, 1]}, r"trial strategy=bass, seed=0: .*bass"),
        ({"budget": [3, 500]}, "budget=500: budget: the pool has 45 images, but the run needs 506"),
        ({"train.learning_rate": [1]}, "no such field"),
        ({"name": ["a", "b"]}, "name: a sweep names the directories"),
        ({"resources.select_shards": [1, 2]}, "are the same run"),
    ):
        with pytest.raises((SweepError, ConfigError), match=says):
            plan(config, space)
    assert not list(tmp_path.rglob("round_*"))


def test_trials_are_the_runs_a_single_run_would_be(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    planned = plan(config, {"strategy": ["random", "base"], "seed": [0, 1]})
    assert planned.dir == f"{config.root}/s-sweep"
    assert len(planned.prepared) == 2  # one of each strategy: seeds share it
    trial = planned.trials[3]
    assert not trial.finished
    single = run(replace(config, {"strategy": "base", "seed": 1}), quiet=True)
    assert trial.run.rsplit("/", 1)[1] == single.dir.rsplit("/", 1)[1]
    assert run(trial.config, quiet=True).dir == trial.run
    assert trial.finished


def test_shorter_runs_are_the_first_rounds_of_longer_ones(tmp_path: Path) -> None:
    planned = plan(config_of(tmp_path), {"rounds": [1, 3, 2], "seed": [0]})
    assert [trial.config.rounds for trial in planned.trials] == [3]
    assert len(planned.notes) == 2


def test_the_ledger_knows_what_is_finished_or_was_stopped(tmp_path: Path) -> None:
    planned = plan(config_of(tmp_path), {"strategy": ["random", "margin", "base"]})
    ledger = Ledger(planned, {"strategy": []}, {"name": "s"})
    assert [entry["status"] for entry in ledger.entries] == ["waiting"] * 3
    run(planned.trials[0].config, quiet=True)
    ledger.set(0, status="running")
    ledger.set(1, rounds=1)
    ledger.set(1, status="stopped")
    ledger.set(2, status="failed", error="why")
    again = Ledger(planned, {"strategy": []}, {"name": "s"})
    assert [(e["status"], e["rounds"], e["error"]) for e in again.entries] == [
        ("finished", 2, ""), ("stopped", 1, ""), ("waiting", 0, ""),
    ]  # fmt: skip
    assert again.entries[0]["accuracy"] is not None
    assert again.store.has(SWEEP)
    fewer = Ledger(plan(config_of(tmp_path), {"strategy": ["base", "margin"]}), {"strategy": []}, {"name": "s"})
    assert [entry["status"] for entry in fewer.entries] == ["waiting", "stopped"]


@pytest.mark.parametrize(
    ("changes", "options", "cpus", "cores", "expected"),
    [
        ({}, {}, 3, 2, 2),  # no more than this machine has cores, whatever the logical CPUs
        ({}, {"cpus_per_trial": 0.5}, 3, 2, 4),
        ({}, {}, 64, math.inf, 64),
        ({}, {"max_concurrent": 5}, 64, math.inf, 5),
        ({"resources.select_workers": "ray", "resources.select_shards": 3}, {}, 9, math.inf, 2),
        ({"resources.select_workers": "ray", "resources.select_shards": 3}, {"cpus_per_trial": 0.1}, 7, 1, 2),
        ({}, {"cpus_per_trial": 4}, 4, 2, 1),
    ],
)
def test_trials_at_a_time_leave_room_for_their_workers(
    changes: dict, options: dict, cpus: float, cores: float, expected: int, tmp_path: Path
) -> None:
    planned = plan(replace(config_of(tmp_path), changes), {"seed": [0]})
    assert concurrency(planned, Options(**options), Cluster(cpus, 0, False), cores) == expected


def test_a_cluster_without_room_for_one_trial_is_refused(tmp_path: Path) -> None:
    planned = plan(config_of(tmp_path), {"seed": [0]})
    for options in (Options(cpus_per_trial=5), Options(gpus_per_trial=0.5)):
        with pytest.raises(ClusterError, match="4 CPUs and 0 GPUs, a trial needs"):
            concurrency(planned, options, Cluster(4, 0, False), 4)


def test_the_table_says_how_far_every_setting_is() -> None:
    entries = [
        {
            "fields": {"strategy": "base", "seed": seed},
            "status": status,
            "rounds": rounds,
            "of": 4,
            "accuracy": accuracy,
        }
        for seed, status, rounds, accuracy in ((0, "finished", 4, 0.5), (1, "failed", 1, 0.7), (2, "waiting", 0, None))
    ]
    text = lines("x", entries, 3700)
    assert text[0] == "sweep x · 3 trials: 1 finished, 1 waiting, 1 failed · 1:01:40"
    assert text[1].split() == ["strategy", "finished", "rounds", "top-1", "%"]
    assert text[2].split() == ["base", "1/3", "5/12", "60.0", "1", "failed"]
    many = [{**entries[0], "fields": {"budget": n, "seed": 0}} for n in range(100)]
    assert lines("x", many, 0)[-1] == "and 61 more settings"


def test_a_log_gets_a_table_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    screen = Screen(out)
    entries = [{"fields": {"seed": 0}, "status": "waiting", "rounds": 0, "of": 1}]
    screen.show("x", entries)
    first = out.getvalue()
    assert "1 waiting" in first
    screen.show("x", entries)
    assert out.getvalue() == first
    screen.show("x", entries, now=True)
    assert out.getvalue().count("sweep x") == 2
    assert "\x1b" not in out.getvalue()
