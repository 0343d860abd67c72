"""`alray status` of a run that is under way, from another process and from another machine that reaches its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alray.config import DataConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig

ALRAY = "from alray.cli import main; main()"
# Another host name and other process numbers: what a second machine with the same disk sees.
ELSEWHERE = ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c", 'hostname elsewhere; exec "$@"', "_")


def status(run: Path, *inside: str) -> list[str]:
    command = [*inside, sys.executable, "-c", ALRAY, "status", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A run that trains its first head for hours, and its directory."""
    rng, labels = np.random.default_rng(0), np.arange(600) % 3
    features = (rng.normal(size=(600, 8)) + rng.normal(size=(3, 8))[labels]).astype(np.float32)
    np.savez(tmp_path / "x.npz", features=features, label=labels, is_test=np.arange(600) % 6 == 0)
    config = RunConfig(
        name="long", root=str(tmp_path / "runs"), rounds=4, budget=20, strategy="margin",
        data=DataConfig(root=str(tmp_path / "x.npz")), split=SplitConfig(seed_set_size=300, val_size=0),
        train=TrainConfig(mode="linear", epochs=5_000_000, patience=0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip
    (tmp_path / "config.json").write_text(config.to_json())
    command = [sys.executable, "-c", ALRAY, "run", str(tmp_path / "config.json")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while not (found := list((tmp_path / "runs").glob("long-*/progress.json"))):
            assert process.poll() is None
            time.sleep(0.2)
        yield process, found[0].parent
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
def test_status_says_the_same_on_the_machine_of_the_run_and_on_another(
    running: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, run = running
    if subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces (unshare)")
    for inside in ((), ELSEWHERE):
        said = status(run, *inside)
        assert any(line.startswith("now: round 0 of 0-3, train (linear head on 300 labels)") for line in said), said
        assert said[-1] == f"next: alray run {run}/config.json"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert any(line.startswith("nobody works on it now") for line in status(run)), "its process is gone, and seen to be"
    assert not any("nobody works" in line for line in status(run, *ELSEWHERE)), "which no other machine can see"
