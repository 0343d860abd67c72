"""Three nodes with addresses of their own, started by the commands of cluster/README.md, with one token for all of
them, and without any.

The nodes are network namespaces, each with a temporary folder of its own as another machine has. Those without a token
are connected with nothing but each other: who reaches such a cluster can run code on it.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from namespaces import Host, network
from shells import REPOSITORY, SHORT, TOKEN, Machine, environment_of, stop, with_mode

HEAD, WORKER = re.findall(
    r"^(RAY_AUTH_MODE=token ray start .*?)(?: +#.*)?$", (REPOSITORY / "cluster/README.md").read_text(), re.MULTILINE
)[:2]
ROOM = "--num-cpus 3 --object-store-memory 150000000"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module", params=["token", "disabled"])
def mode(request: pytest.FixtureRequest) -> str:
    """RAY_AUTH_MODE."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(mode: str) -> Iterator[Path]:
    """What all nodes share, but for <folder>/ray, which is another one on each, and <folder>/partly, which the last
    node does not share. <folder>/alray is another alray, which the last node has where the others have this one."""
    made = Path(tempfile.mkdtemp(prefix="alray"))  # short: Ray's sockets lie below it
    for name in ("ray", "partly", "runs"):
        (made / name).mkdir()
    shutil.copytree(REPOSITORY / "alray", made / "alray", ignore=shutil.ignore_patterns("__pycache__"))
    with (made / "alray/keyed.py").open("a") as file:
        file.write("# changed\n")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(mode: str) -> Iterator[list[Host]]:
    with network(3, "10.231.78", with_this=mode == "token") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def user(mode: str, folder: Path, nodes: list[Host]) -> Iterator[Machine]:
    """The shell of a user who has the token: on a fourth machine, or on the first node if only nodes are connected."""
    inside = () if mode == "token" else tuple(nodes[0].inside)
    here = Machine(environment_of(folder), f"{nodes[0].address}:8265", inside)
    try:
        assert here.shell(TOKEN).returncode == 0
        for number, node in enumerate(nodes):
            mounts = [f"mount -t tmpfs tmpfs '{folder}/ray'"]
            if number == 2:
                mounts.append(f"mount -t tmpfs tmpfs '{folder}/partly'")
                mounts.append(f"mount --bind '{folder}/alray' '{REPOSITORY}/alray'")
            start = with_mode(WORKER if number else HEAD, mode).replace("HEAD:", f"{nodes[0].address}:")
            start += f" --node-ip-address {node.address} {ROOM}"
            start += "" if number else f" --dashboard-host {node.address}"
            done = replace(here, inside=tuple(node.inside)).shell(" && ".join([*mounts, start]))
            assert done.returncode == 0, done.stdout
        yield here
    finally:
        stop(here.environment["HOME"])


def actors(user: Machine, mode: str) -> dict[str, Counter[str]]:
    """How many actors of each class were on which node, by its address, as Ray's state API tells."""

    def listed(what: str) -> list[dict[str, str]]:
        done = user.shell(
            f"RAY_AUTH_MODE={mode} ray list {what} --address http://{user.dashboard} --limit 1000 --format json 2>&-"
        )
        assert done.returncode == 0, done.stdout
        found: list[dict[str, str]] = json.loads(done.stdout[done.stdout.index("[") :])
        return found

    addresses = {node["node_id"]: node["node_ip"] for node in listed("nodes")}
    found: dict[str, Counter[str]] = {}
    for actor in listed("actors"):
        found.setdefault(actor["class_name"], Counter())[addresses.get(actor["node_id"], "nowhere")] += 1
    return found


def test_the_digits_run_over_three_nodes(user: Machine, mode: str, nodes: list[Host], folder: Path) -> None:
    done = user.submit(
        f"python jobs/digits.py --root '{folder}/runs' --strategy margin {SHORT} --resources.train-placement spread "
        "--resources.train-workers 3 --resources.extract-actors 3 --resources.select-shards 3",
        mode,
    )
    assert done.returncode == 0, done.stdout
    assert len(list((folder / "runs").glob("digits-*/round_01/metrics.json"))) == 2  # margin and random
    assert not list((folder / "runs").rglob(".alray-node-check*"))
    where, every = actors(user, mode), {node.address for node in nodes}
    print(json.dumps(where))
    for what in ("RayTrainWorker", "_Actor"):
        assert set(where[what]) == every, what
    assert len(where["Measurer"]) >= 2 and set(where["Measurer"]) <= every  # the features of the digits have two parts


