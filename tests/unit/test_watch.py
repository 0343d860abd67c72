"""What a run does can be seen from elsewhere: in a file of its directory, and in JSON lines."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from alray.labeling.standing import lines
from alray.lease import LEASE
from alray.process import describe
from alray.progress import LOG, Now, Stages
from alray.rundir import RUN, RunDir
from alray.verify import verify
from alray.watch import measurements, sentences, watchers


def test_a_stage_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[Now] = []
    stages = Stages("digits", 1, 3, quiet=True, watch=told.append)
    with stages.stage("extract", "embeddings"), stages.bar("extract", 100, "images") as bar:
        bar(10, "")
        bar(20, "")  # within two seconds of the one before
    assert [(now.stage, now.done, now.total) for now in told] == [("extract", 0, 0), ("extract", 10, 100)]
    assert (told[1].run, told[1].round, told[1].rounds, told[1].unit) == ("digits", 1, 3, "images")


def test_rate_and_time_to_go() -> None:
    now = Now("r", 0, 2, "extract", done=30, total=120, unit="images", began=100.0, at=110.0)
    assert (now.rate, now.left) == (3.0, 30.0)
    assert replace(now, done=0).left is None and replace(now, total=0).left is None
    assert measurements(now)["alray_stage_rate"] == 3.0


@pytest.mark.parametrize(
    ("ago", "changes", "holder", "said"),
    [
        (0, {}, "here", "now: round 0 of 0-1, train (40 labels): 5 of 20 epochs, 0.5 a second, about 30 s to go"),
        (0, {"done": 0, "total": 0}, "elsewhere", "now: round 0 of 0-1, train (40 labels), since 10 s"),
        (300, {}, "elsewhere", "last sign 5 min ago, in round 0 of 0-1, train (40 labels): it may have stopped"),
        (300, {}, "here", "now: round 0 of 0-1, train (40 labels): 5 of 20 epochs, 0.5 a second, about 30 s to go"),
        (300, {}, "", "nobody works on it now; the last sign was 5 min ago, in round 0 of 0-1, train (40 labels)"),
    ],
)
def test_status_says_what_the_run_does(
    ago: float, changes: dict[str, int], holder: str, said: str, tmp_path: Path
) -> None:
    run = RunDir(str(tmp_path / "run"))
    assert sentences(run) == []
    at = time.time() - ago
    now = Now("r", 0, 2, "train", "40 labels", 5, 20, "epochs", at - 10, at)
    run.write_now(asdict(replace(now, **changes)))
    who = {"here": describe(os.getpid()), "elsewhere": {"host": "another", "pid": 1}}
    if holder:
        Path(run.at(LEASE)).write_text(json.dumps(who[holder]))
    assert sentences(run) == [said]


def test_alray_status_has_the_stage_and_verify_does_not_mind(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    run.write_json(RUN, {"name": "r", "classes": ["cat"]})
    run.write_config(json.dumps({"rounds": 3}))
    watchers(run)(Now("r", 0, 3, "train", began=time.time(), at=time.time()))
    assert any("in round 0 of 0-2, train" in line for line in lines(run))
    assert verify(run.uri).problems == []


def test_a_watcher_never_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    watchers(RunDir(str(tmp_path / "file" / "run")))(Now("r", 0, 3, "train"))


def test_lines_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(LOG, "json")
    stages = Stages("digits", 1, 3)
    with stages.stage("train", "40 labels"), stages.bar("train", 2, "epochs") as bar:
        bar(1, "")
    stages.print_line("done")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["run"], line["round"], line["stage"], line["message"]) for line in found] == [
        ("digits", 1, "train", "train · 40 labels"), ("digits", 1, "", "done"),
    ]  # fmt: skip
