"""What `bench_chaos.py` breaks: a Ray cluster of several nodes, an object store, and the process of a run.

All of it is on this machine, and listens on loopback or needs the token of this process.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from processes import parent, processes
from s3_server import Server

BUCKET = "chaos"
SMALL = 80 * 2**20  # bytes of an object store
# Ray notices a node that is gone in three seconds instead of half a minute.
NOTICED_SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
}
QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_gcs_server_port_wait_time_s": "180",
    "RAY_enable_metrics_collection": "0",
    "OMP_NUM_THREADS": "1",
}


def prepare() -> None:
    """The environment of all processes: a token, and one thread for each. Before Ray is imported."""
    for name, value in QUIET_RAY.items():
        os.environ.setdefault(name, value)
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        os.environ.pop(name, None)


@contextmanager
def storage() -> Iterator[Server]:
    """Context manager: the object store, with an empty bucket. All processes that are started in it know it."""
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells every request
    server = Server()
    server.start()
    os.environ.update(server.settings)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield server
    server.stop()


def tried(start: Callable[[], Any]) -> Any:
    """What is started, at the fifth attempt at the latest: on a busy machine a node gives itself up when its agents
    take longer than 15 seconds."""
    for attempt in range(5):
        try:
            return start()
        except Exception as error:  # Ray raises nothing more special
            print(f"a node did not start, attempt {attempt + 1}: {error}", file=sys.stderr)
    raise AssertionError("no node starts here")


class Machines:
    """A Ray cluster: a head without CPUs, and nodes with one CPU each."""

    def __init__(self, nodes: int) -> None:
        self.count = nodes
        self.start()

    def start(self) -> None:
        """Start all nodes; the address is another one each time."""
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 0, "include_dashboard": False, "object_store_memory": SMALL, "_system_config": NOTICED_SOON,
        }  # fmt: skip
        self._cluster = tried(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(self.count):
            self.add_node()
        self._cluster.wait_for_nodes(timeout=180)
        self.address = str(self._cluster.address)

    def stop(self) -> None:
        self._cluster.shutdown()

    def add_node(self) -> None:
        tried(lambda: self._cluster.add_node(num_cpus=1, object_store_memory=SMALL))

    def kill_node(self, holding: int) -> bool:
        """SIGKILL the processes of the node of a worker process. Returns whether there was one."""
        node = self._nodes().get(parent(holding))
        if node is None or node is self._cluster.head_node:
            return False
        self._cluster.remove_node(node, allow_graceful=False)
        return True

    def kill_head(self) -> None:
        """SIGKILL the service that knows who does what (GCS)."""
        (gcs,) = self._cluster.head_node.all_processes["gcs_server"]
        gcs.process.kill()

    def workers(self, title: str) -> list[int]:
        """Processes of the cluster's workers whose title, as Ray sets it, begins so: ascending. Ray's own agents, with
        which a node ends, are none."""
        nodes = self._nodes()
        agents = {*processes("ray::DashboardAgent"), *processes("ray::RuntimeEnvAgent")}
        return [pid for pid in processes(f"ray::{title}") if pid not in agents and parent(pid) in nodes]

    def _nodes(self) -> dict[int, Any]:
        """The nodes by the process that starts their workers."""
        return {
            each.process.pid: node
            for node in self._cluster.list_all_nodes()
            for each in node.all_processes.get("raylet", [])
        }


# `alray run CONFIG.json`, but for the report at its end, which takes longer than a round.
_RUN = """
import sys
from alray import RunConfig, run
from alray.cli import guarded
guarded(lambda: run(RunConfig.from_json(open(sys.argv[1]).read())))
"""


class Driver:
    """The process of a run: one command, which is started again whenever it has ended with something else than 0."""

    def __init__(self, config: Path, log: Path) -> None:
        self._command = [sys.executable, "-c", _RUN, str(config)]
        self._log = log
        self.starts = 0
        self.began: dict[int, float] = {}  # when each round began
        self.round, self.stage, self.since = -1, "", time.monotonic()

    def start(self, address: str) -> None:
        self.starts += 1
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "RAY_ADDRESS": address},
        )  # fmt: skip
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with self._log.open("a") as log:
            for line in process.stdout:
                now = time.monotonic()
                log.write(f"{now:.3f} {line}")
                log.flush()
                if found := re.search(r" round (\d+)(?: of 0-\d+)? · (\w+) · ", line):
                    number = int(found[1])
                    self.began.setdefault(number, now)
                    self.round, self.stage, self.since = number, found[2], now

    def usual(self) -> float:
        """The median of the seconds of its rounds so far; 2 in the first."""
        began = [self.began[number] for number in sorted(self.began)]
        return statistics.median([late - early for early, late in itertools.pairwise(began)] or [2.0])

    def tail(self) -> str:
        """The end of what it has printed."""
        return self._log.read_text()[-3000:]
