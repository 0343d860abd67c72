"""A program: a stage on a cluster of three nodes, one of which is killed while the stage works.

python losing_nodes.py <what is done> <folder>

Prints one JSON object: whether the result is that of the undisturbed stage, its lines, and seconds of both.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.cluster_utils import Cluster
from ray.util import placement_group, placement_group_table

from alray import RunConfig
from alray.cluster import ClusterError, Joined
from alray.cluster_state import nodes_of
from alray.data.catalog import Catalog, index
from alray.demand import Demand
from alray.features.arrays import ArraySource, Shard, cut
from alray.features.extract import Measurers, extract
from alray.features.measures import Extraction, Features, ModelSource
from alray.reservation import Share, reserve
from alray.selection.protocol import Context, Strategy
from alray.selection.registry import build
from alray.selection.select import select_from
from alray.selection.shards import RayActors
from alray.store import Store

SMALL = 80 * 2**20  # bytes of an object store
NOTICED_SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
}
LOADED: dict[str, Any] = {
    "model": {"backbone": "test_resnet"},
    "transform": {"size": 16, "train": "crop_pad", "pad": 1, "resize": 0},
    "train": {"epochs": 6, "batch_size": 16, "lr": 0.1, "checkpoint_every": 1},
    "resources": {"train_workers": 2, "wait_minutes": 3},
}


def images(folder: Path, number: int) -> Catalog:
    rng = np.random.default_rng(0)
    for at in range(number):
        path = folder / "images" / f"class{at % 3}" / f"{at:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path)
    return index(str(folder / "images"), str(folder / "catalog"))


class Killer:
    """Kills the node of the last bundle (or the first) of the stage's reservation when a moment has come."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number, self.killed = cluster, number, ""

    def now(self) -> None:
        """Kill once."""
        if self.killed:
            return
        (group,) = (one for one in placement_group_table().values() if one["state"] == "CREATED")
        nodes = group["bundles_to_node_id"]
        self.killed = nodes[sorted(nodes)[self.number]]
        (node,) = (one for one in self.cluster.worker_nodes if one.node_id == self.killed)
        self.cluster.remove_node(node, allow_graceful=False)

    def when(self, come: Callable[[], bool]) -> threading.Thread:
        """Kill in a thread when the moment has come."""

        def wait() -> None:
            while not come():
                time.sleep(0.02)
            self.now()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


