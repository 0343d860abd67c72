"""What a trial reserves, and how many trials the cluster has room for at a time."""

from __future__ import annotations

import math

from alray import cluster, demand
from alray.cluster import Cluster, ClusterError
from alray.config import ResourceConfig, SweepConfig
from alray.demand import Bundle
from alray.features.arrays import DISCRIMINATOR
from alray.prepare import Checked
from alray.sweep.trials import SweepPlan


def beside_workers(planned: SweepPlan, options: SweepConfig, found: Cluster) -> tuple[SweepConfig, str]:
    """The options with fewer CPUs for the driver of a trial, and a sentence about it, where the cluster has room for
    the workers of a trial but not for its driver beside them. The driver waits while they work, as that of a single
    run, which reserves nothing. Else the options as they are, and an empty text."""
    inside = max(map(worker_cpus, planned.settings))
    left = found.cpus - inside
    if not inside or not 0 <= left < options.cpus_per_trial:
        return options, ""
    said = (
        f"sweep · the driver of a trial reserves {left:g} CPUs instead of {options.cpus_per_trial:g} "
        f"(sweep.cpus_per_trial): the cluster has {found.cpus:g}, and the workers of a trial need {inside:g}"
    )
    return options.model_copy(update={"cpus_per_trial": left}), said


def concurrency(planned: SweepPlan, options: SweepConfig, found: Cluster, cores: float) -> int:
    """The number of trials that run at once. A trial reserves CPUs and GPUs for its driver and its workers until it
    ends.

    cores: number of cores of this machine if the cluster is started here, else infinite. Ray's logical CPUs may be more
    (see `logical_cpus`). Raises ClusterError if the cluster is too small for one trial.
    """
    inside = max(map(worker_cpus, planned.settings))
    each_reserves = [demand.total(reserved(ready, options, found.use_gpu)) for ready in planned.settings]
    gpus = max(one.get("GPU", 0.0) for one in each_reserves)
    each = options.cpus_per_trial + inside
    room = math.floor(found.cpus / each + 1e-9)
    if room > 1:
        room = max(1, min(room, math.floor(cores / options.cpus_per_trial + 1e-9) if math.isfinite(cores) else room))
    if gpus:
        room = min(room, math.floor(found.gpus / gpus + 1e-9))
    if room < 1:
        raise ClusterError(
            f"the cluster has {found.cpus:g} CPUs and {found.gpus:g} GPUs, a trial needs {each:g} CPUs (of them "
            f"{inside:g} for its workers) and {gpus:g} GPUs"
        )
    return min(room, options.max_concurrent or room)


def trains_inside(ready: Checked) -> bool:
    """Whether a trial starts workers for training and extraction, to fine-tune a model or for VAAL's networks."""
    return not ready.learner.trains_in_driver or DISCRIMINATOR in ready.strategy.needs


def reserved(ready: Checked, options: SweepConfig, use_gpu: bool) -> list[Bundle]:
    """What a trial reserves until it ends: a bundle for its driver, then those that the stages of its workers share."""
    gpus = driver_gpus(ready, options)
    return [{"CPU": options.cpus_per_trial, **({"GPU": gpus} if gpus else {})}, *_workers(ready, use_gpu)]


def _workers(ready: Checked, use_gpu: bool) -> list[Bundle]:
    resources = ready.config.resources
    found = demand.stages(resources, use_gpu) if trains_inside(ready) else demand.selecting(resources)
    return demand.covering(found)


def worker_cpus(ready: Checked) -> float:
    """The CPUs that one trial reserves for its workers. Those of its driver are not counted."""
    return demand.total(_workers(ready, use_gpu=False)).get("CPU", 0.0)


def driver_gpus(ready: Checked, options: SweepConfig) -> float:
    """The GPUs that the driver of one trial reserves to train a linear head; 0 if workers train."""
    return options.gpus_per_trial if ready.learner.trains_in_driver else 0.0


def cluster_for(planned: SweepPlan, options: SweepConfig) -> ResourceConfig:
    """The resources of a cluster that is started here, with logical CPUs for at least one trial and its workers."""
    most = max(planned.settings, key=worker_cpus)
    resources = most.config.resources
    if resources.num_cpus:
        return resources
    cpus = max(cluster.logical_cpus(resources), math.ceil(options.cpus_per_trial + worker_cpus(most)))
    return resources.model_copy(update={"num_cpus": cpus})
