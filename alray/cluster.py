"""Joining or starting a Ray cluster, with its noise kept down.

Ray's processes listen on every address of the machine. Whoever can connect to them and knows the token can run code as
the user who started Ray; whoever does not know it is refused. A cluster that is started here therefore has a token of
its own: random, known to Ray's processes by their environment, written nowhere, worthless when the cluster ends.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from alray.config import ResourceConfig

# glibc gives large tensors back to the system after every use and takes them again, page by page: training on CPUs
# spends up to half of its time there. Inherited by the workers of a cluster that is started here.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(2**26)}

# Processes of Ray's that one machine can do without. A worker that reports an epoch waits until Ray asks it, which it
# does every two seconds: on one machine it can ask more often.
_LEAN = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
# Ray publishes measurements for Prometheus on three ports, on all addresses, and asks nobody for a token. Nothing reads
# them on one machine. The first variable stops one publisher; -1 is no port, so that the two others do not start.
_NO_METRICS = {"RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}
# Ray ends a process that has been idle for a second, and the next stage of the run starts it again.
_KEEP_PROCESSES = {"RAY_idle_worker_killing_time_threshold_ms": "60000"}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

T = TypeVar("T")


class ClusterError(RuntimeError):
    """A cluster that cannot do what the run asks of it."""


@dataclass(frozen=True)
class Cluster:
    """What the cluster has."""

    cpus: float
    gpus: float
    use_gpu: bool
    accelerators: tuple[str, ...] = ()  # kinds of them, as Ray calls them


class Joined:
    """The cluster of a run, which is joined or started when it is first needed: a run may find that all it needs has
    been computed already. Also holds what the run keeps on the cluster, which ends with this object.
    """

    def __init__(self, resources: ResourceConfig, told: Callable[[Cluster], None] = lambda cluster: None) -> None:
        """told: called with the cluster when it has been joined."""
        self._resources, self._told = resources, told
        self._kept: dict[str, Any] = {}

    @cached_property
    def cluster(self) -> Cluster:
        """What the cluster has; joins it. Raises ClusterError."""
        found = start(self._resources)
        self._told(found)
        return found

    @property
    def use_gpu(self) -> bool:
        """Whether its workers use GPUs; joins it. Raises ClusterError."""
        return self.cluster.use_gpu

    def keep(self, name: str, make: Callable[[Cluster], T]) -> T:
        """An object that is made once and stays until the run ends, as a pool of actors does; joins the cluster."""
        if name not in self._kept:
            self._kept[name] = make(self.cluster)
        found: T = self._kept[name]
        return found


def logical_cpus(resources: ResourceConfig) -> int:
    """CPUs of a cluster started here: those of the machine, but enough that no stage waits for ever.

    Logical CPUs are tickets, not cores: training holds one per worker while its images are decoded by other tasks.
    """
    if resources.num_cpus:
        return resources.num_cpus
    train = resources.train_workers * resources.cpus_per_train_worker
    extract = resources.extract_actors
    select = resources.select_shards * resources.cpus_per_shard if resources.select_workers == "ray" else 0
    return max(os.cpu_count() or 1, math.ceil(max(train, extract) + 2 * resources.decode_cpus), math.ceil(select))


def start(resources: ResourceConfig) -> Cluster:
    """Join the cluster that is named or set in the environment (as in a submitted job); else start one here.

    A cluster that merely happens to run on this machine is not joined (address "auto" does that): it may be somebody
    else's, and go away. A cluster that is started here has a token of its own; one that is joined gets the user's.
    Raises ClusterError when it cannot be joined, and when there are fewer CPUs or GPUs than the run needs: Ray
    itself would wait for ever.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for wait in ("RAY_raylet_start_wait_time_s", "RAY_gcs_server_port_wait_time_s"):
        os.environ.setdefault(wait, "180")  # Ray's 30 s are too few on a busy machine
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if not ray.is_initialized():
        _init(resources)
    total = ray.cluster_resources()
    cluster = Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), False)
    use_gpu = resources.use_gpu == "yes" or (resources.use_gpu == "auto" and cluster.gpus >= 1)
    _check(resources, cluster, use_gpu)
    kinds = sorted(name.partition(":")[2] for name in total if name.startswith("accelerator_type:"))
    return Cluster(cluster.cpus, cluster.gpus, use_gpu, tuple(kinds))


