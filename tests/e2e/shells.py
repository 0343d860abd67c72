"""Shells of users who have README's commands: a home, a cluster and a Python without alray, which travels along."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TOKEN, START, SUBMIT = re.findall(
    r"^((?:RAY_AUTH_MODE=token )?ray (?:get-auth-token|start|job submit) .*?)(?: +#.*)?$",
    (REPOSITORY / "README.md").read_text(),
    flags=re.MULTILINE,
)
SHORT = "--rounds 2 --budget 10 --train.epochs 1 --train.checkpoint-every 1"


@dataclass(frozen=True)
class Machine:
    """A user's shell on a machine with a home and a cluster of its own. dashboard: host and port of the cluster's.
    inside: what to put in front of a command that runs there."""

    environment: dict[str, str]
    dashboard: str
    inside: tuple[str, ...] = ()

    def shell(self, command: str, where: Path = REPOSITORY, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, "bash", "-c", command], cwd=where, env={**self.environment, **changes}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def submit(self, program: str, mode: str = "token", **changes: str) -> subprocess.CompletedProcess[str]:
        """README's `ray job submit`, with another program behind the dashes."""
        command = SUBMIT.partition(" -- ")[0].replace("127.0.0.1:8265", self.dashboard)
        return self.shell(f"{with_mode(command, mode)} -- {program}", **changes)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def started(mode: str, inside: tuple[str, ...] = (), **more: int) -> Iterator[Machine]:
    """A machine with a cluster that demands a token, or none. more: options of `ray start`, with their numbers."""
    folder = Path(tempfile.mkdtemp(prefix="alray"))  # short: Ray's sockets lie below it
    port, dashboard, client, agent = free_ports(4)
    here = Machine(environment_of(folder), f"127.0.0.1:{dashboard}", inside)
    try:
        assert here.shell(TOKEN).returncode == 0
        own = {
            "port": port, "dashboard-port": dashboard, "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent, **more,
        }  # fmt: skip
        options = [f"--{name} {number}" for name, number in own.items()]
        done = here.shell(" ".join([with_mode(START, mode), *options]))
        assert done.returncode == 0, done.stdout
        yield here
    finally:
        stop(here.environment["HOME"])
        shutil.rmtree(folder, ignore_errors=True)


def with_mode(command: str, mode: str) -> str:
    return command.replace("RAY_AUTH_MODE=token", f"RAY_AUTH_MODE={mode}")


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of a user whose home and Python are in this folder."""
    home = folder / "home"
    home.mkdir()
    return {
        **{name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH") if name in os.environ},
        "HOME": str(home),
        "PATH": f"{python_without_alray(folder / 'python')}:/usr/local/bin:/usr/bin:/bin",
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_raylet_start_wait_time_s": "180",
        "AUTOSCALER_METRIC_PORT": "-1",  # no port: the usual one may be another cluster's
        "DASHBOARD_METRIC_PORT": "-1",
    }


def python_without_alray(folder: Path) -> Path:
    """A virtual environment with everything that is installed here but alray; its programs."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "alray" not in entry.name and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    ray = folder / "bin/ray"
    ray.write_text(f"#!{folder}/bin/python\nfrom ray.scripts.scripts import main\nmain()\n")
    ray.chmod(0o755)
    return folder / "bin"


def stop(home: str) -> None:
    """End every process that has this home: `ray stop` would end other clusters on this machine as well."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), sent)
            except OSError:
                continue  # it has ended, or is somebody else's
        time.sleep(2)
