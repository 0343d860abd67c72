"""One reservation per stage: everything that the stage needs is one placement group of Ray's, granted as a whole.

Why runs that share a cluster cannot wait for each other without end: a group is granted with all its bundles or not at
all, a stage holds nothing while it waits for its group, and while it holds a group it waits for no other CPU or GPU:
its workers and the tasks that decode for it run inside the group. Whoever holds a group therefore comes to the end of
its stage and gives it back, after a failure and an interruption, too; Ray takes it back from a process that died. A
sweep keeps to the same rule: a trial is granted one group for its driver and for the largest of its stages, and its
stages run inside that group. Leases of files (`alray.lease`) are taken before a group is asked for, never after.

A large demand may wait while smaller ones pass it. It is granted when those that came before it have ended.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alray.demand import Bundle, Demand, spoken, total

PATIENCE = 5.0  # seconds before a wait is told
_AGAIN = 60.0  # seconds until it is told again; then twice as many each time
_OURS, _NAMES = "alray:", b"alray"
_HELD = ("CREATED", "RESCHEDULING")

log = logging.getLogger(__name__)


class ClusterError(RuntimeError):
    """A cluster cannot be joined, is too small for the run, or has had no room for it."""


class ClusterLost(ClusterError):  # noqa: N818  what happened
    """A cluster is gone, has lost what the run needs, or had no room in time: the same command goes on later, or on
    another cluster."""

    exit_code = 1


@dataclass(frozen=True)
class Share:
    """Who asks for a part of the cluster. name: of the run, for the messages of others. minutes: how long to wait.
    say: prints a line for the user."""

    name: str = "alray"
    minutes: float = 24 * 60
    say: Callable[[str], None] = log.warning


ANYBODY = Share()


@dataclass(frozen=True)
class Reservation:
    """A part of the cluster that belongs to one stage. group: a placement group of Ray's. first: the number of the
    bundle of the stage's first worker. workers, decoders: how many there is room for."""

    group: Any
    first: int
    workers: int
    decoders: int

    def worker(self, number: int) -> Any:
        """The scheduling strategy of a worker."""
        return _inside(self.group, self.first + number)

    def anywhere(self) -> Any:
        """The scheduling strategy of decoding tasks: wherever the group has CPUs left."""
        return _inside(self.group, -1)

    def nodes(self) -> list[str]:
        """The node of each worker, by its id in hexadecimal digits."""
        import ray

        nodes = ray.util.placement_group_table(self.group)["bundles_to_node_id"]
        return [nodes[self.first + number] for number in range(self.workers)]

    def addresses(self) -> list[str]:
        """The address of each worker's node; "a lost node" where it is gone."""
        import ray

        found = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}
        nodes = ray.util.placement_group_table(self.group)["bundles_to_node_id"]
        return [found.get(nodes.get(self.first + number, ""), "a lost node") for number in range(self.workers)]

    @property
    def whole(self) -> bool:
        """Whether no node of it is lost."""
        return _state(self.group) == "CREATED"


@contextmanager
def reserve(share: Share, stage: str, demand: Demand) -> Iterator[Reservation]:
    """Context manager: waits until the cluster has room for the whole demand, and holds it while the body runs.

    In a trial of a sweep it is a part of what the trial holds. Raises ClusterError if the cluster can never have room
    for it (unless it adds nodes by itself), or has had none for so long that the share's minutes are over.
    """
    if (inside := _in_trial(demand)) is not None:
        yield inside
        return
    nodes = alive()
    refuse_impossible(stage, [demand], nodes)
    demand = demand.filling(nodes)
    asked = _Asked(f"{_OURS}{share.name}:{stage}", demand)
    try:
        asked.wait(share, stage)
        yield Reservation(asked.group, 0, len(demand.workers), asked.decoders)
    finally:
        asked.give_back()


class _Asked:
    """A placement group that was asked for and is waited for."""

    def __init__(self, name: str, demand: Demand) -> None:
        self._name, self._demand = name, demand
        self.group: Any = None
        self._ask(demand.decoders)

    def _ask(self, decoders: int) -> None:
        from ray.util import placement_group

        self.give_back()
        self.decoders = decoders
        self.group = placement_group(
            self._demand.bundles(decoders),
            strategy="SPREAD" if self._demand.spread else "PACK",
            name=f"{self._name}:{secrets.token_hex(4)}",  # Ray refuses a name that a group has already
        )

    def give_back(self) -> None:
        """Remove the group: what still runs in it ends."""
        import ray

        if self.group is not None and ray.is_initialized():
            ray.util.remove_placement_group(self.group)
        self.group = None

    def wait(self, share: Share, stage: str) -> None:
        """Wait until the group is granted. What is free is asked for instead of the whole if the stage can begin with
        it."""
        import ray

        waiting = Waiting(share, stage, total(self._demand.bundles(self.decoders)))
        while not self.group.wait(1):
            if not waiting.on():
                continue
            wanted = self._demand.fitting(ray.available_resources())
            if wanted is None:
                wanted = self._demand.decoders
            elif wanted == self.decoders:  # what is free lies on nodes in pieces that are too small
                wanted = 1 if wanted > 1 else self._demand.decoders
            if wanted != self.decoders:
                self._ask(wanted)


