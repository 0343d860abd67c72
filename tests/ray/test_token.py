"""A cluster that alray starts has a token of its own; one that it joins gets the user's. Programs of their own: Ray
keeps mode and token for the life of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

THEIRS = "1" * 64
START_TWICE = """
import os, ray
from alray import cluster
from alray.config import ResourceConfig

def variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}

@ray.remote
def inherited():
    return variables()

users, tokens = variables(), []
for _ in range(2):
    cluster.start(ResourceConfig(num_cpus=2))
    ours = variables()
    assert ray.get(inherited.remote()) == ours, "its workers know the token by their environment"
    assert set(ours) == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} and ours["RAY_AUTH_MODE"] == "token", ours
    tokens.append(ours["RAY_AUTH_TOKEN"])
    ray.shutdown()
    assert variables() == users, "the user's environment is put back"
assert tokens[0] != tokens[1] and min(map(len, tokens)) == 64
assert users.get("RAY_AUTH_TOKEN") not in tokens
if len(users) == 2:  # a cluster of the user's own, afterwards, has the user's token
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    assert ray.get(inherited.remote()) == users
"""
HOLD = """
import ray
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""
JOIN = """
import os, sys, ray  # Ray reads mode and token here, before they are there
from alray import cluster
from alray.config import ResourceConfig
os.environ.update(pair.split("=") for pair in sys.argv[2:])
try:
    print("CPUs", cluster.start(ResourceConfig(address=sys.argv[1])).cpus)
except cluster.ClusterError as error:
    print(error)
"""
JOIN_WITH_ANOTHER_RAY = JOIN.replace("from alray import", "ray.__version__ = '2.0.1'\nfrom alray import", 1)


def program(text: str, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], env=environment(home, **variables), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def environment(home: Path, **variables: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    return {**others, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2]), **variables}


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="nothing", marks=pytest.mark.slow),
        pytest.param({"RAY_AUTH_MODE": "disabled"}, id="disabled"),
        pytest.param({"RAY_AUTH_MODE": "token"}, id="token mode", marks=pytest.mark.slow),
        pytest.param({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": THEIRS}, id="a token"),
        pytest.param(
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "token"}, id="a token's path", marks=pytest.mark.slow
        ),
    ],
)
def test_a_started_cluster_has_a_token_of_its_own(variables: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if "RAY_AUTH_TOKEN_PATH" in variables:
        (tmp_path / "token").write_text(THEIRS)
        variables = {**variables, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    done = program(START_TWICE, home, **variables)
    assert done.returncode == 0, done.stderr
    assert not list(home.rglob("*token*"))


@pytest.fixture(scope="module")
def cluster_of_theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running cluster that demands THEIRS."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(tmp_path_factory.mktemp("home"), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=THEIRS),
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("\n")


def test_a_cluster_is_joined_with_the_users_token(cluster_of_theirs: str, tmp_path: Path) -> None:
    given = ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={THEIRS}"]
    done = program(JOIN, tmp_path, cluster_of_theirs, *given)
    assert done.stdout == "CPUs 4.0\n", done.stderr


@pytest.mark.parametrize(
    "given",
    [
        [],
        pytest.param(["RAY_AUTH_MODE=token"], marks=pytest.mark.slow),
        ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={'2' * 64}"],
    ],
)
def test_a_cluster_whose_token_is_not_known_is_named(given: list[str], cluster_of_theirs: str, tmp_path: Path) -> None:
    done = program(JOIN, tmp_path, cluster_of_theirs, *given)
    assert done.returncode == 0, done.stderr
    assert f"the Ray cluster at '{cluster_of_theirs}' expected its token" in done.stdout
    assert "RAY_AUTH_TOKEN_PATH" in done.stdout


def test_a_cluster_with_another_ray_is_refused_with_both_versions(cluster_of_theirs: str, tmp_path: Path) -> None:
    given = ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={THEIRS}"]
    done = program(JOIN_WITH_ANOTHER_RAY, tmp_path, cluster_of_theirs, *given)
    assert done.returncode == 0, done.stderr
    assert f"a Ray cluster at '{cluster_of_theirs}' with the Ray and Python of this process" in done.stdout
    assert "Ray: 2.0.1" in done.stdout
