"""A sweep stopped midway, by kill -9 or Ctrl-C: finished trials are kept, the same command goes on to the same end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alray.config import DataConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig
from alray.report.records import picks_hash
from alray.report.runs import load
from alray.rounds import run
from alray.sweep import SWEEP, plan

SPACE = {"strategy": ["random", "margin", "base"], "seed": [0, 1, 2]}
PROGRAM = f"""
import sys
from alray import RunConfig
from alray.sweep import sweep
if __name__ == "__main__":
    result = sweep(RunConfig.from_json(sys.argv[1]), {SPACE!r}, quiet=True)
    assert not result.failed, result.failed
"""


def config_of(root: Path, data: Path) -> RunConfig:
    return RunConfig(
        name="kill",
        root=str(root),
        rounds=4,
        budget=20,
        top_k=(2,),
        data=DataConfig(root=str(data)),
        split=SplitConfig(val_size=30, seed_set_size=20),
        train=TrainConfig(mode="linear", epochs=150, lr=1.0, batch_size=16),
        resources=ResourceConfig(select_workers="process", num_cpus=2),
    )


def write_embeddings(path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(1200) % 5
    features = rng.normal(size=(1200, 16)) + 2 * rng.normal(size=(5, 16))[labels]
    np.savez(path, features=features.astype(np.float16), label=labels, is_test=np.arange(1200) % 6 == 0)


def committed(folder: Path) -> dict[Path, int]:
    """Finished trials: their files and when these were written."""
    runs = [path.parents[1] for path in folder.glob("kill-*/round_03/metrics.json")]
    return {path: path.stat().st_mtime_ns for run in runs for path in run.glob("round_*/**/*") if path.is_file()}


def facts(run_dir: str) -> tuple[str, list[dict[str, object]]]:
    history = load(run_dir)
    return picks_hash(history), [{k: v for k, v in m.items() if k != "seconds"} for m in history.rounds]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e.npz")
    config = config_of(tmp_path / "runs", tmp_path / "e.npz")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    folder = tmp_path / "runs" / "kill-sweep"

    process = subprocess.Popen([sys.executable, str(program), config.to_json()])
    while len(list(folder.glob("kill-*/round_03/metrics.json"))) < 2:
        assert process.poll() is None, "the sweep ended before it was killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(1)  # its workers die with it
    before = committed(folder)
    finished = len(list(folder.glob("kill-*/round_03/metrics.json")))
    assert 2 <= finished < 9

    subprocess.run([sys.executable, str(program), config.to_json()], check=True)
    after = committed(folder)
    assert {path: after[path] for path in before} == before
    trials = json.loads((folder / SWEEP).read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 9

    undisturbed = plan(config_of(tmp_path / "undisturbed", tmp_path / "e.npz"), SPACE)
    for trial in undisturbed.trials:
        alone = run(trial.config, quiet=True).dir
        assert facts(str(folder / alone.rsplit("/", 1)[1])) == facts(alone), trial.title


@pytest.mark.timeout(900)
def test_a_sweep_from_the_command_line_is_stopped_by_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e.npz")
    folder = tmp_path / "runs" / "kill-sweep"
    fields = {
        "name": "kill", "root": tmp_path / "runs", "data.root": tmp_path / "e.npz", "rounds": 4, "budget": 20,
        "top-k": 2, "split.val-size": 30, "split.seed-set-size": 20, "resources.num-cpus": 2, "sweep.max-concurrent": 1,
    }  # fmt: skip
    job = [sys.executable, str(Path(__file__).parents[2] / "jobs" / "sweep.py")]
    job += [text for path, value in fields.items() for text in (f"--{path}", str(value))]
    process = subprocess.Popen(
        [*job, "--sweep", "strategy=random", "seed=0..5"], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while not list(folder.glob("kill-*/round_03/metrics.json")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    statuses = [trial["status"] for trial in json.loads((folder / SWEEP).read_text())["trials"]]
    assert set(statuses) == {"finished", "waiting"}
    before = committed(folder)

    # a trial's own configuration makes the same sweep: what its directory is called counts for nothing
    config = next(folder.glob("kill-*/config.json"))
    command = [sys.executable, "-m", "alray.cli", "sweep", str(config), "strategy=random", "seed=0..5"]
    done = subprocess.run([*command, "--resources.num-cpus", "3"], check=True, capture_output=True, text=True)
    assert f"sweep: {folder}" in done.stdout
    assert [t["status"] for t in json.loads((folder / SWEEP).read_text())["trials"]] == ["finished"] * 6
    after = committed(folder)
    assert {path: after[path] for path in before} == before