class Waiting:
    """Tells a wait after some seconds, and ends it after some minutes."""

    def __init__(self, share: Share, stage: str, wanted: Mapping[str, float]) -> None:
        self._share, self._stage, self._wanted = share, stage, wanted
        self._began = time.monotonic()
        self._tell, self._gap = self._began + PATIENCE, _AGAIN

    def on(self) -> bool:
        """Call about every second. Returns whether the wait is longer than a moment. Raises ClusterError."""
        now = time.monotonic()
        late = now - self._began > self._share.minutes * 60
        if now >= self._tell or late:
            text = f"waiting for {spoken(self._wanted)}: {held_by(self._wanted)}"
            if late:
                raise ClusterLost(
                    f"{self._stage}: {text}. That was so for {self._share.minutes:g} minutes "
                    "(resources.wait_minutes). Start it again when there is room, or let it need less "
                    "(resources.train_workers, extract_actors, select_shards)"
                )
            self._share.say(f"{self._stage} · {text}")
            self._tell, self._gap = now + self._gap, 2 * self._gap
        return now - self._began > PATIENCE


def held_by(wanted: Mapping[str, float]) -> str:
    """Who holds the CPUs, and GPUs if they are wanted: '4 CPUs are held by digits (train), 2 CPUs by others'."""
    import ray

    whole, free = total([ray.cluster_resources()]), total([ray.available_resources()])
    held: dict[str, Bundle] = {}
    for name, bundles in _holders():
        held[name] = total([held.get(name, {}), *bundles])
    ours = total(held.values())
    held["others"] = {k: n - free.get(k, 0.0) - ours.get(k, 0.0) for k, n in whole.items()}
    parts: list[str] = []
    for name, amounts in held.items():
        if some := {k: n for k, n in amounts.items() if k in wanted and n > 1e-3}:
            verb = "" if parts else f" {'is' if list(some.values()) == [1] else 'are'} held"
            parts.append(f"{spoken(some)}{verb} by {name}")
    if any(whole.get(kind, 0.0) < n for kind, n in wanted.items()):
        parts.append(f"the cluster has {spoken({kind: whole.get(kind, 0.0) for kind in wanted})} now")
    return ", ".join(parts) or "all are free, but not on the same nodes"


def _holders() -> Iterator[tuple[str, list[Bundle]]]:
    """The name of the holder, and the bundles, of each group of alray's that is granted."""
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.util import placement_group_table

    for id, entry in placement_group_table().items():
        if entry["state"] not in _HELD:
            continue
        name = entry["name"] or (_internal_kv_get(id, namespace=_NAMES) or b"").decode()
        if name.startswith(_OURS):
            _, run, stage, *_ = name.split(":")
            yield f"{run} ({stage})", list(entry["bundles"].values())


def any_pending() -> bool:
    """Whether any group of the cluster waits for room."""
    from ray.util import placement_group_table

    return any(entry["state"] == "PENDING" for entry in placement_group_table().values())


def refuse_impossible(stage: str, demands: Sequence[Demand], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise ClusterError if one of the demands can never be met: the cluster is too small and adds no nodes."""
    for demand in demands:
        if (lacking := demand.lacks(nodes)) and not _adds_nodes():
            raise ClusterError(
                f"resources: {stage} {lacking} ({demand.told}). Let it need less (--resources.train-workers, "
                "--resources.extract-actors, --resources.select-shards, ...), or join a larger cluster"
            )


def alive() -> list[Bundle]:
    """The resources of every node that is alive."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _adds_nodes() -> bool:
    """Whether the cluster has an autoscaler. Without one Ray calls the kind of each node after the node itself."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        kinds = [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes, *status.pending_nodes)]
        return any(not kind.startswith("node_") for kind in kinds)
    report = json.loads(_internal_kv_get("__autoscaling_status") or "{}").get("autoscaler_report") or {}
    kinds = [*(report.get("active_nodes") or {}), *(report.get("pending_launches") or {})]
    return any(not kind.startswith("node_") for kind in kinds)


def name_trial(name: str) -> None:
    """Let the messages of others name the group in which this process, a trial of a sweep, runs."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_put

    group = ray.util.get_current_placement_group()
    assert group is not None
    _internal_kv_put(group.id.hex(), f"{_OURS}{name}:sweep", namespace=_NAMES)


def in_trial() -> bool:
    """Whether this process is a trial of a sweep, which holds a group for all of its stages."""
    import ray

    return ray.util.get_current_placement_group() is not None


def _in_trial(demand: Demand) -> Reservation | None:
    """The part of the trial's group that the demand can use, whose first bundle is that of the driver; None outside of
    a trial, and where the group is not made for it."""
    import ray

    group = ray.util.get_current_placement_group()
    if group is None:
        return None
    bundles = group.bundle_specs[1:]
    if len(bundles) < len(demand.least) or not all(
        bundle.get(kind, 0.0) >= amount
        for needed, bundle in zip(demand.least, bundles, strict=False)
        for kind, amount in needed.items()
    ):
        return None
    return Reservation(group, 1, len(demand.workers), min(1, len(demand.least) - len(demand.workers)))


def _inside(group: Any, bundle: int) -> Any:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(group, bundle)


def _state(group: Any) -> str:
    from ray.util import placement_group_table

    return str(placement_group_table(group).get("state", "REMOVED"))
