"""README's commands, given to a real cluster whose Python has alray's dependencies but not alray: it travels along."""

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

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
TOKEN, START, SUBMIT = re.findall(
    r"^((?:RAY_AUTH_MODE=token )?ray (?:get-auth-token|start|job submit) .*?)(?: +#.*)?$",
    (REPOSITORY / "README.md").read_text(),
    flags=re.MULTILINE,
)
SHORT = "--strategy random --rounds 2 --budget 10 --train.epochs 1 --train.checkpoint-every 1"  # one run, not two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Machine:
    """A user's shell on a machine with a home and a cluster of its own."""

    environment: dict[str, str]
    dashboard: int

    def shell(self, command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=REPOSITORY, env={**self.environment, **changes}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def submit(self, program: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """README's `ray job submit`, with another program behind the dashes."""
        command = SUBMIT.partition(" -- ")[0].replace("127.0.0.1:8265", f"127.0.0.1:{self.dashboard}")
        return self.shell(f"{command} -- {program}", **changes)


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


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def stop(home: Path) -> None:
    """End every process that has this home: `ray stop` would end other clusters on this machine as well."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), sent)
            except OSError:
                continue  # it has ended, or is somebody else's
        time.sleep(2)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="alray"))  # short: Ray's sockets lie below it
    home = folder / "home"
    home.mkdir()
    keep = {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH") if name in os.environ}
    port, dashboard, client, agent = free_ports(4)
    environment = {
        **keep,
        "HOME": str(home),
        "PATH": f"{python_without_alray(folder / 'python')}:/usr/local/bin:/usr/bin:/bin",
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_raylet_start_wait_time_s": "180",
        "AUTOSCALER_METRIC_PORT": "-1",  # no port: the usual one may be another cluster's
        "DASHBOARD_METRIC_PORT": "-1",
    }
    here = Machine(environment, dashboard)
    try:
        assert here.shell(TOKEN).returncode == 0
        own = {
            "port": port, "dashboard-port": dashboard, "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
        }  # fmt: skip
        started = here.shell(" ".join([START, *(f"--{name} {number}" for name, number in own.items())]))
        assert started.returncode == 0, started.stdout
        yield here
    finally:
        stop(home)
        shutil.rmtree(folder, ignore_errors=True)


def test_alray_is_not_installed_there(machine: Machine) -> None:
    done = machine.shell("cd / && python -c 'import ray, torch, pydantic; import alray'")
    assert "No module named 'alray'" in done.stdout, done.stdout


@pytest.mark.parametrize("program", ["python jobs/digits.py", "jobs/digits.py"])
def test_the_demo_runs_where_it_is_submitted(program: str, machine: Machine, tmp_path: Path) -> None:
    done = machine.submit(f"{program} --root '{tmp_path}/runs' {SHORT}")
    assert done.returncode == 0, done.stdout
    (run,) = (tmp_path / "runs").glob("digits-*/run.json")
    assert (run.parent / "round_01/metrics.json").is_file()
    assert len(list((tmp_path / "runs/digits-images").rglob("*.png"))) == 1797
    assert (tmp_path / "runs/digits-report/report.html").is_file()


def test_a_linear_run_on_embeddings_of_ones_own_runs_where_it_is_submitted(machine: Machine, tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(600) % 5
    features = (rng.normal(size=(600, 8)) + 2 * rng.normal(size=(5, 8))[labels]).astype(np.float32)
    np.savez(tmp_path / "features.npz", features=features, label=labels, is_test=np.arange(600) % 6 == 0)
    done = machine.submit(
        f"python jobs/imagenet_base.py --data.root '{tmp_path}/features.npz' --train.mode linear --root '{tmp_path}' "
        "--rounds 2 --budget 20 --split.val-size 25 --split.seed-set-size 20 --train.epochs 2 --top-k 2 "
        "--resources.select-workers process"
    )
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.glob("*/round_01/metrics.json"))) == 1


def test_relative_places_are_refused_with_what_to_give(machine: Machine) -> None:
    done = machine.submit("python jobs/imagenet_base.py --data.root images --model.checkpoint moco.pth.tar")
    assert done.returncode != 0
    assert "root: expected an absolute path that every node of the cluster reaches" in done.stdout, done.stdout
    assert '--data.root "$PWD/images"' in done.stdout
    assert '--model.checkpoint "$PWD/moco.pth.tar"' in done.stdout
    assert "Traceback" not in done.stdout.partition("---")[0]


def test_a_job_without_the_token_is_not_accepted(machine: Machine, tmp_path: Path) -> None:
    done = machine.submit("python -c 'print(6 * 7)'", HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    assert "42" not in done.stdout
    assert "authentication" in done.stdout.lower(), done.stdout