def _init(resources: ResourceConfig) -> None:
    address = resources.address or os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        _start_here(resources)
    else:
        _join(address)


def _join(address: str) -> None:
    """Join a running cluster with the token that the user's environment names (RAY_AUTH_MODE=token)."""
    import ray

    _authenticate({})  # the variables may have been set after Ray was imported
    try:
        _knock(address)
        ray.init(address=address, **_QUIET)
    except ray.exceptions.AuthenticationError:
        raise ClusterError(
            f"resources.address: the Ray cluster at {address!r} asks for its token, and got none or another one; set "
            "RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in "
            "~/.ray/auth_token"
        ) from None
    except ConnectionError as error:
        raise ClusterError(f"resources.address: no Ray cluster answers at {address!r}: {error}") from None


def _start_here(resources: ResourceConfig) -> None:
    """Start a cluster of this process alone, which ends with it. It demands a token of its own, whatever the user's
    environment says of other clusters (RAY_AUTH_MODE=disabled, too); `ray.shutdown` puts that environment back."""
    import ray
    from ray._private import worker

    for name, value in {**_LEAN, **_NO_METRICS, **_KEEP_MEMORY, **_KEEP_PROCESSES}.items():
        os.environ.setdefault(name, value)
    before = {name: os.environ.get(name) for name in _AUTHENTICATION}
    _authenticate({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": None})
    try:
        ray.init(address="local", num_cpus=logical_cpus(resources), include_dashboard=False, **_QUIET)
    except BaseException:
        _authenticate(before)
        raise
    # Ray drops its node at the end of `ray.shutdown`. At the end of the process the token is needed to shut down.
    weakref.finalize(worker._global_node, _authenticate, before).atexit = False


def _authenticate(variables: Mapping[str, str | None]) -> None:
    """Set (or, with None, remove) environment variables, and have Ray read mode and token again: it does so once, when
    it is imported, and would send an old token, or none, for the rest of the process."""
    from ray._raylet import AuthenticationTokenLoader, Config

    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")  # in this order: a thread that still sends must not find token mode without a token
    AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Raise ConnectionError where no cluster answers, and Ray's AuthenticationError where it refuses our token: Ray
    itself waits for minutes, and then ends the process or does not say why."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient
    from ray.exceptions import RpcError

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
        ensure_token_if_auth_enabled(create_token_if_missing=False)
        if not address.startswith("ray://"):
            GcsClient(address=address)
    except (OSError, RpcError) as error:
        raise ConnectionError(str(error)) from None


def _check(resources: ResourceConfig, cluster: Cluster, use_gpu: bool) -> None:
    train = resources.train_workers * resources.cpus_per_train_worker
    needed = max(train, 0 if use_gpu else resources.extract_actors) + resources.decode_cpus
    if resources.select_workers == "ray":
        needed = max(needed, resources.select_shards * resources.cpus_per_shard)
    if cluster.cpus < needed:
        raise ClusterError(
            f"the cluster has {cluster.cpus:g} CPUs, this run needs {needed:g}: {resources.train_workers} training "
            f"workers of {resources.cpus_per_train_worker:g} (or {resources.extract_actors} extraction actors) with a "
            f"decoding task of {resources.decode_cpus:g} beside them, or {resources.select_shards} selection shards of "
            f"{resources.cpus_per_shard:g}"
        )
    gpus = max(resources.train_workers, resources.extract_actors) if use_gpu else 0
    if cluster.gpus < gpus:
        raise ClusterError(
            f"the cluster has {cluster.gpus:g} GPUs, this run needs {gpus} (one per training worker or "
            "extraction actor)"
        )
