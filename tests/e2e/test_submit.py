"""README's commands, given to a real cluster whose Python has alray's dependencies but not alray: it travels along."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from namespaces import host
from shells import REPOSITORY, SHORT, SUBMIT, Machine, started

PROGRAMS = ["python jobs/digits.py", "jobs/digits.py"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    yield from started("token")


@pytest.fixture(scope="module")
def open_machine() -> Iterator[Machine]:
    """Its cluster demands no token, so it is connected with nothing: who reaches such a cluster can run code on it."""
    with host() as alone:
        yield from started("disabled", tuple(alone.inside))


def test_alray_is_not_installed_there(machine: Machine) -> None:
    done = machine.shell("cd / && python -c 'import ray, torch, pydantic; import alray'")
    assert "No module named 'alray'" in done.stdout, done.stdout


def checkout(folder: Path) -> Path:
    """What a clone of the repository has."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def test_the_command_runs_as_it_is_written(machine: Machine, tmp_path: Path) -> None:
    """It is only made shorter, by options behind it."""
    here = checkout(tmp_path / "alray")
    done = machine.shell(f"{SUBMIT.replace('127.0.0.1:8265', machine.dashboard)} --strategy random {SHORT}", where=here)
    assert done.returncode == 0, done.stdout
    assert len(list((here / "runs").glob("digits-*/round_01/metrics.json"))) == 1
    assert (here / "runs/digits-report/report.html").is_file()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_demo_runs_where_it_is_submitted(program: str, machine: Machine, tmp_path: Path) -> None:
    done = machine.submit(f"{program} --root '{tmp_path}/runs' --strategy random {SHORT}")  # one run, not two
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
    done = machine.submit('python -c \'print("it" + " ran")\'', HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    assert "it ran" not in done.stdout
    assert "authentication" in done.stdout.lower(), done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_demo_runs_on_a_cluster_that_demands_no_token(program: str, open_machine: Machine, tmp_path: Path) -> None:
    done = open_machine.submit(f"{program} --root '{tmp_path}/runs' --strategy random {SHORT}", mode="disabled")
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "runs").glob("digits-*/round_01/metrics.json"))) == 1
