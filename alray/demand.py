"""What the stages of a run need of a cluster: bundles of CPUs and GPUs, each of them on one node.

A stage has workers (training workers, extraction actors or selection shards), and some stages have tasks that decode
their images. It can begin with all of its workers and one decoder; more decoders make it faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from alray.config import ResourceConfig

Bundle = dict[str, float]
IMAGES_PER_WORKER = 32  # of a batch: with fewer, a training worker mostly waits for the others
COUNTED = ("train_workers", "extract_actors", "select_shards")  # the numbers that may be "auto"
_SMALL = 1e-6  # Ray counts in steps of 1e-4
_ON_ONE_GPU = 16  # selection actors at most: each takes half a gigabyte of its memory before it holds a row


class Settled(ResourceConfig):
    """The resources of a run with a number for every "auto"."""

    train_workers: int
    extract_actors: int
    select_shards: int


def fits(needed: Mapping[str, float], room: Mapping[str, float]) -> bool:
    """Whether there is room for an amount of each kind."""
    return all(room.get(kind, 0.0) + _SMALL >= amount for kind, amount in needed.items())


@dataclass(frozen=True)
class Demand:
    """What one stage needs. workers: a bundle for each. decoder: the bundle of one decoding task, empty if the stage
    decodes nothing. decoders: how many of these it can use. spread: over as many nodes as possible, else few nodes.
    told: the settings that it comes from, for messages."""

    workers: tuple[Bundle, ...]
    told: str
    decoder: Mapping[str, float] | None = None
    decoders: int = 0
    spread: bool = False

    def bundles(self, decoders: int) -> list[Bundle]:
        """The bundles of all workers, then those of so many decoders."""
        return [*self.workers, *([dict(self.decoder)] * decoders if self.decoder else [])]

    @property
    def least(self) -> list[Bundle]:
        """The bundles without which the stage cannot begin."""
        return self.bundles(1)

    def filling(self, nodes: Sequence[Mapping[str, float]]) -> Demand:
        """The demand with as many decoders as there is room for in its workers' share of the cluster: all of it if
        there is a worker for each unit (see `units`)."""
        if not self.decoder:
            return self
        share = min(1.0, len(self.workers) / units(nodes, any("GPU" in worker for worker in self.workers)))
        room = share * total(nodes).get("CPU", 0.0) - total(self.workers).get("CPU", 0.0)
        return replace(self, decoders=max(1, int(room / self.decoder["CPU"] + _SMALL)))

    def fitting(self, free: Mapping[str, float]) -> int | None:
        """The most decoders with which the demand fits what is free; None if it does not fit with one, either."""
        needed = total(self.least)
        if not fits(needed, free):
            return None
        if not self.decoder:
            return 0
        more = int((free.get("CPU", 0.0) - needed["CPU"]) / self.decoder["CPU"] + _SMALL)
        return max(1, min(self.decoders, 1 + more))

    def lacks(self, nodes: Sequence[Mapping[str, float]]) -> str:
        """Why nodes with these resources can never meet the demand, as a part of a sentence; empty if they may."""
        have, needed = total(nodes), total(self.least)
        if not fits(needed, have):
            return f"needs {spoken(needed)}, the cluster has {spoken({kind: have.get(kind, 0.0) for kind in needed})}"
        kinds = Counter(tuple(sorted(bundle.items())) for bundle in self.least)
        for kind, number in kinds.items():
            places = sum(
                min((int(node.get(name, 0.0) / n + _SMALL) for name, n in kind if n), default=number) for node in nodes
            )
            if places < number:
                return (
                    f"needs {number} times {spoken(dict(kind))} on one node each, the nodes of the cluster have room "
                    f"for {places}"
                )
        return ""


def training(resources: ResourceConfig, use_gpu: bool) -> Demand:
    """Training workers, and the decoders of their images."""
    workers, cpus = _number(resources.train_workers), resources.cpus_per_train_worker
    worker = {"CPU": cpus, **({"GPU": 1.0} if use_gpu else {})}
    told = f"train_workers={workers}, cpus_per_train_worker={cpus:g}, decode_cpus={resources.decode_cpus:g}"
    spread = resources.train_placement == "spread"
    return Demand((worker,) * workers, told, {"CPU": resources.decode_cpus}, 1, spread)


def training_on(nodes: Sequence[Mapping[str, float]], resources: ResourceConfig, use_gpu: bool) -> Demand:
    """The demand of a training on these nodes: with all workers, or with as many as there is room for, but at least
    resources.train_min_workers."""
    for workers in range(_number(resources.train_workers), fewest(resources), -1):
        found = training(_with_workers(resources, workers), use_gpu)
        if not found.lacks(nodes):
            return found
    return training(_with_workers(resources, fewest(resources)), use_gpu)


def fewest(resources: ResourceConfig) -> int:
    """The smallest number of workers that a training may have."""
    workers = _number(resources.train_workers)
    return min(resources.train_min_workers or workers, workers)


def at_least(resources: ResourceConfig) -> ResourceConfig:
    """The resources with the smallest number of training workers."""
    return _with_workers(resources, fewest(resources))


def _with_workers(resources: ResourceConfig, workers: int) -> ResourceConfig:
    return resources.model_copy(update={"train_workers": workers})


def extraction(actors: int, decode_cpus: float, use_gpu: bool) -> Demand:
    """Extraction actors, with a GPU or a CPU each, and the decoders of their images."""
    actor = {"GPU": 1.0} if use_gpu else {"CPU": 1.0}
    told = f"extract_actors={actors}, decode_cpus={decode_cpus:g}"
    return Demand((actor,) * actors, told, {"CPU": decode_cpus}, 1, spread=True)


def selection(shards: int, cpus: float, gpus: float = 0.0) -> Demand:
    """Actors that hold one shard each. gpus: the share of a GPU that each of them has, see `gpus_per_shard`."""
    actor = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return Demand((actor,) * shards, f"select_shards={shards}, cpus_per_shard={cpus:g}", spread=True)


def gpus_per_shard(nodes: Sequence[Mapping[str, float]], shards: int, cpus: float) -> float:
    """The largest share of a GPU, of 1, 1/2, 1/3, ..., with which these nodes have room for all selection actors; 0 if
    there is none. A selection needs no GPU, and is never refused for lack of one."""
    for on_one in range(1, min(shards, _ON_ONE_GPU) + 1):
        places = (
            min(int(node.get("CPU", 0.0) / cpus + _SMALL), on_one * int(node.get("GPU", 0.0) + _SMALL))
            for node in nodes
        )
        if sum(places) >= shards:
            return (10_000 // on_one) / 10_000
    return 0.0


def stages(resources: ResourceConfig, use_gpu: bool) -> list[Demand]:
    """The demands of all stages that a run may have. A number of workers that is "auto" counts as 1."""
    actors = extraction(_number(resources.extract_actors), resources.decode_cpus, use_gpu)
    return [training(resources, use_gpu), actors, *selecting(resources)]


def selecting(resources: ResourceConfig) -> list[Demand]:
    """The demand of the selection without GPUs, with which it can begin; none if it runs in the driver's process. What
    a trial of a sweep reserves is made of it: a GPU for selection alone would be idle until the trial ends."""
    shards = _number(resources.select_shards)
    return [selection(shards, resources.cpus_per_shard)] if resources.select_workers == "ray" else []


def covering(demands: Iterable[Demand]) -> list[Bundle]:
    """The smallest bundles of which every demand can use the first ones: what a trial reserves for all its stages."""
    return [
        {
            kind: max(bundle.get(kind, 0.0) for bundle in place)
            for kind in sorted({k for bundle in place for k in bundle})
        }
        for place in zip_longest(*(demand.least for demand in demands), fillvalue={})
    ]


def total(bundles: Iterable[Mapping[str, float]]) -> Bundle:
    """The sum of CPUs and GPUs."""
    found: Counter[str] = Counter()
    for bundle in bundles:
        found.update({kind: bundle[kind] for kind in ("CPU", "GPU") if bundle.get(kind)})
    return dict(found)


def spoken(amounts: Mapping[str, float]) -> str:
    """'6 CPUs and 2 GPUs'."""
    rounded = {kind: round(n, 3) for kind, n in sorted(amounts.items())}  # three thirds of a GPU are 0.9999
    return " and ".join(f"{n:g} {kind}{'s' if n != 1 else ''}" for kind, n in rounded.items()) or "nothing"


def units(nodes: Sequence[Mapping[str, float]], use_gpu: bool) -> int:
    """How many workers a cluster is made for: its GPUs, or its nodes with CPUs if no GPU is used; at least 1."""
    return max(1, int(total(nodes).get("GPU", 0.0)) if use_gpu else sum(node.get("CPU", 0.0) > 0 for node in nodes))


def settled(
    resources: ResourceConfig, nodes: Sequence[Mapping[str, float]], use_gpu: bool, most_workers: int
) -> Settled:
    """The resources with a number for every "auto": one worker, actor and shard for each unit of the cluster, or as
    many as it has room for. most_workers: at most so many training workers."""
    auto = [name for name in COUNTED if getattr(resources, name) == "auto"]
    for wanted in range(units(nodes, use_gpu), 0, -1):
        chosen = dict.fromkeys(auto, wanted)
        if "train_workers" in chosen:
            chosen["train_workers"] = max(1, min(wanted, most_workers))
        found = Settled(**{**resources.model_dump(), **chosen})
        if not any(stage.lacks(nodes) for stage in stages(found, use_gpu)):
            break
    return found


def most_workers(batch_sizes: Iterable[int]) -> int:
    """The most training workers that "auto" stands for: none gets less than its share of the smallest batch."""
    return max(1, min(batch_sizes, default=0) // IMAGES_PER_WORKER)


def _number(setting: int | str) -> int:
    return setting if isinstance(setting, int) else 1
