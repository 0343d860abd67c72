"""A program: what a run asks of a cluster of three nodes before it begins, and where its parts are put.

python three_nodes.py <folder>

Prints one JSON object. The fourth node, which comes last, has another alray.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

import alray
from alray import node_check
from alray.config import ResourceConfig
from alray.demand import training
from alray.features.arrays import ArraySource, cut
from alray.reservation import ANYBODY, ClusterError, reserve
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.selection.select import select_from
from alray.selection.shards import RayActors

CPUS = 3


def other_alray(folder: Path) -> dict[str, str]:
    """The environment of a node whose processes have another alray than this one, whatever path they are given."""
    shutil.copytree(Path(alray.__file__).parent, folder / "alray", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "alray/keyed.py").open("a") as file:
        file.write("# changed\n")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport alray\n")
    return {"PYTHONPATH": str(folder)}


def refusal(*places: dict[str, str]) -> str:
    try:
        node_check.check(*places)
    except ClusterError as error:
        return str(error)
    return ""


def selection() -> dict[str, Any]:
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


def trained(placement: str) -> int:
    """On how many nodes a training has its two workers."""
    resources = ResourceConfig.model_validate({"train_workers": 2, "train_placement": placement})
    with reserve(ANYBODY, "train", training(resources, use_gpu=False)) as held:
        return len(set(held.nodes()))


def main(folder: Path) -> None:
    head = {"num_cpus": CPUS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=CPUS)
    cluster.wait_for_nodes()
    place = folder / "runs"
    place.mkdir()
    began = time.monotonic()
    found: dict[str, Any] = {"several": node_check.several(), "fits": refusal({"root": str(place)}, {})}
    found["seconds"], began = time.monotonic() - began, time.monotonic()
    found["again"] = refusal({"root": str(place)}, {})
    found["again seconds"] = time.monotonic() - began
    found["left behind"] = [path.name for path in place.iterdir()]
    found["own memory"] = refusal({"root": str(place), "run_dir": "memory://runs/one"}, {})
    found["no file"] = refusal({"root": str(place)}, {"model.checkpoint": str(folder / "none.pt")})
    found["selection"] = selection()
    found["trained on"] = {placement: trained(placement) for placement in ("pack", "spread")}
    cluster.add_node(num_cpus=CPUS, env_vars=other_alray(folder / "other"))
    cluster.wait_for_nodes()
    found["other alray"] = refusal({"root": str(place)}, {})
    print(json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
