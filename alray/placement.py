"""How the workers and decoders of a stage are laid out over the nodes of a cluster, as bundles of a placement group.

Ray spreads a group as well as it can at the moment at which it is asked. It places large bundles first and does not
know which of them are workers: where decoders fill the nodes, two workers may be on one node and none on another.
A stage that is to be on all nodes is therefore laid out here: one bundle for each node, with the node's share of the
workers and of their decoders.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alray.demand import Bundle, Demand, fits, total


@dataclass(frozen=True)
class Layout:
    """What a placement group is asked for. strategy: Ray's name of it. workers: the bundle of each worker. decoders:
    for how many decoding tasks there is room. apart: whether each bundle belongs on a node of its own."""

    bundles: tuple[Bundle, ...]
    strategy: str
    workers: tuple[int, ...]
    decoders: int
    apart: bool = False


def loose(demand: Demand, decoders: int) -> Layout:
    """A bundle for each worker and each decoder: Ray finds room for them wherever there is some."""
    strategy = "SPREAD" if demand.spread else "PACK"
    return Layout(tuple(demand.bundles(decoders)), strategy, tuple(range(len(demand.workers))), decoders)


def spread(demand: Demand, nodes: Sequence[Mapping[str, float]]) -> Layout | None:
    """A bundle for each node that has a part of the stage. nodes: what there is on each.

    No node has two workers more than another one that has room for them. Decoders are where most CPUs are left; there
    are as many of them as there is room for, and no more than demanded. None if the stage cannot begin on these nodes.
    """
    room = [dict(node) for node in nodes]
    workers = _dealt(demand.workers[0], len(demand.workers), room, evenly=True)
    decoders = _dealt(demand.decoder, max(1, demand.decoders), room) if demand.decoder else [0] * len(room)
    if sum(workers) < len(demand.workers) or (demand.decoder and not sum(decoders)):
        return None
    bundles, places = list[Bundle](), list[int]()
    for some, others in zip(workers, decoders, strict=True):
        if some or others:
            places += [len(bundles)] * some
            parts = [*demand.workers[:some], *([demand.decoder] * others if demand.decoder else [])]
            bundles.append(_whole_gpus(total(parts)))
    return Layout(tuple(bundles), "SPREAD", tuple(places), sum(decoders), apart=True)


def _whole_gpus(bundle: Bundle) -> Bundle:
    """The bundle with a part of one GPU, or with whole GPUs: of 1.3332 Ray gives out only three parts of 0.3333."""
    gpus = bundle.get("GPU", 0.0)
    return {**bundle, "GPU": float(math.ceil(gpus - 1e-6)) if gpus > 1 else round(gpus, 4)} if gpus else bundle


def _dealt(bundle: Mapping[str, float], number: int, room: list[Bundle], evenly: bool = False) -> list[int]:
    """How many of so many equal bundles each node gets, and their resources taken from its room. evenly: the node with
    the fewest is next, else the one with the most CPUs left."""
    counts = [0] * len(room)
    nodes = [(0, -node.get("CPU", 0.0), at) for at, node in enumerate(room)]
    heapq.heapify(nodes)
    while nodes and sum(counts) < number:
        _, _, at = heapq.heappop(nodes)
        if not fits(bundle, room[at]):
            continue  # the node is full
        for kind, amount in bundle.items():
            room[at][kind] -= amount
        counts[at] += 1
        heapq.heappush(nodes, (counts[at] if evenly else 0, -room[at].get("CPU", 0.0), at))
    return counts
