"""Other hosts reach nothing of a training without its cluster's token. The other host is a network namespace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from held_training import READY, STOP
from namespaces import network

HERE = Path(__file__).parent
NET = "10.231.77"


@pytest.fixture(scope="module")
def other_host() -> Iterator[list[str]]:
    """What to put in front of a command so that it runs there; this host is its way to everywhere."""
    with network(1, NET) as (other,):
        yield other.inside


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A training at work, in a process of its own with a home of its own: the process, and where it writes."""
    folder, home = tmp_path_factory.mktemp("training"), tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "held_training.py"), str(folder)],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(HERE.parents[1])},
    )
    try:
        deadline = time.monotonic() + 300
        while not (folder / READY).exists():
            assert process.poll() is None, "the training ended early"
            assert time.monotonic() < deadline, "the training did not start"
            time.sleep(0.2)
        yield process.pid, folder
        (folder / STOP).touch()
        assert process.wait(120) == 0
        assert not list(home.rglob("*token*")), "a token was left in the home directory"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def tree(pid: int) -> dict[int, str]:
    """The process and all its descendants, with their names."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = (int(rest.split()[1]), name)
    found = {pid: parents[pid][1]}
    while more := {child: name for child, (parent, name) in parents.items() if parent in found and child not in found}:
        found |= more
    return found


def listening(pids: dict[int, str]) -> dict[int, str]:
    """TCP ports on which these processes listen, on any address, with the names of the processes."""
    sockets = {}
    for pid, name in pids.items():
        try:
            descriptors = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        sockets |= {link[8:-1]: name for link in descriptors if link.startswith("socket:[")}
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    return {
        int(line[1].rpartition(":")[2], 16): sockets[line[9]]
        for line in lines
        if line[3] == "0A" and line[9] in sockets
    }


@pytest.mark.slow
def test_no_port_of_a_training_answers_another_host_without_the_token(
    training: tuple[int, Path], other_host: list[str]
) -> None:
    pid, folder = training
    gcs = (folder / READY).read_text()
    node, _, gcs_port = gcs.rpartition(":")
    ports = listening(tree(pid))
    assert int(gcs_port) in ports
    assert {"gcs_server", "raylet", "ray::RayTrainWo"} <= set(ports.values())
    for host in (f"{NET}.1", node):
        done = subprocess.run(
            [*other_host, sys.executable, str(HERE / "stranger.py"), host, *map(str, ports)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said = {f"{ports[int(port)]} {port}": answers for port, answers in json.loads(done.stdout).items()}
        print(json.dumps({host: said}, indent=1))
        assert not {port: answers for port, answers in said.items() if any("OPEN" in answer for answer in answers)}
        assert said[f"{ports[int(gcs_port)]} {gcs_port}"] == ["UNAUTHENTICATED", "UNIMPLEMENTED"]  # it was reached


@pytest.mark.slow
@pytest.mark.parametrize("token", ["", "0" * 64], ids=["no token", "another token"])
def test_another_host_cannot_join_the_cluster(
    training: tuple[int, Path], other_host: list[str], token: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    address = (training[1] / READY).read_text()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    program = f"import ray; ray.init(address={address!r})"
    done = subprocess.run(
        [*other_host, sys.executable, "-c", program],
        env={**environment, "HOME": str(tmp_path_factory.mktemp("home")), **given},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "InvalidAuthToken" in done.stderr, done.stderr
