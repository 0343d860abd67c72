"""Reports: reading runs back, scalars, tables and the picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alray.config import RunConfig, fingerprint, identity, replace
from alray.report import ReportError, report
from alray.report.panel import Panel, panel
from alray.report.picture import picture
from alray.report.runs import load, load_all
from alray.report.tables import (
    Column,
    as_csv,
    as_markdown,
    as_text,
    cell,
    columns,
    mean_std,
    per_round,
    side_by_side,
    tables,
    title,
)
from alray.scalars import flat, write_scalars, write_tensorboard
from alray.store import Store

CLASSES = [f"class{i}" for i in range(10)]
BASE_GAIN = {"base": 0.03, "random": 0.0, "margin": 0.02}


def metrics_of(round: int, strategy: str, seed: int, classes: int = 10) -> dict[str, Any]:
    rng = np.random.default_rng(1000 * seed + round)
    labels = 100 * (round + 1)
    top1 = 0.3 + 0.08 * round + BASE_GAIN[strategy] * round + 0.02 * float(rng.random())
    counts = rng.multinomial(labels, rng.dirichlet(np.full(classes, 30.0 if strategy == "base" else 3.0)))
    share = counts[counts > 0] / labels
    per_class = [None, *rng.random(classes - 1).tolist()]
    return {
        "round": round, "strategy": strategy, "labels": labels, "labels_bought": 100 if round else 0,
        "validation_labels": 50, "unlabeled": 2000 - 50 - labels,
        "test": {
            "top1": top1, "top5": 0.5 + top1 / 2, "balanced_accuracy": top1 - 0.03, "per_class_accuracy": per_class,
            "worst_classes": [{"class": "class3", "accuracy": 0.1}],
            "best_classes": [{"class": "class1", "accuracy": 0.9}], "num_images": 1000,
        },
        "validation": {"top1": top1 + 0.01, "best_epoch": 12, "epochs": 20},
        "labeled_set": {
            "counts": counts.tolist(), "max_min_ratio": None if 0 in counts else float(counts.max() / counts.min()),
            "normalised_entropy": float(-(share * np.log(share)).sum() / np.log(classes)), "kl_to_pool": 0.01,
            "empty_classes": int((counts == 0).sum()),
        },
        "seconds": {"train": 12.5, "extract": 3.0, "evaluate": 0.25, "select": 0.5, "label": 0.0},
    }  # fmt: skip


def write_run(folder: Path, strategy: str, seed: int, rounds: int = 3, *, name: str = "t", **changes: Any) -> str:
    overrides = {"name": name, "strategy": strategy, "seed": seed, **changes}
    config = replace(RunConfig(), overrides)
    store = Store(str(folder / f"{name}-{strategy}-{seed}"))
    same = identity(config, "data", "weights")
    store.write_json("config.json", json.loads(config.to_json()))
    about = {"classes": CLASSES, "name": name, "fingerprint": fingerprint(same), "identity": same}
    store.write_json("run.json", {**about, "frozen": config.train.mode == "linear"})
    for number in range(rounds):
        store.child(f"round_{number:02d}").write_json("metrics.json", metrics_of(number, strategy, seed))
    return store.uri


def rewrite(run: str, round: int, **changes: Any) -> None:
    store = Store(run).child(f"round_{round:02d}")
    store.write_json("metrics.json", {**store.read_json("metrics.json"), **changes})


def change_identity(run: str, **fields: Any) -> None:
    """As if the run had been made with other values of these fields."""
    about = Store(run).read_json("run.json")
    Store(run).write_json("run.json", {**about, "identity": {**about["identity"], **fields}})


def lined_up(*dirs: Path | str) -> Panel:
    return panel(load_all([str(path) for path in dirs]))


def test_load_reads_the_committed_rounds_only(tmp_path: Path) -> None:
    run = write_run(tmp_path, "base", 3)
    (tmp_path / "t-base-3" / "round_03").mkdir()  # begun, not committed
    history = load(run)
    assert (history.name, history.strategy, history.seed, history.classes) == ("t", "base", 3, tuple(CLASSES))
    assert [metrics["round"] for metrics in history.rounds] == [0, 1, 2]
    assert history.rounds[1] == metrics_of(1, "base", 3)


def test_rounds_are_ordered_by_number(tmp_path: Path) -> None:
    run = write_run(tmp_path, "random", 0, rounds=101)  # round_100 sorts before round_11 as text
    assert [metrics["round"] for metrics in load(run).rounds] == list(range(101))


def test_load_refuses(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"nowhere: no run there"):
        load(str(tmp_path / "nowhere"))
    run = write_run(tmp_path, "base", 0)
    (Path(run) / "round_01" / "metrics.json").unlink()
    with pytest.raises(ReportError, match="round 2 is committed, but round 1 is not"):
        load(run)
    with pytest.raises(ReportError, match="no round of this run is finished yet.*alray status"):
        load(write_run(tmp_path, "margin", 0, rounds=0))
    broken = write_run(tmp_path, "random", 0, rounds=1)
    Store(broken).child("round_00").write_json("metrics.json", {"round": 0, "labels": 10})
    with pytest.raises(ReportError, match=r"round_00/metrics.json: expected the fields .*'labeled_set'"):
        load(broken)


def test_load_all_takes_runs_and_folders_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = write_run(tmp_path, "base", 0)
    write_run(tmp_path, "base", 1)
    waiting = write_run(tmp_path, "random", 0, rounds=0)
    (tmp_path / "catalog").mkdir()
    assert [run.seed for run in load_all([str(tmp_path), first + "/"])] == [0, 1]
    assert f"{waiting}: no finished round yet" in caplog.text
    with pytest.raises(ReportError, match="no round of this run is finished yet"):
        load_all([first, waiting])
    with pytest.raises(ReportError, match="catalog: no run there"):
        load_all([str(tmp_path / "catalog")])
    with pytest.raises(ReportError, match="no run directory given"):
        load_all([])


def test_what_is_no_run_is_refused_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(ReportError, match=f"{name}: no run there .expected run.json .*empty or does not exist"):
            load_all([str(tmp_path / name)])
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ReportError, match="no run there .*got empty, notes.txt"):
        load_all([str(tmp_path)])
    with pytest.raises(ReportError, match=r"notes.txt: expected run directories, .* or one \.csv alone; got a file"):
        load_all([str(tmp_path / "notes.txt")])
    run = Store(write_run(tmp_path, "base", 0))
    run.write_json("run.json", {"name": "x"})
    with pytest.raises(ReportError, match="run.json: expected the fields classes, identity, they are missing"):
        load(run.uri)


def test_load_all_refuses_a_folder_where_nothing_is_committed(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0, rounds=0)
    with pytest.raises(ReportError, match="none of its 1 runs has a finished round"):
        load_all([str(tmp_path)])


def test_a_table_is_of_the_seeds_of_one_method_in_one_setting(tmp_path: Path) -> None:
    for strategy in ("random", "base"):
        for seed in (2, 0):
            write_run(tmp_path, strategy, seed)
    write_run(tmp_path, "base", 0, name="hot", **{"train.lr": 1.0})
    default = RunConfig().train.lr
    assert [(lines[0].label, [line.seed for line in lines]) for lines in lined_up(tmp_path).every()] == [
        (f"base · train.lr {default}", [0, 2]),
        ("base · train.lr 1.0", [0]),
        (f"random · train.lr {default}", [0, 2]),
    ]


def test_several_data_sets_are_named_in_tables(tmp_path: Path) -> None:
    """By the names of the runs, else by the fingerprint of the data; a strategy that peeks has its asterisk."""
    for name, strategy in (("a", "random"), ("b", "balancing")):
        run = write_run(tmp_path / name, "random", 0, name=name)
        change_identity(run, strategy=strategy, data_fingerprint=f"{name}123456")
        Store(run).write_json("run.json", {**Store(run).read_json("run.json"), "peeks": strategy == "balancing"})
    found = lined_up(tmp_path / "a", tmp_path / "b")
    assert [title(lines) for lines in found.every()] == ["balancing* · run b (1 seed)", "random · run a (1 seed)"]
    unnamed = [dataclasses.replace(run, name="run") for run in load_all([str(tmp_path / name) for name in "ab"])]
    assert [lines[0].label for lines in panel(unnamed).every()] == [
        "balancing* · data_fingerprint b123456", "random · data_fingerprint a123456",
    ]  # fmt: skip
    text = report([str(tmp_path / "b")])
    assert "* This strategy reads labels before they are bought" in text
    for name in ("report.html", "report.md"):
        assert "* This strategy reads labels before they are bought" in (tmp_path / "b" / name).read_text()


def test_the_csv_says_which_seeds_and_settings_its_rows_are_of(tmp_path: Path) -> None:
    for budget in (5, 50):
        for seed in (0, 1):
            write_run(tmp_path, "base", seed, rounds=2 - seed, name=f"b{budget}", budget=budget)
    records = list(csv.DictReader(io.StringIO(as_csv(lined_up(tmp_path)))))
    assert [(one["group"], one["round"], one["labels"], one["seeds"]) for one in records] == [
        ("base · budget 5", "0", "100", "2"), ("base · budget 5", "1", "200", "1"),
        ("base · budget 50", "0", "100", "2"), ("base · budget 50", "1", "200", "1"),
    ]  # fmt: skip


def test_the_same_run_twice_is_not_two_seeds(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / place, "base", 0) for place in ("a", "b")]
    with pytest.raises(ReportError, match="the same strategy, seed and settings"):
        lined_up(*runs)


def test_flat_names() -> None:
    scalars = flat(metrics_of(1, "base", 0))
    expected = {"labels": 200, "seconds_train": 12.5, "seconds_total": 16.25, "labeled_kl_to_pool": 0.01}
    assert {name: scalars[name] for name in expected} == expected
    assert scalars["test_top5"] == pytest.approx(0.5 + scalars["test_top1"] / 2)
    assert not [name for name, value in scalars.items() if isinstance(value, list | dict)]
    bare = flat({**metrics_of(1, "base", 0), "test": None, "validation": None})
    assert not [name for name in bare if name.startswith(("test", "validation_t"))]


def test_scalars_are_rewritten_whole(tmp_path: Path) -> None:
    rounds = [metrics_of(number, "margin", 0) for number in range(3)]
    rounds[0]["test"] = None
    store = Store(str(tmp_path))
    write_scalars(store, rounds)
    write_scalars(store, rounds[:2])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rounds[:2]
    lines = list(csv.DictReader(io.StringIO((tmp_path / "metrics.csv").read_text())))
    assert [line["labels"] for line in lines] == ["100", "200"]
    assert lines[0]["test_top1"] == ""
    assert float(lines[1]["test_top1"]) == rounds[1]["test"]["top1"]
    assert store.names() == ["metrics.csv", "metrics.jsonl"]


def events_of(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.*")
    data, at = file.read_bytes(), 0
    points: dict[str, list[tuple[int, float, float]]] = {}
    while at < len(data):  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size
        for value in event.summary.value:
            points.setdefault(value.tag, []).append((event.step, event.wall_time, value.simple_value))
    return points


def test_tensorboard_steps_are_labels_and_old_events_are_gone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rounds = [metrics_of(number, "margin", 0) for number in range(2)]
    store.child("tensorboard").write_bytes("events.out.tfevents.1.old", b"old")
    write_tensorboard(store, rounds)
    write_tensorboard(store, rounds)
    points = events_of(tmp_path / "tensorboard")
    assert [(step, wall) for step, wall, _ in points["test/top1"]] == [(100, 16.25), (200, 32.5)]
    assert points["test/top1"][1][2] == pytest.approx(rounds[1]["test"]["top1"])
    assert {"run/labels", "labeled/normalised_entropy", "seconds/train", "validation/top1"} <= set(points)


def test_mean_std_is_over_all_seeds_or_not_at_all() -> None:
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_std([1.5]) == (1.5, None)
    assert mean_std([1.5, None]) == (None, None)
    assert mean_std([]) == (None, None)
    percent = Column("test_top1", "", 2, 100)
    assert cell([0.5], percent) == "50.00"
    assert cell([0.5, 0.6], percent) == "55.00±7.07"
    assert cell([None], percent) == "–"
    assert cell([0, 1], Column("labeled_empty_classes", "", 1)) == "0.5±0.7"


def test_table_of_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, "base", 0)
    rewrite(run, 1, labeled_set={**metrics_of(1, "base", 0)["labeled_set"], "max_min_ratio": None})
    found = lined_up(run)
    (lines,) = found.every()
    table = per_round(lines)
    assert table.head == (
        "round", "labels", "top-1 %", "top-5 %", "balanced %", "val. %", "entropy", "max/min",
        "KL", "empty", "seconds",
    )  # fmt: skip
    top1 = metrics_of(1, "base", 0)["test"]["top1"]
    assert table.rows[1][:3] == ("1", "200", f"{100 * top1:.2f}")
    assert (table.rows[1][7], table.rows[1][9], table.rows[1][10]) == ("–", "0", "16.2")
    assert tables(found) == [table]
    assert len({len(line) for line in as_text(table).splitlines()[1:]}) == 1
    assert as_markdown(table).splitlines()[2].startswith("| round | labels | top-1 % |")


def test_several_seeds_give_mean_std_and_their_number(tmp_path: Path) -> None:
    write_run(tmp_path, "random", 0)
    write_run(tmp_path, "random", 1, rounds=2)
    write_run(tmp_path, "base", 0)
    found = lined_up(tmp_path)
    base, random = every = found.every()
    rows = per_round(random).rows
    assert [row[:3] for row in rows] == [("0", "100", "2"), ("1", "200", "2"), ("2", "300", "1")]
    values = [metrics_of(1, "random", seed)["test"]["top1"] for seed in (0, 1)]
    assert rows[1][3] == f"{100 * np.mean(values):.2f}±{100 * np.std(values, ddof=1):.2f}"
    compared = side_by_side(every, columns(every)[0])
    assert compared.head == ("labels", "base (1 seed)", "random (1 seed, 1 more with fewer rounds)")
    assert compared.rows[1] == ("200", per_round(base).rows[1][2], rows[1][3])
    assert compared.rows[2][2].endswith("(n=1)")
    assert [table.title for table in tables(found)][2:] == ["top-1 %", "balanced %", "entropy"]


def test_side_by_side_compares_equal_numbers_of_labels(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0, rounds=2)
    other = write_run(tmp_path, "random", 0, rounds=1)
    rewrite(other, 0, labels=200)
    every = lined_up(tmp_path).every()
    rows = side_by_side(every, columns(every)[0]).rows
    assert [(row[0], row[1] == "–", row[2] == "–") for row in rows] == [("100", False, True), ("200", False, False)]


def test_without_a_test_set_validation_is_reported(tmp_path: Path) -> None:
    for strategy in ("base", "random"):
        run = write_run(tmp_path, strategy, 0, rounds=1)
        rewrite(run, 0, test=None)
    text = report([str(tmp_path)])
    assert "val. %" in text
    assert "top-1 %" not in text


def test_report_writes_its_files_beside_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, "base", 0, rounds=1)
    text = report([run])
    top1 = metrics_of(0, "base", 0)["test"]["top1"]
    assert f"{100 * top1:.2f}" in text
    for name in ("report.png", "report.md", "report.csv"):
        assert f"{run}/{name}" in text
    with Image.open(Path(run) / "report.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 700
    markdown = (Path(run) / "report.md").read_text()
    assert "(report.png)" in markdown
    assert "worst classes of the last round by accuracy of their images: class3 10.0 %" in markdown
    (line,) = csv.DictReader(io.StringIO((Path(run) / "report.csv").read_text()))
    assert (line["strategy"], line["seeds"], line["labels"], line["test_top1_std"]) == ("base", "1", "100", "")
    assert float(line["test_top1"]) == top1


def test_report_of_several_directories_goes_to_out_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [write_run(tmp_path, "base", seed) for seed in (0, 1)]
    report(runs, str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "report.png").exists()
    monkeypatch.chdir(tmp_path)
    report(runs)
    assert (tmp_path / "report" / "report.md").exists()


def test_picture_of_unequal_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0, rounds=4)
    write_run(tmp_path, "base", 1, rounds=2)
    rewrite(write_run(tmp_path, "random", 0, rounds=1), 0, test=None)
    assert picture(lined_up(tmp_path)).startswith(b"\x89PNG")


def test_runs_on_an_object_store(tmp_path: Path) -> None:
    """The same code on a filesystem that is not local: read, scalars, events, report."""
    local = Store(write_run(tmp_path, "base", 0))
    remote = Store(f"memory://{tmp_path.name}/t-base-0")
    remote.write_json("run.json", local.read_json("run.json"))
    for name in ("round_00", "round_01"):
        remote.child(name).write_json("metrics.json", local.child(name).read_json("metrics.json"))
    remote.child("tensorboard").write_bytes("events.out.tfevents.1.old", b"old")
    rounds = load(remote.uri).rounds
    assert len(rounds) == 2
    write_scalars(remote, rounds)
    write_tensorboard(remote, rounds)
    (events,) = remote.child("tensorboard").names()
    assert events.startswith("events.out.tfevents.")
    assert events != "events.out.tfevents.1.old"
    bucket = Store(f"memory://{tmp_path.name}-run")  # a run that is a whole bucket
    bucket.write_json("run.json", local.read_json("run.json"))
    bucket.child("round_00").write_json("metrics.json", local.child("round_00").read_json("metrics.json"))
    assert f"{bucket.uri}/report.png" in report([bucket.uri])
    text = report([f"memory://{tmp_path.name}"])
    assert f"memory://{tmp_path.name}/report.png" in text
    assert {"metrics.csv", "metrics.jsonl"} <= set(remote.names())
