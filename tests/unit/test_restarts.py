"""How often a training is started again, and what a loss cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from alray.data.fetch import ImageError
from alray.lost_nodes import NodeLost
from alray.report.runs import RunHistory
from alray.report.timing import restart_sentences
from alray.rounddir import RoundDir
from alray.store import Store
from alray.train.restarts import Restarts, kept_epochs, lost, until_known
from alray.train.summary import TrainFailed

DEAD = WorkerHealthCheckFailedError("Worker info", RayActorError(error_msg="Worker exit detail: End of file"))
AWAY = WorkerHealthCheckFailedError("Worker info", ActorUnavailableError("connection refused", None))


def snapshot(folder: Path, *epochs: int) -> None:
    path = folder / "ray/train/checkpoint_manager_snapshot.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"checkpoint_results": [{"metrics": {"epoch": epoch}} for epoch in epochs]}))


def test_there_are_so_many_restarts_and_each_is_noted(tmp_path: Path) -> None:
    said: list[str] = []
    noted: list[dict[str, Any]] = []
    restarts = Restarts(Store(str(tmp_path)), "training of round 3", 2, said.append, noted.append)
    restarts.saw({"epoch": 0})
    restarts.failed("worker 1 died")
    assert said == ["train · worker 1 died; going on from the beginning, 1 of 2 restarts"] and not noted
    restarts.saw({"epoch": 0})
    time.sleep(0.2)
    restarts.saw({"epoch": 3})
    snapshot(tmp_path, 1, 2)
    assert kept_epochs(Store(str(tmp_path))) == 3
    restarts.failed("worker 0 died")
    (first,) = noted
    assert (first["cause"], first["epoch"]) == ("worker 1 died", 0) and first["seconds"] < 0.1
    with pytest.raises(TrainFailed, match=r"training of round 3 failed after 2 restarts .*train_retries.*: a node"):
        restarts.failed("a node was lost")
    assert [(one["cause"], one["epoch"]) for one in noted][1:] == [("worker 0 died", 3)]
    assert said[1] == "train · worker 0 died; going on after epoch 3, 2 of 2 restarts"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            WorkerGroupError("", {0: RuntimeError("gloo: Connection closed"), 1: DEAD}),
            "worker 1: its process",
        ),
        (WorkerGroupError("", {0: RuntimeError("gloo: Connection closed")}), "worker 0 lost its connection to another"),
        (WorkerGroupError("", {2: DEAD, 3: DEAD}), "worker 2 and 1 more: its process died"),
        (WorkerGroupError("", {2: AWAY}), "worker 2 cannot be reached"),
        (ControllerError(RuntimeError("no start")), "the workers could not start"),
        (ActorUnavailableError("gone", None), "the process that leads the training was lost"),
        (NodeLost("a node was lost"), "a node was lost"),
        (WorkerGroupError("", {0: ImageError("a.png: broken"), 1: DEAD}), None),
        (WorkerGroupError("", {0: ValueError("a defect")}), None),
        (ControllerError(ImageError("a.png: broken")), None),
    ],
)
def test_what_is_tried_again(error: Exception, said: str | None) -> None:
    found = lost(error)
    assert found is None if said is None else found is not None and found.startswith(said)


def test_how_long_the_cause_is_looked_for() -> None:
    symptom = RuntimeError("gloo: Connection closed")
    asked = [{}, {0: symptom}, {0: symptom, 1: AWAY}, {0: symptom, 1: DEAD}, {0: ImageError("a.png"), 1: symptom}]
    assert [until_known(failures) for failures in asked] == [0, 5, 20, 0, 0]


def test_restarts_are_kept_beside_the_seconds_and_told_in_the_report(tmp_path: Path) -> None:
    out, one = RoundDir(str(tmp_path)), {"stage": "train", "cause": "worker 1 died", "epoch": 3, "seconds": 12.5}
    assert out.restarts() == []
    out.write_timings({"train": 30.0}, [one])
    assert (out.timings(), out.restarts()) == ({"train": 30.0}, [one])

    def history(name: str, *rounds: dict[str, Any]) -> RunHistory:
        return RunHistory(str(tmp_path / name), name, "margin", 0, ("a", "b"), list(rounds))

    runs = [history("a", {"restarts": [one]}, {}), history("b", {"restarts": [one, one]}), history("c", {})]
    (said,) = restart_sentences([*runs, runs[0]])
    assert "lost workers and went on from its last checkpoint 3 times" in said and "took 38 s in all" in said
    assert restart_sentences(runs[2:]) == []
