"""Join or start a Ray cluster, without Ray's own output.

Ray's processes listen on every address of the machine. Whoever can connect to them and knows the token can run code as
the user who started Ray; without the token a connection is refused. A cluster that is started here therefore has its
own random token. Ray's processes get it in their environment, it is not written to any file, and it is worthless when
the cluster ends.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from alray import demand
from alray.cluster_state import alive
from alray.config import ResourceConfig
from alray.head_watch import watch_head
from alray.ray_signals import kept
from alray.reasons import why
from alray.reservation import ClusterError, Share, refuse_impossible

__all__ = ["Cluster", "ClusterError", "Joined", "logical_cpus", "start"]

# By default glibc returns the memory of large tensors to the system after every use and requests it again, page by
# page, which takes up to half of the time of training on CPUs. Workers of a cluster that is started here inherit this.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(2**26)}

# OpenMP's threads keep their cores busy while they wait for each other. On a machine with other work they then keep
# each other from working: a linear head that was trained by two threads took 15 times its CPU seconds.
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}

# These turn off processes of Ray that are not needed on one machine. A worker that reports an epoch waits until Ray
# asks it, which Ray does every two seconds by default: on one machine it can ask more often.
_LEAN = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
# Ray publishes measurements for Prometheus on three ports, on all addresses and without a token. On one machine nothing
# reads them. The first variable stops one publisher. The two others do not start, because -1 is not a port.
_NO_METRICS = {"RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}
# Ray ends a process that has been idle for a second, and the next stage of the run starts it again.
_KEEP_PROCESSES = {"RAY_idle_worker_killing_time_threshold_ms": "60000"}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """The resources of a cluster, and whether the run uses its GPUs."""

    cpus: float
    gpus: float
    use_gpu: bool
    accelerators: tuple[str, ...] = ()  # Ray's names of their kinds


class Joined:
    """The cluster of a run, which is joined or started when it is first needed: a run may find that all it needs has
    been computed already. Also holds what the run keeps on the cluster, which ends with this object.
    """

    def __init__(
        self,
        resources: ResourceConfig,
        told: Callable[[Cluster, demand.Settled], None] = lambda cluster, resources: None,
        *,
        name: str = "alray",
        most_workers: int = 1,
    ) -> None:
        """told: called with the cluster when it has been joined, and with the resources that the run takes of it. name:
        of the run, for the messages of others. most_workers: the most training workers that "auto" stands for."""
        self._asked, self._told = resources, told
        self._name, self._most_workers = name, most_workers
        self._kept: dict[str, Any] = {}

    @cached_property
    def _joined(self) -> tuple[Cluster, demand.Settled]:
        found = start(self._asked)
        resources = self.taken(alive(), found.use_gpu)
        self._told(found, resources)
        return found, resources

    @property
    def cluster(self) -> Cluster:
        """What the cluster has; joins it. Raises ClusterError."""
        return self._joined[0]

    @property
    def resources(self) -> demand.Settled:
        """The resources of the run, with numbers for "auto"; joins the cluster. Raises ClusterError."""
        return self._joined[1]

    def taken(self, nodes: Sequence[Mapping[str, float]], use_gpu: bool) -> demand.Settled:
        """What the run would take of a cluster of these nodes, given by their resources."""
        return demand.settled(self._asked, nodes, use_gpu, self._most_workers)

    def share(self, say: Callable[[str], None]) -> Share:
        """The share of the cluster that the run's stages ask for. say: prints a line while they wait."""
        return Share(self._name, self._asked.wait_minutes, say)

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
    """The number of CPUs of a cluster that is started here: those of the machine, or more if a stage could not run.

    Ray's CPUs are logical: they limit what runs at the same time and are not cores. Training holds some per worker
    while other tasks decode its images.
    """
    if resources.num_cpus:
        return resources.num_cpus
    most = max(demand.total(stage.bundles(2))["CPU"] for stage in demand.stages(resources, use_gpu=False))
    return max(os.cpu_count() or 1, math.ceil(most))


