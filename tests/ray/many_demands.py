"""A program: runs that share a cluster, with random demands and nothing to do. It ends if none waits for ever.

python many_demands.py <seed> <how often runs meet at each size>

The cluster grows from 2 to 16 CPUs. Prints one JSON object: what was seen at each size, and in the other cases.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group, placement_group_table, remove_placement_group

from alray import demand
from alray.cluster_state import adds_nodes, alive, name_trial
from alray.config import ResourceConfig
from alray.demand import Demand
from alray.reservation import ClusterError, Reservation, Share, reserve

SIZES = ((2, 1), (4, 2), (8, 3), (16, 4))  # CPUs and nodes


@ray.remote
def touch() -> str:
    return ray.util.get_current_placement_group().id.hex()


def random_demand(rng: random.Random, cpus: int) -> Demand:
    kind, most = rng.randrange(3), rng.choice([1, 2, 3, cpus])
    each = rng.choice([0.25, 0.5, 1, 1, 2])
    if kind == 0:
        resources = ResourceConfig(train_workers=most, cpus_per_train_worker=each, decode_cpus=rng.choice([0.5, 1]))
        return demand.training(resources, use_gpu=False)
    return demand.extraction(most, rng.choice([0.5, 1]), False) if kind == 1 else demand.selection(most, each)


def one_run(name: str, demands: Sequence[Demand], waits: list[str], refused: list[str], touched: list[bool]) -> None:
    """The stages of a run, one after the other; the first of them starts a task in its reservation."""
    share = Share(name, 5, waits.append)
    for number, wanted in enumerate(demands):
        try:
            with reserve(share, f"stage{number}", wanted) as held:
                assert held.workers == len(wanted.workers)
                assert held.decoders >= (1 if wanted.decoder else 0)
                if number == 0:
                    where = touch.options(num_cpus=wanted.workers[0]["CPU"], scheduling_strategy=held.worker(0))
                    touched.append(ray.get(where.remote()) == held.group.id.hex())
                if number == 1:
                    raise InterruptedError
                time.sleep(0.02)
        except ClusterError as error:
            refused.append(str(error))
        except InterruptedError:  # a stage that fails gives everything back, too
            pass


def meet(rng: random.Random, cpus: int, meetings: int) -> dict[str, int]:
    """Two or three runs at once, several times; returns counts."""
    nodes, stages = alive(), 0
    waits: list[str] = []
    refused: list[str] = []
    touched: list[bool] = []
    impossible = 0
    for meeting in range(meetings):
        runs = [[random_demand(rng, cpus) for _ in range(3)] for _ in range(rng.choice([2, 2, 3]))]
        impossible += sum(bool(wanted.lacks(nodes)) for run in runs for wanted in run)
        stages += sum(map(len, runs))
        threads = [
            threading.Thread(target=one_run, args=(f"run{meeting}{i}", run, waits, refused, touched), daemon=True)
            for i, run in enumerate(runs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), f"a run of {cpus} CPUs waits for ever: {waits[-3:]}"
    assert len(refused) == impossible, (refused, impossible)
    assert touched and all(touched), touched
    return {"stages": stages, "refused": len(refused), "waits told": len(waits)}


def held() -> list[str]:
    return [entry["name"] for entry in placement_group_table().values() if entry["state"] == "CREATED"]


def told_who_is_in_the_way() -> dict[str, Any]:
    """What a run is told that waits for what a run, a trial of a sweep and a stranger hold, and how its wait ends."""
    cpus = int(ray.cluster_resources()["CPU"])
    said: list[str] = []
    stranger = placement_group([{"CPU": 1}])
    trial = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert stranger.wait(30)
    assert trial.wait(30)
    strategy = Reservation(trial, (0,), 0).worker(0)
    inside = ray.get(within.options(num_cpus=1, scheduling_strategy=strategy).remote())
    with reserve(Share("mine"), "select", demand.selection(cpus - 3, 1)):
        try:
            with reserve(Share("late", 0.15, said.append), "train", demand.selection(cpus, 1)):
                raise AssertionError("there was no room")
        except ClusterError as error:
            ended = str(error)
    remove_placement_group(stranger)
    remove_placement_group(trial)
    return {"said": said, "ended": ended, "inside": inside}


@ray.remote
def within() -> dict[str, Any]:
    """What the stages of a trial get: a part of the trial's group, which stays when they end."""
    name_trial("grid")
    group = ray.util.get_current_placement_group()
    with reserve(Share("grid"), "select", demand.selection(1, 1)) as one:
        first = [one.group == group, one.bundles[0], one.workers]
    return {"reserved": first, "still there": placement_group_table(group)["state"]}


def main(seed: int, meetings: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster(
        initialize_head=True, connect=True, head_node_args={"num_cpus": SIZES[0][0], "include_dashboard": False}
    )
    found: dict[str, Any] = {"adds nodes": adds_nodes()}
    for cpus, nodes in SIZES:
        while len(cluster.list_all_nodes()) < nodes:
            more = cpus - int(ray.cluster_resources()["CPU"])
            cluster.add_node(num_cpus=more)
            cluster.wait_for_nodes()
        found[str(cpus)] = meet(rng, cpus, meetings)
    found |= told_who_is_in_the_way()
    end = time.monotonic() + 30
    while (left := held()) and time.monotonic() < end:
        time.sleep(0.2)
    print(json.dumps({**found, "left": left}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
