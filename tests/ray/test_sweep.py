"""Sweeps on a local cluster: the trials are the runs a loop would make, paired by seed, on one extraction."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from ray import tune

from alray import RunConfig, replace
from alray.config import (
    DataConfig,
    FeatureConfig,
    ModelConfig,
    PretextConfig,
    ResourceConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
)
from alray.models.backbone import create
from alray.report import report
from alray.rounds import run
from alray.sweep import SweepConfig, SweepError, sweep
from alray.sweep.tuner import _hide_gpus
from alray.tracking import TrackingError

pytestmark = pytest.mark.usefixtures("ray_session")


def config_of(folder: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    label = np.arange(300) % 3
    features = (rng.normal(size=(300, 6)) + 1.5 * rng.normal(size=(3, 6))[label]).astype(np.float32)
    np.savez(folder / "e.npz", features=features, label=label, is_test=np.arange(300) % 4 == 0)
    return RunConfig(
        name="s",
        root=str(folder / "runs"),
        rounds=3,
        budget=5,
        top_k=(2,),
        data=DataConfig(root=str(folder / "e.npz")),
        split=SplitConfig(val_size=30, seed_set_size=6),
        train=TrainConfig(mode="linear", epochs=4, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )


def facts(run_dir: Path) -> dict[str, Any]:
    """What a run is: splits, picks, labels, metrics but for seconds."""
    found: dict[str, Any] = {"splits": pq.read_table(run_dir / "splits.parquet").to_pydict()}
    for folder in sorted(run_dir.glob("round_*")):
        metrics = json.loads((folder / "metrics.json").read_text())
        del metrics["seconds"]
        found[folder.name] = metrics
        if (folder / "picks.parquet").exists():
            found[f"{folder.name} picks"] = pq.read_table(folder / "picks.parquet").to_pydict()
    return found


def times(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("s-*/round_*/**/*")}


def test_trials_are_what_a_loop_makes_and_paired_by_seed(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    strategies, seeds = ("random", "margin", "base"), (0, 1)
    result = sweep(config, {"strategy": strategies, "seed": seeds}, SweepConfig(cpus_per_trial=0.5), quiet=True)
    assert [trial["status"] for trial in result.trials] == ["finished"] * 6
    by_trial = {(t["fields"]["strategy"], t["fields"]["seed"]): Path(result.dir, t["run"]) for t in result.trials}
    for strategy, seed in product(strategies, seeds):
        single = run(replace(config, {"strategy": strategy, "seed": seed}), quiet=True)
        assert facts(by_trial[strategy, seed]) == facts(Path(single.dir)), (strategy, seed)
    for seed in seeds:
        first, *others = [facts(by_trial[strategy, seed]) for strategy in strategies]
        assert all(other["splits"] == first["splits"] for other in others)
        # same seed set, same initial weights: the first model of a seed is the same for every strategy
        assert all(other["round_00"]["test"] == first["round_00"]["test"] for other in others)
    assert facts(by_trial["random", 0])["splits"] != facts(by_trial["random", 1])["splits"]
    assert len(list(Path(config.root).glob("features/*/manifest.json"))) == 1
    events = list(Path(result.dir).glob("tune/*/*/events.out.tfevents.*"))
    assert len(events) == 6
    assert f"{len(seeds)} seeds" in report([result.dir])


def test_finished_trials_are_not_run_again_and_new_ones_are_added(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    first = sweep(config, {"strategy": ["random"], "seed": [0, 1]}, quiet=True)
    before = times(first.dir)
    sweep(config, {"strategy": ["random"], "seed": [0, 1]}, quiet=True)
    second = sweep(config, {"strategy": ["random", "margin"], "seed": [0, 1]}, quiet=True)
    after = times(second.dir)
    assert {path: after[path] for path in before} == before
    assert len(after) == 2 * len(before)
    assert [trial["status"] for trial in second.trials] == ["finished"] * 4


def test_a_trial_that_ends_by_a_rule_is_finished_and_goes_on_under_a_higher_limit(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), {"rounds": 9, "stop.labels": 13})
    first = sweep(config, {"seed": [0]}, quiet=True)
    assert [(one["status"], one["rounds"], one["of"]) for one in first.trials] == [("finished", 3, 9)]
    before = times(first.dir)
    sweep(config, {"seed": [0]}, quiet=True)
    assert times(first.dir) == before
    more = sweep(replace(config, {"stop.labels": 18}), {"seed": [0]}, quiet=True)
    assert [(one["status"], one["rounds"]) for one in more.trials] == [("finished", 4)]


def test_mlflow_is_told_every_trial_and_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config, uri = config_of(tmp_path), (tmp_path / "mlruns").as_uri()
    result = sweep(config, {"strategy": ["random", "margin"], "seed": [0]}, SweepConfig(mlflow=uri), quiet=True)
    client = mlflow.MlflowClient(uri)
    told = client.search_runs([client.get_experiment_by_name(config.name).experiment_id])
    assert {run.data.params["trial/strategy"] for run in told} == {"random", "margin"}
    assert {run.info.status for run in told} == {"FINISHED"}
    by_strategy = {trial["fields"]["strategy"]: Path(result.dir, trial["run"]) for trial in result.trials}
    for run_ in told:
        history = client.get_metric_history(run_.info.run_id, "test_top1")
        expected = facts(by_strategy[run_.data.params["trial/strategy"]])
        assert [point.value for point in history] == [expected[f"round_{n:02d}"]["test"]["top1"] for n in range(3)]


def test_tracking_that_cannot_work_is_refused_before_any_trial(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    config = config_of(tmp_path)
    for uri, says in (("http://127.0.0.1:9", "no server answers"), ("nonsense://x", "expected a folder or")):
        with pytest.raises(TrackingError, match=f"mlflow: {says}"):
            sweep(config, {"seed": [0]}, SweepConfig(mlflow=uri), quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_failed_trial_is_listed_and_ends_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    space = {"train.lr": [1.0, 1e30], "seed": [0, 1]}
    result = sweep(config, space, quiet=True)
    assert sorted(trial["status"] for trial in result.trials) == ["failed", "failed", "finished", "finished"]
    for trial in result.failed:
        assert trial["fields"]["train.lr"] == 1e30
        assert "head: expected finite weights" in trial["error"]
    saved = json.loads(Path(result.dir, "sweep.json").read_text())["trials"]
    assert [trial["status"] for trial in saved] == [trial["status"] for trial in result.trials]
    again = sweep(config, space, quiet=True)  # tried again, and failed again
    assert len(again.failed) == 2


def test_a_scheduler_stops_bad_trials_for_good(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), {"rounds": 6})
    space = {"train.lr": [1.0, 1e-9, 1e-8, 2e-9], "seed": [0]}
    options = SweepConfig(scheduler="asha", grace_rounds=1, max_concurrent=1)
    result = sweep(config, space, options, quiet=True)
    statuses = {trial["fields"]["train.lr"]: trial["status"] for trial in result.trials}
    assert statuses[1.0] == "finished"
    stopped = [trial for trial in result.trials if trial["status"] == "stopped"]
    assert stopped
    assert all(0 < trial["rounds"] < 6 for trial in stopped)
    before = times(result.dir)
    again = sweep(config, space, options, quiet=True)
    assert [trial["status"] for trial in again.trials] == [trial["status"] for trial in result.trials]
    assert times(again.dir) == before
    with pytest.raises(SweepError, match=r"split.val_size=0"):
        sweep(replace(config, {"split.val_size": 0}), space, options)

    # one more trial, compared with all that ran before: those are told, not run
    wider = {"train.lr": [*space["train.lr"], 3e-9], "seed": [0]}
    third = sweep(config, wider, options, quiet=True)
    assert [trial["status"] for trial in third.trials[:4]] == [trial["status"] for trial in result.trials]
    assert third.trials[4]["status"] == "stopped"
    assert {path: times(third.dir)[path] for path in before} == before
    told = sorted(Path(third.dir, "tune").iterdir())[-1]
    rounds = [len((path / "result.json").read_text().splitlines()) for path in sorted(told.glob("0*"))]
    assert rounds[:4] == [trial["rounds"] for trial in result.trials]


class Recoveries(tune.Callback):
    """Counts how often a trial was started again."""

    count = 0

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.count += 1


@pytest.mark.slow
def test_the_median_stops_and_failures_are_tried_again(tmp_path: Path) -> None:
    space = {"train.lr": [1.0, 0.9, 0.8, 1e-9, 1e30], "seed": [0]}
    options, seen = SweepConfig(scheduler="median", grace_rounds=1, max_concurrent=1, retries=1), Recoveries()
    result = sweep(config_of(tmp_path), space, options, callbacks=[seen], quiet=True)
    assert [trial["status"] for trial in result.trials] == ["finished"] * 3 + ["stopped", "failed"]
    assert seen.count == 1


@pytest.mark.slow
def test_selection_actors_inside_trials(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), {"resources.select_workers": "ray", "resources.select_shards": 2})
    result = sweep(config, {"strategy": ["margin"], "seed": [0, 1]}, quiet=True)
    assert [trial["status"] for trial in result.trials] == ["finished"] * 2
    single = run(replace(config, {"strategy": "margin", "seed": 1, "resources.select_workers": "process"}), quiet=True)
    assert facts(Path(result.dir, result.trials[1]["run"])) == facts(Path(single.dir))


def test_a_trial_without_a_gpu_sees_none_and_hides_none_from_its_workers() -> None:
    def visible() -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def trial() -> tuple[str | None, str | None]:
        _hide_gpus()
        return visible(), ray.get(ray.remote(num_cpus=0)(visible).remote())

    before = ray.get(ray.remote(num_cpus=0)(visible).remote())
    alone = ray.remote(num_cpus=0, max_calls=1)(trial)  # its process ends with it: nobody else inherits what it set
    assert ray.get(alone.remote()) == ("", before)


def write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(90):
        pixels = rng.integers(0, 200, (12, 12, 3))
        pixels[..., number % 3] += 55
        path = root / ("test" if number % 5 == 0 else "train") / str(number % 3) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def image_config(folder: Path) -> RunConfig:
    model = ModelConfig(backbone="test_resnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    torch.save(create(model, 3, 7, 8).backbone.state_dict(), folder / "weights.pth")
    return replace(
        config_of(folder),
        {
            "data": DataConfig(root=str(folder / "images")),
            "model": model.model_copy(update={"checkpoint": str(folder / "weights.pth")}),
            "transform": TransformConfig(size=8, train="eval", resize=0),
            "features": FeatureConfig(part_rows=30),
        },
    )


def test_images_are_decoded_once_for_all_trials_and_seeds(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    config = image_config(tmp_path)
    strategies: Sequence[str] = ("random", "margin")
    alone = SweepConfig(max_concurrent=1)  # every worker process imports torch and timm
    first = sweep(config, {"strategy": strategies, "budget": [5], "seed": [0]}, alone, quiet=True)
    shutil.rmtree(tmp_path / "images")  # from here on, a decoded image is an error
    second = sweep(config, {"strategy": strategies, "budget": [5, 6], "seed": [0, 1, 2]}, alone, quiet=True)
    assert [trial["status"] for trial in first.trials] == ["finished"] * 2
    assert [trial["status"] for trial in second.trials] == ["finished"] * 12, [t["error"] for t in second.trials]
    assert len(list(Path(config.root).glob("features/*/manifest.json"))) == 1


@pytest.mark.slow
def test_fine_tuned_trials_share_a_pretext_task_and_one_that_diverges_ends_nothing_else(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    config = replace(
        image_config(tmp_path),
        {
            "model.checkpoint": "",
            "train": TrainConfig(epochs=1, lr=0.01, patience=0),
            "pretext": PretextConfig(task="rotation", epochs=1, batch_size=16),
            "strategy": "pt4al",
            "split.val_size": 0,
            "rounds": 2,
        },
    )
    result = sweep(config, {"pretext.lr": [0.01, 1e30], "seed": [0]}, quiet=True)
    assert [trial["status"] for trial in result.trials] == ["finished", "failed"], [t["error"] for t in result.trials]
    assert "before the trials: TrainError: training diverged" in result.trials[1]["error"]
    assert not list(Path(result.dir).glob(f"{result.trials[1]['run']}/round_*"))
    assert len(list(Path(config.root).glob("pretext/rotation-*/train.json"))) == 1
