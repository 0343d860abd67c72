"""A run stops at a limit of labels or money, at a target accuracy, or where more labels bring nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alray import RunConfig, replace
from alray.config import ConfigError, DataConfig, LabelConfig, ResourceConfig, SplitConfig, StopConfig, TrainConfig
from alray.data.oracle import Answers, Requests
from alray.labeling.standing import lines
from alray.report import report
from alray.rounds import run
from alray.rundir import RunDir, RunError
from alray.stop import Standing, Stop, ended
from alray.sweep.ledger import Ledger
from alray.sweep.trials import plan


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """200 rows in three overlapping clusters; a round buys 20 labels, after a seed set of 10 and 20 for validation."""
    rng = np.random.default_rng(0)
    label = np.arange(200) % 3
    features = (1.5 * np.eye(3, 8)[label] + rng.standard_normal((200, 8))).astype(np.float32)
    np.savez(tmp_path / "pool.npz", features=features, label=label)
    return RunConfig(
        name="stops", root=str(tmp_path / "runs"), rounds=6, budget=20, strategy="margin", top_k=(),
        data=DataConfig(root=str(tmp_path / "pool.npz")), split=SplitConfig(seed_set_size=10, val_size=20),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0, patience=0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip


def labels_of(result) -> list[int]:
    return [one["labels"] for one in result.rounds]


def picks_of(result) -> list[list[int]]:
    return [step.rows.tolist() for step in RunDir(result.dir).bought()]


def test_a_limit_of_labels_cuts_the_last_batch_and_is_told_in_words_and_numbers(config, capsys):
    result = run(replace(config, {"stop.labels": 55}))
    assert labels_of(result) == [10, 30, 50, 55]
    assert result.rounds[-1]["stopped"] == {
        "rule": "stop.labels", "limit": 55, "value": 55, "by_accuracy": False,
        "words": "the labeled set has 55 labels, and stop.labels allows 55",
    }  # fmt: skip
    assert not any("stopped" in one for one in result.rounds[:-1])
    said = capsys.readouterr().out
    assert "the batch is cut from 20 to 5" in said
    assert "the run ends · the labeled set has 55 labels" in said
    folder = RunDir(result.dir)
    assert ended(folder)
    assert lines(folder)[-1].startswith("the run is finished early: the labeled set has 55 labels")
    report([result.dir])
    assert "stop.labels allows 55" in Path(result.dir, "report.html").read_text()
    assert "stopped" not in Path(result.dir, "metrics.csv").read_text()


def test_a_stopped_run_is_only_read_again_and_goes_on_under_a_higher_limit(config):
    first = run(replace(config, {"stop.labels": 50}), quiet=True)
    times = {path: path.stat().st_mtime_ns for path in Path(first.dir).rglob("*")}
    seen: list[int] = []
    again = run(replace(config, {"stop.labels": 50}), quiet=True, on_round=lambda one: seen.append(one["labels"]))
    assert seen == labels_of(again) == [10, 30, 50]
    assert times == {path: path.stat().st_mtime_ns for path in Path(first.dir).rglob("*")}
    more = run(replace(config, {"stop.labels": 90}), quiet=True)
    assert more.dir == first.dir
    assert labels_of(more) == [10, 30, 50, 70, 90]
    assert [one.get("stopped", {}).get("limit") for one in more.rounds] == [None] * 4 + [90]
    undisturbed = run(replace(config, {"stop.labels": 90, "run_dir": f"{first.dir}-other"}), quiet=True)
    assert picks_of(undisturbed) == picks_of(more)
    assert labels_of(run(replace(config, {"rounds": 3}), quiet=True)) == [10, 30, 50]
    assert labels_of(run(config, quiet=True)) == [10, 30, 50, 70, 90, 110]


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"stop.money": 6.0}, [10, 30, 40]),  # of 60 labels, 20 are for validation
        ({"stop.money": 5.95}, [10, 30, 39]),
        ({"stop.money": 6.0, "split.val_size": 0}, [10, 30, 50, 60]),
        ({"stop.money": 3.0}, [10]),
        ({"stop.money": 5.0, "split.val_how": "labeled"}, [10, 30, 50]),  # the source gave the validation set
    ],
)
def test_money_counts_every_label_that_was_asked_for(config, changes, labels):
    result = run(replace(config, {"labels.cost": 0.1, **changes}), quiet=True)
    assert labels_of(result) == labels
    assert result.rounds[-1]["stopped"]["value"] <= changes["stop.money"] + 1e-9
    said = "\n".join(lines(RunDir(result.dir)))
    assert f"at 0.1 each, {result.rounds[-1]['stopped']['value']:.2f}" in said


class Knows:
    """Gives the true labels."""

    def answer(self, requests: Requests) -> Answers:
        return Answers.of(requests.rows % 3)


def test_labels_that_the_source_gave_cost_nothing(config, tmp_path):
    with np.load(tmp_path / "pool.npz") as arrays:
        given = np.where(np.arange(200) < 30, arrays["label"], -1)
        np.savez(tmp_path / "some.npz", features=arrays["features"], label=given)
    changes = {
        "data.root": str(tmp_path / "some.npz"), "split.val_how": "labeled", "split.seed_set_how": "given",
        "split.val_max_class_share": 1.0, "labels.cost": 0.1, "stop.money": 4.0, "labels.oracle": f"{__name__}:Knows",
    }  # fmt: skip
    assert labels_of(run(replace(config, changes), quiet=True)) == [10, 30, 50]


def test_a_run_stops_at_its_target_on_the_validation_set(config):
    accuracies = [one["validation"]["top1"] for one in run(config, quiet=True).rounds]
    target = accuracies[1]
    expected = next(at for at, value in enumerate(accuracies) if value >= target)
    other = {"stop.target": target, "run_dir": f"{config.root}/target"}
    result = run(replace(config, other), quiet=True)
    assert len(result.rounds) == expected + 1
    assert result.rounds[-1]["stopped"]["value"] >= target
    assert len(run(replace(config, {"stop.target": target}), quiet=True).rounds) == expected + 1  # of the longer run


def standings(*accuracies):
    return [Standing(10 * at, 10 * at, value) for at, value in enumerate(accuracies)]


def test_a_flat_curve_ends_a_run_and_a_rising_one_does_not(config):
    stop = Stop(replace(config, {"stop.flat_rounds": 2, "stop.flat_gain": 0.01}))
    assert stop.reason(standings(0.5)) is None
    assert stop.reason(standings(0.5, 0.5)) is None  # two rounds are looked at, and one before them
    assert stop.reason(standings(0.5, 0.52, 0.5)) is None
    found = stop.reason(standings(0.5, 0.6, 0.59, 0.61))
    assert found is not None
    assert (found.rule, round(found.value, 6), found.by_accuracy) == ("stop.flat_rounds", 0.01, True)
    assert "was 0.6000 and is 0.6100 in the last 2 rounds" in found.words
    assert Stop(config).reason(standings(0.5, 0.5, 0.5)) is None
    with pytest.raises(RunError, match="nobody labeled it"):
        stop.check_round(standings(None)[0])
    Stop(config).check_round(standings(None)[0])


def test_an_earlier_run_of_this_name_without_validation_disturbs_nothing(config):
    run(replace(config, {"split.val_size": 0, "rounds": 2}), quiet=True)
    assert len(run(replace(config, {"stop.target": 0.01}), quiet=True).rounds) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stop.target": 0.9, "split.val_size": 0}, "stop.target=0.9 looks at the validation accuracy"),
        ({"stop.flat_rounds": 2, "split.val_size": 0}, "stop.flat_rounds=2 looks at the validation accuracy"),
        ({"stop.money": 10}, "expected labels.cost above 0, got 0"),
        ({"stop.flat_gain": 0.1}, "needs stop.flat_rounds"),
        ({"stop.labels": 9}, "stop.labels: the labels of the start alone are more"),
        ({"stop.money": 2.9, "labels.cost": 0.1}, "stop.money: the labels of the start alone .* 30 are bought at 0.1"),
        ({"rounds": 50}, "49 x 20 to buy"),
        ({"rounds": 50, "stop.labels": 190}, "180 within stop.labels, stop.money to buy"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_starts(config, changes, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run(replace(config, changes), quiet=True)
    assert not list((tmp_path / "runs").glob("stops-*"))


def test_a_limit_lets_the_number_of_rounds_be_large(config):
    assert labels_of(run(replace(config, {"rounds": 1000, "stop.labels": 60}), quiet=True)) == [10, 30, 50, 60]


def test_a_sweep_and_its_report_know_runs_that_stopped(config, tmp_path):
    accuracies = [one["validation"]["top1"] for one in run(config, quiet=True).rounds]
    config = replace(config, {"stop.target": max(accuracies), "name": "swept"})
    planned = plan(config, {"seed": [0, 1]})
    assert [trial.finished for trial in planned.trials] == [False, False]
    done = [run(trial.config, quiet=True) for trial in planned.trials]
    assert all(trial.finished for trial in planned.trials)
    rounds = [len(one.rounds) for one in done]
    assert Ledger(planned, {"name": "swept"}).numbers("finished") == [0, 1]
    assert [entry["rounds"] for entry in Ledger(planned, {"name": "swept"}).entries] == rounds
    said = report([one.dir for one in done], str(tmp_path / "out"))
    assert ("stop.target stopped 1 of 2 runs early because of their accuracy" in said) == (rounds[0] != rounds[1])
    assert rounds[0] != rounds[1]


def test_stop_is_no_part_of_the_identity_of_a_run(config):
    assert StopConfig() == config.stop
    assert LabelConfig().cost == 0
