"""What Ray ends or loses, and starts again by itself, is said in a line; of what it ends on purpose nothing is said.

The lines of killed actors of an extraction, and of killed training workers, are in the tests of these.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from alray.config import ResourceConfig
from alray.features.arrays import ArraySource
from alray.lost_workers import told_losses
from alray.reservation import Share
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.selection.select import select_from
from alray.selection.shards import RayActors
from alray.store import Store
from alray.train.summary import TrainError, TrainFailed


def test_nothing_is_said_of_a_stage_that_loses_nothing(ray_session: None) -> None:
    said = list[str]()
    x = np.random.default_rng(0).standard_normal((60, 4), np.float32)
    halves = [ArraySource(np.arange(start, start + 30), {"embedding": x[start : start + 30]}) for start in (0, 30)]
    for _ in range(2):
        select_from(
            halves,
            build("k_center"),
            5,
            Context(0, 1, 2),
            workers="ray",
            num_cpus=0.5,
            share=Share("x", 3, said.append),
        )
    assert said == []


def test_a_shard_that_is_killed_is_named(ray_session: None) -> None:
    said = list[str]()
    x = np.random.default_rng(0).standard_normal((60, 4), np.float32)
    halves = [ArraySource(np.arange(start, start + 30), {"embedding": x[start : start + 30]}) for start in (0, 30)]
    with RayActors(halves, build("k_center"), Context(0, 1, 2), 0.5, Share("x", 3, said.append)) as actors:
        os.kill(actors.pids()[0], signal.SIGKILL)
        assert len(build("k_center").select(actors, 5, Context(0, 1, 2))) == 5
    (line,) = said
    assert re.match(r"select · lost a process, whose work is repeated: its process died .*SIGKILL", line)


def test_an_error_of_a_task_and_an_actor_that_is_ended_are_no_losses(ray_session: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Actor:
        def fail(self) -> None:
            raise ValueError("its own")

    said = list[str]()
    with told_losses("select", said.append):
        actor = Actor.remote()
        with pytest.raises(ValueError, match="its own"):
            ray.get(actor.fail.remote())
        ray.kill(actor)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.fail.remote())
    assert said == []


def test_code_that_workers_cannot_import_ends_a_training_at_once(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alray.train.launch import launch

    only_here = types.ModuleType("only_here")  # as a file beside a job, which was not submitted with its folder
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    part = type("Part", (), {"__module__": "only_here"})
    only_here.Part = part  # type: ignore[attr-defined]
    held, said = part(), list[str]()
    with pytest.raises(TrainError, match=r"got ModuleNotFoundError: No module named 'only_here' on a worker") as found:
        launch(
            lambda decoding: {"held": str(held)}, what="training of round 0", written="x", out=Store(str(tmp_path)),
            resources=ResourceConfig.model_validate({"train_workers": 1}), use_gpu=False,
            share=Share("x", 3, said.append), epochs=1, progress=None,
        )  # fmt: skip
    assert not isinstance(found.value, TrainFailed) and said == []


@pytest.mark.timeout(300)
def test_a_process_that_is_ended_for_memory_is_named(tmp_path: Path) -> None:
    program = Path(__file__).with_name("short_of_memory.py")
    done = subprocess.run([sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answer"] == "done"
    (said,) = found["said"]
    lost = r"extract · lost (a process|\d+ processes), whose work is repeated: "
    assert re.match(lost + r".*its machine \([\d.]+\) was short of memory", said)
