"""The plan of a run: amounts are exact, times are positive and grow as they must, what cannot fit is said."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import replace as replace_in
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sources import SOURCES, items

from alray import RunConfig
from alray.cli import main
from alray.config import DataConfig, ModelConfig, ResourceConfig, SplitConfig, TrainConfig, TransformConfig, replace
from alray.data.augment import eval_transform
from alray.features.measures import Features, ModelSource
from alray.planning import plan as planning
from alray.planning import room
from alray.planning.epochs import Pass, passes
from alray.planning.plan import plan, plan_once
from alray.planning.probe import Decoded, Probe, Speed, Start
from alray.planning.result import Plan
from alray.planning.selecting import select_seconds
from alray.planning.starts import CLUSTER, SELECT, Starts
from alray.prepare import check
from alray.report.runs import RunHistory
from alray.report.timing import planned_sentences
from alray.rounds import run
from alray.rundir import PLAN, RunDir
from alray.selection.registry import build
from alray.train.head_speed import head_seconds
from alray.train.linear import fit_head

HALF = (0.5, 0.5, 0.5)
TINY = ModelConfig(backbone="resnet18", options={"channels": [4, 4, 4, 4]}, small_stem=True, mean=HALF, std=HALF)


def embeddings(folder: Path, **changes: Any) -> RunConfig:
    label = np.arange(400) % 4
    random = np.random.default_rng(0)
    x = (random.normal(size=(4, 6))[label] + random.normal(size=(400, 6))).astype(np.float32)
    np.savez(folder / "x.npz", features=x, label=label, split=np.where(np.arange(400) < 300, "train", "test"))
    config = RunConfig(
        name="planned", root=str(folder / "runs"), rounds=3, budget=20, strategy="margin",
        data=DataConfig(root=str(folder / "x.npz")), split=SplitConfig(seed_set_size=10, val_size=0),
        train=TrainConfig(mode="linear", epochs=5), resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip
    return replace(config, changes)


def images(folder: Path, **changes: Any) -> RunConfig:
    write, key = SOURCES["folder"]
    root = write(items(), folder / "source")
    config = RunConfig(
        name="planned", root=str(folder / "runs"), rounds=2, budget=2, strategy="entropy",
        data=DataConfig(root=root, key=key, yes=True), split=SplitConfig(seed_set_size=4, val_size=0),
        train=TrainConfig(mode="finetune", epochs=2, batch_size=4, patience=0), model=TINY,
        transform=TransformConfig(size=16, resize=0, train="eval"),
    )  # fmt: skip
    return replace(config, changes)


def test_the_plan_of_a_linear_run_on_embeddings(tmp_path: Path) -> None:
    found = plan(check(embeddings(tmp_path)), start=4.0)
    assert found.images == {"pool": 300, "test": 100, "catalog": 400}
    assert (found.read_bytes, found.feature_bytes, found.gpu_bytes) == (0, 0, 0)
    assert set(found.seconds) <= {"train", "select"} and found.problems == []
    assert found.total < 10  # no worker starts


@pytest.mark.parametrize(("gpus", "told"), [(1, 1), (0, 0)])
def test_a_plan_says_that_it_measured_without_the_gpus_of_the_run(
    gpus: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a GPU that this process does not use, as on a cluster that it joins."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found = plan(check(embeddings(tmp_path, **{"resources.select_workers": "ray"})), start=4.0)
    assert sum("this process uses no GPU" in line for line in found.unknown) == told


def test_a_limit_of_labels_or_money_ends_the_plan_early(tmp_path: Path) -> None:
    whole = plan(check(embeddings(tmp_path, rounds=6)), start=4.0)
    assert {len(values) for values in whole.seconds.values()} == {6}
    for limit in ({"stop.labels": 40}, {"stop.money": 20.0, "labels.cost": 0.5}):
        found = plan(check(embeddings(tmp_path, rounds=6, **limit)), start=4.0)
        assert {len(values) for values in found.seconds.values()} == {3}


def test_a_run_of_pt4al_may_have_as_many_rounds_as_batches(tmp_path: Path) -> None:
    options = {"strategy_options": {"batches": 4}, "split.seed_set_how": "pretext", "rounds": 4}
    config = embeddings(tmp_path, strategy="pt4al", **options)
    with np.load(tmp_path / "x.npz") as arrays:
        np.savez(tmp_path / "x.npz", **arrays, pretext_loss=np.arange(400, dtype=np.float32))
    found = plan(check(config), start=4.0)  # the seed set is chosen from the first batch, and the last round has none
    assert {len(values) for values in found.seconds.values()} == {4}


def test_the_plan_of_a_fine_tuning(tmp_path: Path) -> None:
    found = plan(check(images(tmp_path)), start=4.0)
    pool, test = found.images["pool"], found.images["test"]
    assert {"train", "extract", "select"} <= set(found.seconds)
    assert all(len(values) == 2 for values in found.seconds.values())
    size = np.mean([len(item.data) for item in items()])
    embedded = (pool - 4) + test + test  # without the seed set; the last round embeds the test images alone
    trained = 2 * (4 + 6)  # two epochs of the seed set, and of the seed set with one batch
    assert found.read_bytes == pytest.approx((embedded + trained) * size, rel=0.3)
    assert found.seconds["select"][1] == 0
    few, many = (plan(check(images(tmp_path, **{"train.epochs": n})), start=0.0) for n in (10, 400))
    assert sum(many.seconds["train"]) > 4 * sum(few.seconds["train"])  # forty times, but each is measured anew


def test_images_that_a_training_keeps_are_read_once(tmp_path: Path) -> None:
    long = {"train.epochs": 50, "rounds": 1}
    size = np.mean([len(item.data) for item in items()])
    kept, read = (plan(check(images(tmp_path, **long, **{"resources.kept_mib": n})), start=0.0) for n in (256, 0))
    assert read.read_bytes - kept.read_bytes == pytest.approx((50 - 1) * 4 * size, rel=0.3)


def test_decoded_images_are_kept_where_they_fit_and_are_read_often() -> None:
    speed = Speed(decode=5.0, compute=7.0)
    every = [Pass(12 * 30, speed)]

    def of(**changes: int) -> list[Pass]:
        return passes(
            speed,
            30,
            12,
            **{"workers": 2, "kept_bytes": 30_000, "rows": 30, **changes},
            decoded=lambda: Decoded(4.0, 1000.0),
        )

    again = replace_in(speed, decode=1.0)
    assert of() == [Pass(2 * 30, Speed(4.0, 0.0)), Pass(12 * 30, again, read=False)]
    assert of(kept_bytes=29_999) == of(kept_bytes=0) == of(workers=7) == every
    assert of(workers=6)[0] == Pass(6 * 30, Speed(4.0, 0.0))


def test_a_training_waits_at_each_checkpoint_that_it_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "40")
    often, never = (
        plan(check(images(tmp_path, **{"train.epochs": 5, "train.checkpoint_every": n})), start=0.0) for n in (2, 9)
    )
    for one, other in zip(often.seconds["train"], never.seconds["train"], strict=True):
        assert one - other == pytest.approx(2 * 40, abs=20)  # after the epochs 2 and 4; each is measured anew


def test_starts_of_processes_are_in_the_plan_and_the_cluster_starts_once(tmp_path: Path) -> None:
    found, free = (plan(check(images(tmp_path)), start=start) for start in (1000.0, 0.0))
    begun = {name: [after - before for after, before in zip(found.seconds[name], free.seconds[name], strict=True)]
             for name in ("train", "extract", "select")}  # fmt: skip
    first, second = (value / 1000 for value in begun["train"])
    assert first - second == pytest.approx(CLUSTER.alone, abs=0.05)
    assert begun["extract"][0] > begun["extract"][1] > 0
    assert begun["select"] == [pytest.approx(1000 * SELECT.of(1, os.cpu_count() or 1), rel=0.05), 0.0]


def test_the_time_of_a_linear_head_is_that_of_all_its_epochs() -> None:
    config = TrainConfig(mode="linear", epochs=300, patience=0)
    x, y = np.random.default_rng(0).standard_normal((3000, 64), np.float32), np.arange(3000) % 10
    planned, took = list[float](), list[float]()
    for _ in range(3):  # other work on the machine lengthens some of them
        planned.append(head_seconds(config, 64, 10, 3000))
        begun, used = time.perf_counter(), time.process_time()
        fit_head(config, seed=0, num_classes=10, embedding=x, labels=y)
        took.append(min(time.perf_counter() - begun, time.process_time() - used))
    assert 1 / 2.5 < min(planned) / min(took) < 2.5


def test_more_workers_than_cores_start_one_after_the_other() -> None:
    assert Starts(1, 2).of(workers=8, cores=2) == 9
    assert Starts(1, 2).of(workers=1, cores=64) == 3


def test_the_start_of_a_process_is_measured_in_cpu_seconds() -> None:
    waiting = Start()
    os.kill(waiting._process.pid, signal.SIGSTOP)  # as if the machine did other work
    time.sleep(5)
    os.kill(waiting._process.pid, signal.SIGCONT)
    assert 0.5 < waiting.seconds < 60
    assert waiting.slower > 1.1


def test_a_plan_says_when_the_machine_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_BUSY", 0.0)
    said = plan(check(images(tmp_path))).unknown
    assert len(said) == 1 and said[0].startswith("this machine does other work now")
    assert plan(check(embeddings(tmp_path))).unknown == []  # no process starts


@pytest.mark.parametrize("strategy", ["random", "margin", "base", "k_center", "badge", "pt4al", "k_means", "balancing"])
def test_every_kind_of_strategy_can_be_measured(strategy: str) -> None:
    assert select_seconds(build(strategy, {}), 4000, 100, 50, 8, 5) > 0


def test_the_probe_measures_images_not_the_machine(tmp_path: Path) -> None:
    checked = check(images(tmp_path))
    config, catalog = checked.config, checked.catalog
    measure = Features(ModelSource(config.model, 3, 0, "", "", 16), config.transform, config.features, True)
    assert measure.transform == eval_transform(config.transform)
    speed = Probe(catalog, checked.pool_rows).measuring(measure)
    assert 0 < speed.decode < 1 and 0 < speed.compute < 1 and speed.device_bytes == 0


def test_what_cannot_fit_is_said_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = images(tmp_path, **{"data.on_problem": "exclude"})
    (tmp_path / "source" / "train" / "broken.png").write_bytes(b"no image")
    (tmp_path / "c.json").write_text(config.to_json())
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(tmp_path / "c.json"), "--price", "2"])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert "the features need" in said.err and "choose another --root" in said.err
    assert "total" in said.out and "for 1 node" in said.out
    assert f"{config.data.root}, indexed in " in said.out
    assert "  left out: 1, with key and reason in " in said.out
    assert re.search(r"train/broken.png: .*expected an image", said.out)


@pytest.mark.parametrize("wrong", [["--price"], ["--price", "much"]])
def test_a_price_is_a_number(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text(embeddings(tmp_path).to_json())
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "c.json"), *wrong])
    assert "--price: expected a number" in capsys.readouterr().err


def test_a_run_keeps_its_plan_and_says_it_once(tmp_path: Path) -> None:
    checked, folder, said = check(embeddings(tmp_path)), RunDir(str(tmp_path / "run")), list[str]()
    plan_once(checked, folder, said.append)
    plan_once(checked, folder, said.append)
    assert said[0].startswith("plan: about")
    assert len(said) == 1 or (len(said) == 2 and "this machine does other work now" in said[1])
    assert Plan(**folder.noted(PLAN) or {}).images["pool"] == 300


def test_the_report_holds_the_plan_against_the_run(tmp_path: Path) -> None:
    done = run(embeddings(tmp_path), quiet=False)
    history = RunHistory(done.dir, "planned", "margin", 0, ("a",), list(done.rounds))
    (said,) = planned_sentences([history, history])
    assert re.search(r"train [\d.]+ s, took [\d.]+ s; select .* in all .*, took ", said)
    assert planned_sentences([]) == []
