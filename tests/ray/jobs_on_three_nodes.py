"""A program: real jobs on a cluster of three nodes, and one of them on one node.

python jobs_on_three_nodes.py <folder>

Prints one JSON object: for each job its exit code, the last lines of what it said, on which of the nodes (0, 1, 2) how
many of its actors and tasks were by their names, as Ray's state API tells, and its picks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from many_jobs import config_of, write_images
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks

from alray import replace

CPUS = 4
START = """
import sys
from alray.config import RunConfig
config = RunConfig.from_json(open(sys.argv[2]).read())
if "sweep" in sys.argv[1]:
    from alray.sweep import SweepConfig, sweep
    failed = sweep(config, {"seed": [0, 1, 2]}, SweepConfig(cpus_per_trial=2)).failed
    sys.exit(str(failed) if failed else 0)
from alray.rounds import run
run(config)
"""
JOBS = {"packed": "finetune", "spread": "finetune", "sweep": "sweep"}
NUMBERS = {"resources.train_workers": 3, "resources.extract_actors": 3, "resources.select_shards": 3}
SPREAD = {**NUMBERS, "resources.train_placement": "spread", "features.part_rows": 3}
CHANGES: dict[str, dict[str, Any]] = {
    "packed": {**NUMBERS, "features.part_rows": 3}, "spread": SPREAD, "one node": SPREAD, "sweep": {},
}  # fmt: skip


def job(folder: Path, name: str, kind: str, address: str) -> dict[str, Any]:
    config = replace(config_of(folder, name.replace(" ", "-"), kind), CHANGES[name])
    path = folder / f"{name}.json"
    path.write_text(config.to_json())
    environment = {**os.environ, **({"RAY_ADDRESS": address} if address else {})}
    done = subprocess.run(
        [sys.executable, "-c", START, kind, str(path)], env=environment, check=False, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    picks = {
        str(path.relative_to(config.root)).partition("/")[2]: pq.read_table(path)["row"].to_pylist()
        for path in sorted(Path(config.root).rglob("picks.parquet"))
    }
    return {"code": done.returncode, "said": done.stdout[-3000:], "picks": picks}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        found: int = opened.getsockname()[1]
    return found


def main(folder: Path) -> None:
    write_images(folder)
    head = {"num_cpus": CPUS, "include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.head_node, *(cluster.add_node(num_cpus=CPUS) for _ in range(2))]
    numbers = {node.node_id: number for number, node in enumerate(nodes)}
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    found, seen = {}, set[str]()
    for name, kind in JOBS.items():
        found[name] = job(folder, name, kind, cluster.address)
        where: dict[str, Counter[int]] = {}
        for actor in list_actors(limit=10_000):
            if actor.actor_id not in seen and actor.node_id in numbers:
                where.setdefault(actor.class_name, Counter())[numbers[actor.node_id]] += 1
            seen.add(actor.actor_id)
        for task in list_tasks(limit=10_000, raise_on_missing_output=False):
            if task.task_id not in seen and task.type == "NORMAL_TASK" and task.node_id in numbers:
                where.setdefault(task.name, Counter())[numbers[task.node_id]] += 1
            seen.add(task.task_id)
        found[name]["where"] = where
    ray.shutdown()
    cluster.shutdown()
    found["one node"] = job(folder, "one node", "finetune", "")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
