"""A program: what a run asks of a cluster of three nodes before it begins, and where its parts are put.

python three_nodes.py <folder>

Prints one JSON object. Two more nodes come last: one with a wrong key to the object store, one with another alray.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import ray
from ray.cluster_utils import Cluster

import alray
from alray import RunConfig, node_check
from alray.config import ResourceConfig
from alray.data.catalog import index
from alray.demand import extraction, selection, training
from alray.features.arrays import ArraySource, cut
from alray.features.extract import Measurers
from alray.joining import rejoin
from alray.reservation import ANYBODY, ClusterError, reserve
from alray.rundir import RunDir
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.selection.select import select_from
from alray.selection.shards import RayActors
from alray.store import Store

CPUS = 3


def other_alray(folder: Path) -> dict[str, str]:
    """The environment of a node whose processes have another alray than this one, whatever path they are given."""
    shutil.copytree(Path(alray.__file__).parent, folder / "alray", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "alray/keyed.py").open("a") as file:
        file.write("# changed\n")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport alray\n")
    return {"PYTHONPATH": str(folder)}


@contextmanager
def object_store() -> Iterator[str]:
    """A bucket of a server that demands keys, which the environment of this process names."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    os.environ.update(AWS_ENDPOINT_URL=url, AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true")
    os.environ.update(AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any")
    boto3.client("s3").create_bucket(Bucket="alray-test")
    iam, rule = boto3.client("iam"), {"Effect": "Allow", "Action": "*", "Resource": "*"}
    iam.create_user(UserName="user")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="user")["AccessKey"]
    os.environ.update(AWS_ACCESS_KEY_ID=key["AccessKeyId"], AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"])
    demand = Request(f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST")
    urlopen(demand).close()  # from now on
    yield "s3://alray-test/runs"
    server.stop()


def drawing(folder: Path) -> str:
    """What a command is told that works on a run whose directory the nodes do not reach."""
    np.savez(folder / "pool.npz", features=np.ones((4, 2), np.float32), label=[0, 1, 0, 1])
    catalog = index(str(folder / "pool.npz"), str(folder / "catalog"))
    try:
        rejoin(RunDir("memory://runs/drawn"), RunConfig(root=str(folder)), catalog, np.arange(4)).cluster  # noqa: B018
    except ClusterError as error:
        return str(error)
    return ""


def refusal(*places: dict[str, str]) -> str:
    try:
        node_check.check(*places)
    except ClusterError as error:
        return str(error)
    return ""


def selected() -> dict[str, Any]:
    """The picks of three shards on three nodes, and of one in this process."""
    rng = np.random.default_rng(0)
    columns = {"embedding": rng.normal(size=(300, 6)).astype(np.float32)}
    strategy, context = build("k_center"), Context(seed=1, round=0, num_classes=3)
    parts = [ArraySource(np.arange(300)[at], {k: v[at] for k, v in columns.items()}) for at in cut(300, 3)]
    with RayActors(parts, strategy, context) as actors:
        three = strategy.select(actors, 30, context)
        (group,) = (held for held in ray.util.placement_group_table().values() if held["state"] == "CREATED")
    one = select_from([ArraySource(np.arange(300), columns)], strategy, 30, context)
    return {"equal": one == three, "nodes": len(set(group["bundles_to_node_id"].values()))}


@ray.remote(num_cpus=1)
class Idle:
    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def one_after_the_other(times: int) -> list[list[int]]:
    """On how many nodes the three workers of each stage are, and for how many decoders it has room. Each stage is asked
    for as soon as the one before has given back what its actors still use. Decoders take a whole CPU, as workers do."""
    resources = ResourceConfig.model_validate({"train_workers": 3, "train_placement": "spread"})
    found = list[list[int]]()
    for wanted in [extraction(3, 1, False), training(resources, False), selection(3, 1)] * times:
        with reserve(ANYBODY, "stage", wanted) as held:
            actors = [Idle.options(scheduling_strategy=held.worker(n)).remote() for n in range(3)]
            where = ray.get([actor.node.remote() for actor in actors])
            assert where == held.nodes()
            found.append([len(set(where)), held.decoders])
    return found


def measured(times: int) -> list[bool]:
    """Whether the three actors of each extraction are on the nodes of its reservation, one after the other."""
    measurers, found = Measurers(3), list[bool]()
    for _ in range(times):
        with reserve(ANYBODY, "extract", extraction(3, 1, False)) as held:
            actors = measurers.some(held)
            where = [actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for actor in actors]
            found.append(ray.get(where) == held.nodes() and len(set(held.nodes())) == 3)
    return found


def held_up(node: Any) -> int:
    """On how many nodes a stage is that is asked for while one of them has not given back what the stage before had:
    it stands still for some seconds, as on a busy machine."""
    raylet = node.all_processes["raylet"][0].process.pid
    with reserve(ANYBODY, "before", extraction(3, 1, False)):
        os.kill(raylet, signal.SIGSTOP)
    threading.Timer(12, os.kill, (raylet, signal.SIGCONT)).start()
    with reserve(ANYBODY, "after", extraction(3, 1, False)) as held:
        return len(set(held.nodes()))


def trained(placement: str) -> int:
    """On how many nodes a training has its two workers."""
    resources = ResourceConfig.model_validate({"train_workers": 2, "train_placement": placement})
    with reserve(ANYBODY, "train", training(resources, use_gpu=False)) as held:
        return len(set(held.nodes()))


def main(folder: Path, bucket: str) -> None:
    head = {"num_cpus": CPUS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=CPUS) for _ in range(2)]
    cluster.wait_for_nodes()
    place = folder / "runs"
    place.mkdir()
    written = {"root": str(place)}
    began = time.monotonic()
    found: dict[str, Any] = {"several": node_check.several(), "fits": refusal(written, {})}
    found["seconds"], began = time.monotonic() - began, time.monotonic()
    found["again"] = refusal(written, {})
    found["again seconds"] = time.monotonic() - began
    found["in a bucket"] = refusal({"root": bucket}, {})
    found["left behind"] = [path.name for path in place.iterdir()] + Store(bucket, sums="").names()
    found["own memory"] = refusal({**written, "run_dir": "memory://runs/one"}, {})
    found["no file"] = refusal(written, {"model.checkpoint": str(folder / "none.pt")})
    found["selection"] = selected()
    found["trained on"] = {placement: trained(placement) for placement in ("pack", "spread")}
    found["one after the other"] = one_after_the_other(2)
    found["measured there"] = measured(2)
    found["held up"] = held_up(nodes[0])
    found["drawing"] = drawing(folder)
    cluster.add_node(num_cpus=CPUS, env_vars={"AWS_SECRET_ACCESS_KEY": "wrong"})
    cluster.wait_for_nodes()
    found["wrong key"] = refusal({"root": bucket}, {})
    cluster.add_node(num_cpus=CPUS, env_vars=other_alray(folder / "other"))
    cluster.wait_for_nodes()
    found["other alray"] = refusal(written, {})
    print(json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    with object_store() as uri:
        main(Path(sys.argv[1]), uri)
