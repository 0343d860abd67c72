"""The head of a cluster is killed: who waits for it ends soon, with a message and with the code that says "go on"."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def gcs_of(driver: int) -> int:
    """The process of the GCS of a cluster that a process has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = (folder / "cmdline").read_bytes().split(b"\0")[0]
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if program.endswith(b"gcs_server") and parent == driver:
            return int(folder.name)
    raise AssertionError("no GCS")


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that waits for a task on a cluster of its own."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "joined_run.py"), "local", str(tmp_path / "ready")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


@pytest.mark.timeout(300)
def test_a_head_that_is_gone_is_noticed_within_15_seconds(joined: subprocess.Popen[str], tmp_path: Path) -> None:
    while not (tmp_path / "ready").exists():
        assert joined.poll() is None, joined.stderr and joined.stderr.read()
        time.sleep(0.1)
    address = (tmp_path / "ready").read_text()
    os.kill(gcs_of(joined.pid), signal.SIGKILL)
    killed = time.monotonic()
    _, errors = joined.communicate(timeout=200)
    seconds = time.monotonic() - killed
    print(seconds, errors)
    assert joined.returncode == 1
    (said,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert said.startswith(f"error: the Ray cluster at {address} is gone: its head has not answered for ")
    assert "start the same command again" in said
    assert seconds < 15