def training(folder: Path, cluster: Cluster, resources: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The node of a training worker. resources: changes of the settings."""
    from alray.config import replace
    from alray.progress import Stages
    from alray.train.driver import train
    from alray.train.measure import model_seed
    from alray.train.restarts import kept_epochs
    from alray.train.supervised import supervised_recipe
    from alray.train.targets import ClassTargets

    changes = {f"resources.{name}": value for name, value in (resources or {}).items()}
    catalog, config = images(folder, 120), replace(replace(RunConfig(), LOADED), changes)
    rows, labels = np.arange(96), catalog.labels()
    joined, found, seconds, losses = Joined(config.resources), [], [], []
    for name in ("undisturbed", "lost"):
        out = Store(str(folder / name))
        recipe = supervised_recipe(
            config, ClassTargets(3), labeled=(rows, labels[:96]), held_out=(np.arange(96, 120), labels[96:]), round=1,
            seed=model_seed(config), start=None, out=out,
        )  # fmt: skip
        stages, began = Stages(name), time.monotonic()
        if name == "lost":
            Killer(cluster, 1).when(lambda out=out: kept_epochs(out) >= 2)  # type: ignore[misc]
        history = train(recipe, catalog, joined, what="training of round 1", stages=stages).history
        seconds.append(time.monotonic() - began)
        found.append(out.read_bytes("model.pt"))
        losses.append([epoch.loss for epoch in history])
    same = found[0] == found[1]
    return {"same": same, "losses": losses, "restarts": stages.restarts, "seconds": seconds}


def extraction(folder: Path, cluster: Cluster) -> dict[str, Any]:
    """The node of an extraction actor and of decoders."""
    from alray.config import FeatureConfig, replace

    catalog, config = images(folder, 200), replace(RunConfig(), LOADED)
    source = ModelSource(config.model, 3, seed=1, weights="", weights_id="fresh", image_size=16)
    measure = Features(source, config.transform, FeatureConfig(dtype="float32", batch_size=8), with_logits=True)
    found, seconds, said = [], [], list[str]()
    for name in ("undisturbed", "lost"):
        killer = Killer(cluster, 0)

        def advance(rows: int, note: str, name: str = name, killer: Killer = killer) -> None:
            if rows and name == "lost":
                killer.now()

        began = time.monotonic()
        extract(
            Extraction(catalog, np.arange(200), measure, part_rows=10), Store(str(folder / name)),
            measurers=Measurers(2), decode_cpus=1, share=Share("x", 3, said.append), advance=advance,
        )  # fmt: skip
        seconds.append(time.monotonic() - began)
        found.append([path.read_bytes() for path in sorted((folder / name).glob("part-*"))])
    return {
        "same": found[0] == found[1],
        "parts": len(found[1]),
        "killed": killer.killed,
        "said": said,
        "seconds": seconds,
    }


def slow(name: str, mark: Path, seconds: float) -> Strategy:
    """The strategy, whose shards take their time from the third call on. Local classes travel by value."""
    strategy = build(name)

    class State:
        def __init__(self, state: Any) -> None:
            self.state, self.calls = state, 0

        def __getattr__(self, method: str) -> Any:
            self.calls += 1
            if self.calls > 2:
                mark.touch()
                time.sleep(seconds)
            return getattr(self.state, method)

    class Slow(Strategy):
        needs = strategy.needs

        def open(self, shard: Shard, context: Context) -> State:
            return State(strategy.open(shard, context))

        def select(self, shards: Any, budget: int, context: Context) -> Any:
            raise NotImplementedError

    return Slow()


def selection(
    folder: Path, cluster: Cluster, cpus: float = 1, killer: type[Killer] = Killer, pause: float = 0.3
) -> dict[str, Any]:
    """The node of a shard. With two CPUs for each shard the two nodes that are left have no room for three."""
    rng = np.random.default_rng(0)
    embedding, context = rng.normal(size=(600, 8)).astype(np.float32), Context(seed=1, round=0, num_classes=3)
    rows, strategy, said = np.arange(600), build("k_center"), list[str]()
    sources = [ArraySource(rows[part], {"embedding": embedding[part]}) for part in cut(600, 3)]
    began = time.monotonic()
    expected = select_from(sources, strategy, 200, context)
    seconds = [time.monotonic() - began]
    began = time.monotonic()
    slowly = slow("k_center", folder / "mark", pause)
    with RayActors(sources, slowly, context, cpus, Share("x", 3, said.append)) as actors:
        kills = killer(cluster, 1)
        done = kills.when((folder / "mark").exists)
        same = strategy.select(actors, 200, context) == expected
        done.join()
    return {"same": same, "killed": kills.killed, "said": said, "seconds": [*seconds, time.monotonic() - began]}


def small_store(folder: Path, cluster: Cluster) -> dict[str, Any]:
    """A selection that sends twice as much as the object stores of all nodes hold."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(180_000, 1024)).astype(np.float32)
    context, rows, strategy = Context(seed=1, round=0, num_classes=3), np.arange(len(embedding)), build("k_center")
    sources = [ArraySource(rows[part], {"embedding": embedding[part]}) for part in cut(len(rows), 3)]
    expected = select_from(sources, strategy, 5, context)
    began = time.monotonic()
    same = select_from(sources, strategy, 5, context, workers="ray") == expected
    return {"same": same, "sent": embedding.nbytes, "seconds": time.monotonic() - began}


def drained(folder: Path, cluster: Cluster) -> dict[str, Any]:
    """The node of a shard is announced to go, as an autoscaler does for a spot machine, and goes two seconds later. A
    reservation that is made in between is not put on it."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    from alray.demand import selection as shards
    from alray.reservation import reserve

    preempted = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    found: dict[str, Any] = {}

    class Announced(Killer):
        def now(self) -> None:
            nodes = [node.node_id for node in self.cluster.worker_nodes]
            (group,) = (one for one in placement_group_table().values() if one["state"] == "CREATED")
            bundles = group["bundles_to_node_id"]
            goes = bundles[sorted(bundles)[self.number]]
            deadline = int(1000 * (time.time() + 2))
            found["accepted"] = GcsClient(address=cluster.address).drain_node(goes, preempted, "test", deadline)[0]
            with reserve(Share("y"), "select", shards(len(nodes) - 1, 0.5)) as reservation:
                found["avoided"] = goes not in reservation.nodes()
            time.sleep(2)
            super().now()

    return {**selection(folder, cluster, killer=Announced, pause=6), **found}


def fewer(folder: Path, cluster: Cluster) -> dict[str, Any]:
    """A training that needs all nodes, and may go on with fewer workers. One of its nodes is lost for good."""
    return training(folder, cluster, {"cpus_per_train_worker": 2, "decode_cpus": 1, "train_min_workers": 1})


def too_few(folder: Path, cluster: Cluster) -> dict[str, Any]:
    """A selection for which the nodes that are left are too few."""
    began = time.monotonic()
    try:
        return selection(folder, cluster, cpus=2)
    except ClusterError as error:
        code = getattr(error, "exit_code", 2)
        return {"error": str(error), "exit_code": code, "seconds": time.monotonic() - began}


def while_it_waits(folder: Path, cluster: Cluster) -> dict[str, Any]:
    """A stage waits for all CPUs, of which somebody holds one, when a node is lost."""
    held = placement_group([{"CPU": 1}])
    ray.get(held.ready())
    spare = next(node for node in cluster.worker_nodes if node.node_id not in nodes_of(held).values())
    threading.Timer(8, lambda: cluster.remove_node(spare, allow_graceful=False)).start()
    began = time.monotonic()
    try:
        with reserve(Share("digits", 3), "train", Demand(({"CPU": 2.0},) * 3, "a test")):
            return {"error": ""}
    except ClusterError as error:
        return {"error": str(error), "exit_code": error.exit_code, "seconds": time.monotonic() - began}


def main(what: str, folder: Path) -> None:
    cluster = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={
            "num_cpus": 0, "include_dashboard": False, "object_store_memory": SMALL, "_system_config": NOTICED_SOON,
        },
    )  # fmt: skip
    for _ in range(3):
        cluster.add_node(num_cpus=2, object_store_memory=SMALL)
    cluster.wait_for_nodes()
    stages = {
        "training": training, "extraction": extraction, "selection": selection, "too_few": too_few, "fewer": fewer,
        "drained": drained, "small_store": small_store, "while_it_waits": while_it_waits,
    }  # fmt: skip
    print(json.dumps(stages[what](folder, cluster)))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