def named(resources: ResourceConfig) -> str:
    """The address of the cluster that a run is to join; "local" if it starts one."""
    return resources.address or os.environ.get("RAY_ADDRESS") or "local"


def driver_takes_no_gpu(resources: ResourceConfig) -> bool:
    """Whether the process that runs the loop must use no GPU: where the run uses none, and where the process joins a
    cluster, whose GPUs others may hold, and holds none itself, as a trial of a sweep can. A cluster that the process
    has started is its own."""
    if resources.use_gpu == "no":
        return True
    if not ((ray := sys.modules.get("ray")) and ray.is_initialized()):
        return named(resources) != "local"
    node = ray._private.worker._global_node  # None if this is a client of Ray's
    return not (node is not None and node.is_head()) and not ray.get_gpu_ids()


def start(resources: ResourceConfig) -> Cluster:
    """Join the cluster of resources.address or of RAY_ADDRESS, which a submitted job has; without any, start one here.

    A cluster that only happens to run on this machine is not joined, because it may be somebody else's; the address
    "auto" joins it. A cluster that is started here has its own token; a cluster that is joined gets the user's. Raises
    ClusterError if it cannot be joined, or can never have as many CPUs or GPUs as a stage of the run needs. Ray would
    wait without end for them.
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
        with kept():
            _init(resources)
        if not ray.util.client.ray.is_connected():  # a client of Ray's has no address of the head
            watch_head(ray.get_runtime_context().gcs_address)
    total = ray.cluster_resources()
    gpus = total.get("GPU", 0.0)
    use_gpu = resources.use_gpu == "yes" or (resources.use_gpu == "auto" and gpus >= 1)
    kinds = sorted(name.partition(":")[2] for name in total if name.startswith("accelerator_type:"))
    refuse_impossible("the run", demand.stages(demand.at_least(resources), use_gpu), alive())
    return Cluster(total.get("CPU", 0.0), gpus, use_gpu, tuple(kinds))


def _init(resources: ResourceConfig) -> None:
    address = named(resources)
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
            f"resources.address: the Ray cluster at {address!r} expected its token, got none or another one; set "
            "RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in "
            "~/.ray/auth_token"
        ) from None
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise ClusterError(
            f"resources.address: expected a Ray cluster at {address!r} with the Ray and Python of this process: "
            f"{why(error)}"
        ) from None
    except ConnectionError as error:
        raise ClusterError(
            f"resources.address: expected a Ray cluster at {address!r}, got no answer: {error}"
        ) from None


def _start_here(resources: ResourceConfig) -> None:
    """Start a cluster that belongs to this process and ends with it.

    It has its own token, even if the user's environment has settings for other clusters, such as
    RAY_AUTH_MODE=disabled. `ray.shutdown` restores that environment.
    """
    import ray
    from ray._private import worker

    for name, value in {**_LEAN, **_NO_METRICS, **_KEEP_MEMORY, **_SLEEP, **_KEEP_PROCESSES}.items():
        os.environ.setdefault(name, value)
    before = {name: os.environ.get(name) for name in _AUTHENTICATION}
    _authenticate({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": None})
    try:
        ray.init(address="local", num_cpus=logical_cpus(resources), include_dashboard=False, **_QUIET)
    except BaseException:
        _authenticate(before)
        raise
    # Ray deletes its node at the end of `ray.shutdown`. It needs the token until then, also at the end of the process.
    weakref.finalize(worker._global_node, _authenticate, before).atexit = False


def _authenticate(variables: Mapping[str, str | None]) -> None:
    """Set environment variables (None: remove), and make Ray read its mode and token again.

    Ray reads them only once, when it is imported. Without this it would use the old token, or none.
    """
    from ray._raylet import AuthenticationTokenLoader, Config

    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")  # first the mode: a thread that still sends must not find token mode without a token
    AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Raise ConnectionError if no cluster answers, and Ray's AuthenticationError if it refuses the token.

    `ray.init` would wait for minutes and then end the process or give no reason.
    """
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
