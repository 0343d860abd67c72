"""What Ray tells of a cluster: its nodes, what is free on them, and who holds the rest.

Stages hold placement groups whose names tell the run and the stage.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from alray.demand import Bundle, spoken, total

_OURS, _NAMES = "alray:", b"alray"
_HELD = ("CREATED", "RESCHEDULING")


def alive() -> list[Bundle]:
    """The resources of every node that is alive."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def free_now() -> list[Bundle]:
    """The resources of every node that nobody holds, as far as Ray knows."""
    return list(_free_by_node().values())


def _free_by_node() -> dict[str, Bundle]:
    from ray._private.state import available_resources_per_node

    return {id: dict(node) for id, node in available_resources_per_node().items()}


def _granted() -> dict[str, dict[str, Any]]:
    """Ray's entries of the groups that hold something, by the id of the group."""
    from ray.util import placement_group_table

    return {id: entry for id, entry in placement_group_table().items() if entry["state"] in _HELD}


class Returning:
    """What nodes have still to give back of a group that was removed. Ray removes a group at once, but a node that is
    busy may need many seconds to end what ran in it."""

    def __init__(self) -> None:
        self._held: dict[str, Bundle] = {}  # by node
        self._until = 0.0

    def removing(self, group: Any, seconds: float) -> None:
        """Call before a group is removed. seconds: how long to look for what it held. It never fails, because the group
        is to be removed whatever Ray tells of it."""
        from ray.util import placement_group_table

        self._held = {}
        with suppress(Exception):
            self._held = _by_node([placement_group_table(group)])
        self._until = time.monotonic() + seconds

    def done(self) -> bool:
        """Whether every node has given everything back, or other groups hold it, or the time is over."""
        if time.monotonic() > self._until:
            return True
        free = _free_by_node()
        taken = _by_node(_granted().values())
        return all(
            total([free[node], taken.get(node, {})]).get(kind, 0.0) > amount - 1e-3
            for node, held in self._held.items()
            if node in free  # else it is lost
            for kind, amount in held.items()
        )


def _by_node(groups: Iterable[dict[str, Any]]) -> dict[str, Bundle]:
    """What groups hold on each node, by its id in hexadecimal digits."""
    found: dict[str, Bundle] = {}
    for entry in groups:
        for number, node in entry.get("bundles_to_node_id", {}).items():
            found[node] = total([found.get(node, {}), entry["bundles"][number]])
    return found


def adds_nodes() -> bool:
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


def group_name(run: str, stage: str, since: float, least: Mapping[str, float]) -> str:
    """A name for a placement group of a stage. since: when it was first asked for. least: without which the stage
    cannot begin."""
    amounts = ":".join(f"{least.get(kind, 0.0):g}" for kind in ("CPU", "GPU"))
    return f"{_OURS}{run}:{stage}:{since:.0f}:{amounts}:{secrets.token_hex(4)}"  # Ray refuses a name that is taken


def kept_waiting(minutes: float) -> list[tuple[str, bool]]:
    """The stages that have waited for so many minutes, the longest first, named as holders are, and whether what is
    free and what other stages hold, which come to their end, is enough for each."""
    import ray
    from ray.util import placement_group_table

    stages = [entry for entry in placement_group_table().values() if str(entry["name"]).startswith(_OURS)]
    waiting = [entry["name"].split(":")[1:6] for entry in stages if entry["state"] == "PENDING"]
    waiting = [parts for parts in waiting if time.time() - float(parts[2]) >= 60 * minutes]
    if not waiting:
        return []
    ending = [total(entry["bundles"].values()) for entry in stages if entry["state"] in _HELD]
    obtainable = total([ray.available_resources(), *ending])
    return [
        (f"{run} ({stage})", obtainable.get("CPU", 0.0) >= float(cpus) and obtainable.get("GPU", 0.0) >= float(gpus))
        for run, stage, _, cpus, gpus in sorted(waiting, key=lambda parts: float(parts[2]))
    ]


def name_trial(name: str) -> None:
    """Let the messages of others name the group in which this process, a trial of a sweep, runs."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_put

    group = ray.util.get_current_placement_group()
    assert group is not None
    _internal_kv_put(group.id.hex(), f"{_OURS}{name}:sweep", namespace=_NAMES)


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

    for id, entry in _granted().items():
        name = entry["name"] or (_internal_kv_get(id, namespace=_NAMES) or b"").decode()
        if name.startswith(_OURS):
            _, run, stage, *_ = name.split(":")
            yield f"{run} ({stage})", list(entry["bundles"].values())


def any_pending() -> bool:
    """Whether any group of the cluster waits for room."""
    from ray.util import placement_group_table

    return any(entry["state"] == "PENDING" for entry in placement_group_table().values())


def nodes_of(group: Any) -> dict[int, str]:
    """The node of each bundle, by its id in hexadecimal digits."""
    from ray.util import placement_group_table

    nodes: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return nodes


def state_of(group: Any) -> str:
    """Ray's name of its state; "REMOVED" if Ray does not know the group."""
    from ray.util import placement_group_table

    return str(placement_group_table(group).get("state", "REMOVED"))
