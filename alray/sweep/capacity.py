"""The most trials that can run at once without a deadlock on CPUs or GPUs."""

from __future__ import annotations

import math

from alray import cluster
from alray.cluster import Cluster, ClusterError
from alray.config import ResourceConfig, SweepConfig
from alray.features.arrays import DISCRIMINATOR
from alray.prepare import Checked
from alray.sweep.trials import SweepPlan


def concurrency(planned: SweepPlan, options: SweepConfig, found: Cluster, cores: float) -> int:
    """The number of trials that run at once. A trial reserves CPUs and GPUs for its driver until it ends, and for its
    workers while they run.

    cores: number of cores of this machine if the cluster is started here, else infinite. Ray's logical CPUs may be more
    (see `logical_cpus`). Raises ClusterError if the cluster is too small for one trial.
    """
    inside = max(map(worker_cpus, planned.settings))
    gpus = max(driver_gpus(ready, options) + worker_gpus(ready, found.use_gpu) for ready in planned.settings)
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


def worker_cpus(ready: Checked) -> float:
    """The most CPUs that the workers of one trial use at a time. The CPUs of its driver are not counted."""
    resources = ready.config.resources
    select = resources.select_shards * resources.cpus_per_shard if resources.select_workers == "ray" else 0.0
    if not trains_inside(ready):
        return select
    train = resources.train_workers * resources.cpus_per_train_worker
    return max(select, max(train, float(resources.extract_actors)) + resources.decode_cpus)


def worker_gpus(ready: Checked, use_gpu: bool) -> int:
    """The most GPUs that the workers of one trial use at a time."""
    resources = ready.config.resources
    return max(resources.train_workers, resources.extract_actors) if use_gpu and trains_inside(ready) else 0


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
