"""SIGTERM, which Slurm, Kubernetes and `ray job stop` send, stops a command as Ctrl-C does: in order, and with a word.
The same command continues and ends as an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import program
import pytest
from test_kill_sweep import config_of as config_of_a_trial
from test_kill_sweep import write_embeddings
from test_kill_training import config_of as config_of_a_training
from test_kill_training import write_images

from alray.config import PretextConfig, RunConfig, TrainConfig, replace
from alray.sweep import SWEEP
from alray.verify import verify

ALRAY = [sys.executable, "-m", "alray"]
LINE = "SIGTERM came, stopped: the same command continues\n"


class Command:
    """A command in a process group of its own. Its processes, Ray's too, are known by a variable of their environment,
    which they all inherit."""

    def __init__(self, words: list[str]) -> None:
        self._mark = f"ALRAY_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            words, env={**os.environ, name: value}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_for(self, moment: Callable[[], bool]) -> None:
        while not moment():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, once it has ended; fails if a process of it is left ten seconds later."""
        _, said = self.process.communicate(timeout=200)
        until = time.monotonic() + 10
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == []
        return self.process.returncode, said

    def left(self) -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text())
            except OSError:  # it has ended, or it belongs to another user
                continue
        return found


def config_of(root: Path, data: Path) -> RunConfig:
    changed = {"rounds": 12, "resources.select_workers": "ray", "resources.select_shards": 2}
    return replace(config_of_a_trial(root, data), changed)


def started(config: RunConfig, folder: Path) -> list[str]:
    file = folder / "config.json"
    file.write_text(config.to_json())
    return [*ALRAY, "run", str(file)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sent", ["twice", "to all processes, as Slurm does"])
def test_a_run_on_ray_is_stopped_in_a_round_and_continues(sent: str, tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e.npz")
    config = config_of(tmp_path / "runs", tmp_path / "e.npz")
    command = Command(started(config, tmp_path))
    command.wait_for(lambda: any((tmp_path / "runs").glob("kill-*/round_01/metrics.json")))
    if sent == "twice":
        os.kill(command.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        os.kill(command.process.pid, signal.SIGTERM)
    else:
        os.killpg(command.process.pid, signal.SIGTERM)
    code, said = command.end()
    assert said == LINE
    # Ray takes the handler away when it ends: a second signal then ends the process itself, and shells call that 143.
    assert code in ((143, -signal.SIGTERM) if sent == "twice" else (143,))
    assert not list((tmp_path / "runs").glob("kill-*/lease.json"))
    assert not list((tmp_path / "runs").glob("kill-*/round_11/metrics.json"))
    assert verify(str(tmp_path / "runs")).problems == []

    subprocess.run(started(config, tmp_path), check=True, capture_output=True)
    alone = replace(config, {"root": str(tmp_path / "undisturbed"), "resources.select_workers": "process"})
    assert program.start(alone) == 0
    assert program.facts(tmp_path / "runs") == program.facts(tmp_path / "undisturbed")


@pytest.mark.timeout(300)
def test_a_job_is_stopped_before_ray_has_started(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    config = replace(
        config_of(tmp_path / "runs", tmp_path / "images"), {"split.val_size": 15, "train.mode": "finetune"}
    )
    job = tmp_path / "job.py"
    job.write_text(
        f"from alray import RunConfig\nfrom alray.cli import job\njob(RunConfig.from_json({config.to_json()!r}))\n"
    )
    command = Command([sys.executable, str(job)])
    command.wait_for(lambda: any((tmp_path / "runs").rglob("meta.json")))  # the images are indexed
    os.kill(command.process.pid, signal.SIGTERM)
    assert command.end() == (143, LINE)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("moment", "sent", "code"),
    [
        ("checkpoint/progress.json", signal.SIGINT, 130),
        ("metrics.json", signal.SIGTERM, 143),
        ("metrics.json", signal.SIGINT, 130),
    ],
)
def test_a_run_is_stopped_while_it_trains_and_afterwards(
    moment: str, sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Ray Train's handler of Ctrl-C stayed, which lost signals after the first training."""
    write_images(tmp_path / "images")
    config = config_of_a_training(tmp_path / "runs", tmp_path / "images")
    plain = {"strategy": "margin", "strategy_options": {}, "split.seed_set_how": "random", "pretext": PretextConfig()}
    config = replace(config, {**plain, "rounds": 4, "train.epochs": 8})
    command = Command(started(config, tmp_path))
    command.wait_for(lambda: any((tmp_path / "runs").glob(f"kill-*/round_00/{moment}")))
    os.kill(command.process.pid, sent)
    found, said = command.end()
    assert found == code, said
    assert said.splitlines()[-1] + "\n" == (LINE if sent == signal.SIGTERM else LINE.removeprefix("SIGTERM came, "))
    assert "Traceback" not in said
    assert not any((tmp_path / "runs").glob("kill-*/round_03/metrics.json"))


def threads(process: int) -> set[str]:
    """The names of the threads of a process."""
    found = set()
    for file in Path("/proc", str(process), "task").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has ended
            found.add(file.read_text().strip())
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_is_stopped_while_ray_connects(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    """Ray's core aborted, or was interrupted half-way and ended with a segmentation fault."""
    write_embeddings(tmp_path / "e.npz")
    command = Command(started(config_of(tmp_path / "runs", tmp_path / "e.npz"), tmp_path))
    command.wait_for(lambda: "worker.io" in threads(command.process.pid))  # of Ray's core
    os.kill(command.process.pid, sent)
    assert command.end() == (code, LINE if sent == signal.SIGTERM else LINE.removeprefix("SIGTERM came, "))


@pytest.mark.timeout(600)
def test_a_sweep_is_stopped_as_by_ctrl_c(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e.npz")
    folder = tmp_path / "runs" / "kill-sweep"
    few = {"train.epochs": 5, "train.batch_size": TrainConfig().batch_size, "resources.select_workers": "ray"}
    config = replace(config_of_a_trial(tmp_path / "runs", tmp_path / "e.npz"), few)
    (tmp_path / "config.json").write_text(config.to_json())
    words = [*ALRAY, "sweep", str(tmp_path / "config.json"), "strategy=random", "seed=0..3"]
    command = Command([*words, "--sweep.max-concurrent", "1"])
    command.wait_for(lambda: any(folder.glob("kill-*/round_03/metrics.json")))
    os.kill(command.process.pid, signal.SIGTERM)
    code, said = command.end()
    assert code == 143, said
    assert said.splitlines()[-1].startswith("SIGTERM came, stopped with "), said
    assert "*** SIGTERM" not in said
    assert "Traceback" not in said
    statuses = {trial["status"] for trial in json.loads((folder / SWEEP).read_text())["trials"]}
    assert statuses == {"finished", "waiting"}

    subprocess.run(words, check=True, capture_output=True)
    assert {trial["status"] for trial in json.loads((folder / SWEEP).read_text())["trials"]} == {"finished"}