def test_a_root_that_one_node_does_not_reach_is_refused(
    user: Machine, mode: str, nodes: list[Host], folder: Path
) -> None:
    done = user.submit(f"python jobs/digits.py --root '{folder}/partly/runs' --strategy random {SHORT}", mode)
    assert done.returncode != 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("error: root: "))
    assert f"got {folder}/partly/runs, which node {nodes[2].address} does not reach: what was written" in line, line
    assert "on a shared file system or in an object store" in line
    assert not list((folder / "partly").rglob("round_*"))


def test_a_node_with_another_alray_is_refused(user: Machine, mode: str, nodes: list[Host], folder: Path) -> None:
    """Each node has an alray of its own in the same place, as in an image: none travels with the job."""
    environment = json.dumps({"env_vars": {"PYTHONPATH": str(REPOSITORY)}})
    done = user.shell(
        f"RAY_AUTH_MODE={mode} ray job submit --address http://{user.dashboard} --runtime-env-json '{environment}' "
        f"-- python '{REPOSITORY}/jobs/digits.py' --root '{folder}/runs/other' --strategy random {SHORT}"
    )
    assert done.returncode != 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("error: resources: expected the same"))
    ours, theirs = re.findall(r"alray \d\S+ \(\w{8}\)", line)
    assert ours != theirs and f"got {theirs} on {nodes[2].address}. " in line, line
    assert not list((folder / "runs/other").rglob("round_*"))


def test_who_has_no_token_is_refused(user: Machine, mode: str, tmp_path: Path) -> None:
    if mode != "token":
        pytest.skip("this cluster demands none")
    done = user.submit('python -c \'print("it" + " ran")\'', mode="disabled", HOME=str(tmp_path))
    assert done.returncode != 0
    assert "it ran" not in done.stdout
    assert "authentication" in done.stdout.lower(), done.stdout


def picks(runs: Path) -> list[list[int]]:
    return [pq.read_table(path)["row"].to_pylist() for path in sorted(runs.glob("digits-*/round_*/picks.parquet"))]


def when(come: Callable[[], object], work: Callable[[], None], ended: threading.Event) -> threading.Thread:
    """A thread that does something at a moment."""

    def wait() -> None:
        while not come():
            if ended.wait(0.1):
                return
        work()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_node_that_is_cut_off_comes_back_or_is_lost(user: Machine, nodes: list[Host], folder: Path) -> None:
    """For ten seconds in the first round, and in the second one for good. The last test of these nodes: a node that
    was lost stays away."""
    command = (
        f"python jobs/digits.py --strategy random {SHORT} --resources.train-workers 3 --resources.train-placement "
    )
    command += "spread --resources.extract-actors 3 --root"
    calm, cut, ended = folder / "runs/calm", folder / "runs/cut", threading.Event()
    done = user.submit(f"{command} '{calm}'")
    assert done.returncode == 0, done.stdout

    def shortly() -> None:
        nodes[2].cut_off()
        time.sleep(10)
        nodes[2].plug_in()

    threads = [
        when(lambda: list(cut.glob("digits-*/round_00/checkpoint/progress.json")), shortly, ended),
        when(lambda: list(cut.glob("digits-*/round_01/checkpoint/progress.json")), nodes[2].cut_off, ended),
    ]
    began = time.monotonic()
    done = user.submit(f"{command} '{cut}'")
    ended.set()
    for thread in threads:
        thread.join()
    print(time.monotonic() - began, done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(picks(cut)) == 1 and picks(cut) == picks(calm)
    restarts = [
        one
        for path in cut.glob("digits-*/round_*/timings.json")
        for one in json.loads(path.read_text()).get("restarts", [])
    ]
    assert restarts
