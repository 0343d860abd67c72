"""What a sweep varies: reading it from the command line, making trials of it, the table of a running sweep."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from ray import cloudpickle, tune

from alray import RunConfig, replace, store, tasks
from alray.cluster import Cluster, ClusterError
from alray.config import ConfigError, DataConfig, ResourceConfig, SplitConfig, TrainConfig, TransformConfig
from alray.config.command_line import sweep_options
from alray.lease import LEASE
from alray.models.backbone import create
from alray.process import describe
from alray.report.runs import load
from alray.rounds import run
from alray.store import Store
from alray.sweep import SpaceError, SweepConfig, SweepError, expand, parse_space, plan, sweep
from alray.sweep.capacity import beside_workers, concurrency, reserved
from alray.sweep.checks import check_scheduler
from alray.sweep.ledger import SWEEP, Ledger
from alray.sweep.sharing import groups
from alray.sweep.table import Screen, lines
from alray.sweep.tuner import _Watch

LINEAR = {"train.mode": "linear"}


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
    assert parse_space(["top_k=choice([3, 5], 7)"])["top_k"].categories == [[3, 5], 7]
    assert parse_space(["seed=0..2,7"]) == {"seed": [0, 1, 2, 7]}
    assert parse_space(["model.mean=[0.5, 0.4],[0.3, 0.2]"]) == {"model.mean": [[0.5, 0.4], [0.3, 0.2]]}
    assert parse_space(['strategy_options={"a": 1, "b": 2}']) == {"strategy_options": [{"a": 1, "b": 2}]}
    assert len(expand(parse_space(["train.lr=randn()"]), 3)) == 3


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
        (["train.lr=uniform(2, 1)"], "train.lr: expected a domain from low to high, got 2 to 1"),
        (["budget=randint(5, 5)"], "budget: expected a domain from low to high"),
        (["budget=randint(0.5, 3)"], "budget: expected whole numbers"),
        (["train.lr=uniform(a, b)"], "expected numbers"),
        (["train.lr=quniform(0, 1, 0)"], "division by zero"),
        (["train.lr=qrandn(0, 1, 0)"], "train.lr"),
        (["strategy=choice()"], "at least one value to choose from"),
        (["strategy=random,"], "strategy: a value is missing"),
        (["seed=0..30000000"], "seed: expected at most 100,000 trials, got 30,000,001"),
    ],
)
def test_fields_that_cannot_be_read_are_refused(texts: list[str], says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        parse_space(texts)


def test_every_combination_once_whole_seeds_first() -> None:
    trials = expand({"strategy": ["a", "b"], "budget": 5, "seed": range(2)})
    assert trials == [{"strategy": s, "budget": 5, "seed": seed} for seed in (0, 1) for s in ("a", "b")]
    assert list(trials[0]) == ["strategy", "budget", "seed"]
    assert expand({"x": tune.grid_search([1, 2])}) == [{"x": 1}, {"x": 2}]


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


def test_draws_of_a_field_are_its_own() -> None:
    first = expand({"a": tune.uniform(0, 1), "b": tune.uniform(0, 1)}, 2)
    turned = expand({"b": tune.uniform(0, 1), "c": [1], "a": tune.uniform(0, 1)}, 3)
    assert [t["a"] for t in turned[:2]] == [t["a"] for t in first]
    assert [t["b"] for t in turned[:2]] == [t["b"] for t in first]
    assert first[0]["a"] != first[0]["b"]
    assert len(expand({"a": tune.uniform(0, 1)}, 2, seed=2**32)) == 2


@pytest.mark.parametrize(
    ("space", "trials"),
    [
        ({"seed": np.arange(2)}, [{"seed": 0}, {"seed": 1}]),
        ({"seed": [np.int64(1)]}, [{"seed": 1}]),
        ({"data.root": Path("/a")}, [{"data.root": "/a"}]),
        ({"train": {"lr": [0.1, 1], "epochs": 2}}, [{"train.lr": lr, "train.epochs": 2} for lr in (0.1, 1)]),
        ({"train": {"lr": tune.choice([0.1])}}, [{"train.lr": 0.1}]),
        ({"strategy_options": {"a": 1}}, [{"strategy_options": {"a": 1}}]),
        ({"strategy_options": {"a": [1, 2]}}, [{"strategy_options.a": 1}, {"strategy_options.a": 2}]),
    ],
)
def test_what_python_gives_becomes_plain_values_by_path(space: dict, trials: list) -> None:
    assert json.loads(json.dumps(expand(space))) == trials


@pytest.mark.parametrize(
    ("space", "samples", "says"),
    [
        ({}, 1, "nothing to vary"),
        ({"a": []}, 1, "empty list"),
        ({"a": lambda: 1}, 1, "got a function"),
        ({"a": {1, 2}}, 1, "a: expected a list of values or a domain of Tune's, got set"),
        ({"a": [tune.uniform(0, 1), 3]}, 1, "a: .* got a search space inside of one"),
        ({"a": [float("nan")]}, 1, "a: expected finite numbers"),
        ({"a": tune.sample_from(lambda: 1)}, 1, "a: expected a domain that draws by a seed"),
        ({"a": tune.uniform(2, 1)}, 1, "a: expected a domain from low to high"),
        ({"a": {"b": 1}, "a.b": 2}, 1, "a.b: given twice"),
        ({"a": tune.uniform(0, 1)}, 0, "samples: expected 1 or more, got 0"),
        ({"a": range(1000), "b": range(1000)}, 1, "a x b: expected at most 100,000 trials, got 1,000,000"),
        ({"a": range(10), "b": tune.uniform(0, 1)}, 10**9, "10 combinations x 1,000,000,000 samples: expected at most"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(space: dict, samples: int, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        expand(space, samples)


def test_a_plan_checks_every_setting_before_anything_runs(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for space, says in (
        ({"strategy": ["random", "bass"], "seed": [0, 1]}, r"trial strategy=bass, seed=0: .*bass"),
        ({"labels.oracle": ["files"]}, "a sweep replays the labels of the source"),
        ({"budget": [3, 500]}, "budget=500: budget: the pool has 45 images, but the run needs 506"),
        ({"train.learning_rate": [1]}, "no such field"),
        ({"name": ["a", "b"]}, "name: a sweep names the directories"),
        ({"resources.select_shards": [1, 2]}, "are the same run"),
    ):
        with pytest.raises((SweepError, SpaceError, ConfigError), match=says):
            plan(config, space)
    assert not (tmp_path / "runs" / "s-sweep").exists()  # of a refused plan nothing is left but the catalog
    with pytest.raises(SweepError, match=r"split.val_size=30, seed=0: val: expected at least 30 images"):
        plan(replace(config, {"split.val_how": "balanced"}), {"split.val_size": [0, 30], "seed": [0]})


def test_what_runs_share_lies_where_single_runs_have_it(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    planned = plan(replace(config, {"run_dir": "mine"}), {"strategy": ["margin"]})
    assert any("run_dir mine: not used" in note for note in planned.notes)
    result = run(planned.trials[0].config, quiet=True)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["catalogs", "features", "s-sweep", "started"]
    moved = shutil.move(tmp_path / "runs" / "s-sweep", tmp_path / "moved")  # alone: features stay behind
    assert load(f"{moved}/{result.dir.rsplit('/', 1)[1]}").files.round(0).selected_by().columns
    shutil.move(tmp_path / "moved", tmp_path / "runs" / "s-sweep")
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")  # with everything
    there = load(str(tmp_path / "elsewhere" / "s-sweep" / result.dir.rsplit("/", 1)[1]))
    assert there.files.round(0).selected_by().uri.startswith(str(tmp_path / "elsewhere" / "features"))


def test_trials_are_the_runs_a_single_run_would_be(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    planned = plan(config, {"strategy": ["random", "base"], "seed": [0, 1]})
    assert planned.dir == f"{config.root}/s-sweep"
    assert len(planned.settings) == 2  # one of each strategy: seeds share it
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


class Enough(Exception):  # noqa: N818
    """Ends a run midway."""


def some_rounds(config: RunConfig, rounds: int) -> None:
    def stop(metrics: dict) -> None:
        if metrics["round"] == rounds - 1:
            raise Enough

    with pytest.raises(Enough):
        run(config, quiet=True, on_round=stop)


def test_the_ledger_knows_what_is_finished_or_was_stopped(tmp_path: Path) -> None:
    config, space = replace(config_of(tmp_path), {"rounds": 3}), {"strategy": ["random", "margin", "base", "k_center"]}
    about, rule = {"name": "s", "scheduler": "asha"}, "asha after 2"
    planned = plan(config, space)
    ledger = Ledger(planned, about, rule)
    assert [entry["status"] for entry in ledger.entries] == ["waiting"] * 4
    run(planned.trials[0].config, quiet=True)
    some_rounds(planned.trials[1].config, 2)
    some_rounds(planned.trials[3].config, 1)
    ledger.set(1, status="stopped")
    ledger.set(2, status="failed", error="why")
    ledger.set(3, status="running")
    ledger.settle()
    assert [(e["status"], e["rounds"]) for e in ledger.entries[2:]] == [("failed", 0), ("waiting", 1)]
    found = [("finished", 3, ""), ("stopped", 2, ""), ("waiting", 0, ""), ("waiting", 1, "")]
    again = Ledger(planned, about, rule)
    assert [(e["status"], e["rounds"], e["error"]) for e in again.entries] == found
    assert [e["accuracy"] is None for e in again.entries] == [False, False, True, False]
    other = Ledger(plan(config, {"strategy": ["entropy"]}), {"name": "s", "scheduler": "none"})  # forgets nothing
    assert [e["status"] for e in other.entries] == ["waiting"]
    saved = other.store.read_json(SWEEP)
    assert [e["status"] for e in saved["trials"]] == ["waiting", "finished", "stopped", "waiting"]  # those with a run
    assert saved["scheduler"] == "asha"  # what stopped some of the folder's trials
    assert [e["status"] for e in Ledger(planned, about, rule).entries] == [status for status, _, _ in found]


@pytest.mark.parametrize(("rule", "rounds"), [("", 3), ("median after 2", 3), ("asha after 2", 4)])
def test_a_stopped_trial_goes_on_under_another_rule(rule: str, rounds: int, tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), {"rounds": 3})
    planned = plan(config, {"seed": [0]})
    ledger = Ledger(planned, {"name": "s"}, "asha after 2")
    some_rounds(planned.trials[0].config, 2)
    ledger.set(0, status="stopped")
    again = Ledger(plan(replace(config, {"rounds": rounds}), {"seed": [0]}), {"name": "s"}, rule)
    assert [(e["status"], e["rounds"]) for e in again.entries] == [("waiting", 2)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheduler": "asha", "grace_rounds": 0}, "grace_rounds\n.* greater than or equal to 1"),
        ({"grace_rounds": -1}, "grace_rounds"),
        ({"retries": -2}, "retries\n.* greater than or equal to 0"),
        ({"cpus_per_trial": float("nan")}, "cpus_per_trial\n.* finite number"),
        ({"cpus_per_trial": 0.01}, "cpus_per_trial\n.* greater than or equal to 0.1"),
        ({"gpus_per_trial": 1.5}, "gpus_per_trial: expected a fraction of one or whole GPUs"),
        ({"samples": 0}, "samples"),
        ({"scheduler": "hyperband"}, "'none', 'asha' or 'median'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SweepConfig(**options)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"split.val_size": [6, 0]}, r"split.val_size=0 \(split.val_size 0"),
        ({"split.val_size": [6, 7]}, "expected one split.val_size in all of them, got 6, 7"),
        ({"budget": [3, 4]}, "expected one budget in all of them, got 3, 4"),
        ({"split": {"seed_set_size": [6, 7]}}, "expected one split.seed_set_size"),
        ({"data.imbalance.factor": [0.5, 1.0]}, "expected one data.imbalance"),
        ({"strategy": ["random", "margin"], "seed": [0, 1]}, ""),
    ],
)
def test_a_scheduler_compares_like_with_like(space: dict, says: str, tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), {"split.val_size": 6, "data.imbalance.kind": "step"})
    planned = plan(config, space)
    check_scheduler(SweepConfig(), planned)
    if not says:
        check_scheduler(SweepConfig(scheduler="asha"), planned)
        return
    with pytest.raises(SweepError, match=says):
        check_scheduler(SweepConfig(scheduler="asha"), planned)


def test_a_sweep_says_once_what_its_runs_say(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    arrays = dict(np.load(config.data.root))
    names = [name for name in arrays if name in ("is_test", "test", "is_val")]
    np.savez(config.data.root, **{name: array for name, array in arrays.items() if name not in names})
    notes = plan(config, {"strategy": ["margin", "random"]}).notes
    assert len([note for note in notes if note.startswith("There are no test images")]) == 1


def test_two_sweeps_do_not_work_in_one_folder(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder = Store(str(tmp_path / "runs" / "s-sweep"), sums="")
    with multiprocessing.get_context("spawn").Manager() as other:  # any process that lives
        Store(folder.uri, "").write_json(LEASE, {**describe(other._process.pid), "token": "x"})
        with pytest.raises(SweepError, match="another sweep is at work there"):
            sweep(config, {"seed": [0]}, quiet=True)
    run(plan(config, {"seed": [0]}).trials[0].config, quiet=True)
    result = sweep(config, {"seed": [0]}, quiet=True)  # its owner died; and nothing is left to do
    assert [trial["status"] for trial in result.trials] == ["finished"]
    assert not folder.has(LEASE)


def images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(36):
        path = root / ("test" if number % 4 == 0 else "train") / str(number % 3) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)


def image_config(folder: Path) -> RunConfig:
    images(folder / "images")
    return replace(
        config_of(folder),
        {
            "data": DataConfig(root=str(folder / "images")),
            "model.backbone": "test_resnet",
            "transform": TransformConfig(size=8, train="eval", resize=0),
            "train.mode": "finetune",
            "split.val_size": 3,
        },
    )


PT4AL = {"strategy": "pt4al", "pretext.task": "rotation", "data.imbalance": {"kind": "step", "factor": 0.5}}


@pytest.mark.parametrize(
    ("changes", "space", "tasks"),
    [
        (PT4AL, {"seed": [0, 1, 2]}, 3),  # every seed draws a pool, a pretext task is trained on the pool
        (PT4AL, {"data.imbalance.factor": [0.4, 0.5, 0.9]}, 3),
        ({**PT4AL, "data.imbalance": {}}, {"seed": [0, 1], "budget": [3, 4]}, 1),
        ({**PT4AL, "data.imbalance": {}}, {"strategy": ["pt4al", "random"], "pretext.epochs": [1, 2]}, 2),
        ({}, {"seed": [0, 1]}, 0),
    ],
)
def test_pretext_tasks_are_shared_by_runs_on_the_same_pool(
    changes: dict, space: dict, tasks: int, tmp_path: Path
) -> None:
    planned = plan(replace(image_config(tmp_path), changes), space)
    assert len(groups(planned, range(len(planned.settings)))) == tasks


def test_a_model_is_built_and_its_weights_are_read_once_for_all_settings(tmp_path: Path) -> None:
    fresh, weights = image_config(tmp_path), tmp_path / "weights.pth"
    torch.save(create(fresh.model, 3, 7, 8).backbone.state_dict(), weights)
    config = replace(fresh, {"model.checkpoint": str(weights)})
    before, built = store._content.cache_info(), tasks.built.cache_info()
    planned = plan(config, {"strategy": ["random", "margin"], "budget": [3, 4], "seed": [0, 1]})
    assert len(planned.settings) == 4
    assert store._content.cache_info().misses == before.misses + 1
    assert tasks.built.cache_info().misses == built.misses + 1
    mark = store.weights_fingerprint(str(weights))
    torch.save(create(fresh.model, 3, 8, 8).backbone.state_dict(), weights)
    assert store.weights_fingerprint(str(weights)) != mark


@pytest.mark.parametrize(
    ("changes", "options", "has", "expected"),
    [
        ({"strategy": "vaal"}, {}, Cluster(6, 0, False), 2),  # VAAL's networks are trained inside a trial: 1 + 2 CPUs
        ({}, {"gpus_per_trial": 0.5}, Cluster(64, 1, True), 1),  # no fraction for a driver that fine-tunes
        ({}, {"gpus_per_trial": 1}, Cluster(64, 4, True), 4),
        (LINEAR, {"gpus_per_trial": 0.5}, Cluster(64, 1, True), 2),
        ({**LINEAR, "strategy": "vaal"}, {}, Cluster(6, 0, False), 2),
        ({**LINEAR, "strategy": "vaal"}, {"gpus_per_trial": 0.5}, Cluster(64, 3, True), 2),
    ],
)
def test_workers_of_a_trial_find_their_cpus_and_gpus(
    changes: dict, options: dict, has: Cluster, expected: int, tmp_path: Path
) -> None:
    config = image_config(tmp_path)
    torch.save(create(config.model, 3, 7, 8).backbone.state_dict(), tmp_path / "weights.pth")
    planned = plan(replace(config, {"model.checkpoint": str(tmp_path / "weights.pth"), **changes}), {"seed": [0]})
    assert concurrency(planned, SweepConfig(**options), has, math.inf) == expected


def test_what_tune_pickles_holds_no_pool(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    planned = plan(config, {"budget": [3, 4], "seed": [0, 1]})
    watch = _Watch(
        Ledger(planned, {"name": "s"}),
        tuple(t.run for t in planned.trials),
        frozenset(),
        Screen(),
        True,
    )
    assert len(cloudpickle.dumps(watch)) < 6_000


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
    assert concurrency(planned, SweepConfig(**options), Cluster(cpus, 0, False), cores) == expected


def test_a_cluster_without_room_for_one_trial_is_refused(tmp_path: Path) -> None:
    planned = plan(config_of(tmp_path), {"seed": [0]})
    for options in (SweepConfig(cpus_per_trial=5), SweepConfig(gpus_per_trial=0.5)):
        with pytest.raises(ClusterError, match="4 CPUs and 0 GPUs, a trial needs"):
            concurrency(planned, options, Cluster(4, 0, False), 4)


@pytest.mark.parametrize(
    ("cpus", "for_workers", "for_driver"), [(4, 2, 1), (3, 2, 1), (2.5, 2, 0.5), (2, 2, 0), (1.5, 2, 1), (1, 0, 1)]
)
def test_a_trials_driver_takes_what_its_workers_leave(
    cpus: float, for_workers: int, for_driver: float, tmp_path: Path
) -> None:
    """A single run that fine-tunes works on a cluster of two CPUs, and so does a sweep of such runs."""
    planned = plan(image_config(tmp_path) if for_workers else config_of(tmp_path), {"seed": [0]})
    has = Cluster(cpus, 0, False)
    options, said = beside_workers(planned, SweepConfig(), has)
    assert options.cpus_per_trial == for_driver
    assert bool(said) == (for_driver < 1)
    bundles = reserved(planned.settings[0], options, use_gpu=False)
    assert sum(bundle["CPU"] for bundle in bundles) == for_workers + for_driver
    if for_workers + for_driver <= cpus:
        assert concurrency(planned, options, has, math.inf) >= 1
    else:
        with pytest.raises(ClusterError, match="a trial needs"):
            concurrency(planned, options, has, math.inf)


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


def test_a_table_fits_its_terminal() -> None:
    fields = {"data.root": "/a/very/long/path/features.npz", "train.lr": 0.1, "train.weight_decay": 1e-5}
    entries = [
        {"fields": {**fields, "budget": n}, "status": "running", "rounds": 1, "of": 5, "accuracy": 0.5}
        for n in range(60)
    ]
    text = lines("x", entries, 3, 60, 20)
    assert len(text) == 20
    assert max(map(len, text)) == 60
    assert text[-1] == "and 43 more settings"


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


def test_the_help_of_a_job_shows_the_options_of_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sweep_options(RunConfig(), ["strategy=random", "seed=0..9"], ["--help-all"])
    said = capsys.readouterr().out
    assert "--sweep [TEXT ...]" in said
    assert "strategy=random seed=0..9" in " ".join(said.split())
    for field in SweepConfig.model_fields:
        assert f"--sweep.{field.replace('_', '-')}" in said
    assert "--train.lr" in said
