"""Set up torch's process group, with which the workers of one training communicate, for Ray Train.

Ray's own `TorchConfig` does the same with two drawbacks. It imports torch into Ray Train's controller, which does not
train, and which takes a second and 650 MB more. And its rendezvous listens on every address of the machine. torch's
store and gloo have no authentication, so whoever can connect can read and change the messages of the workers.

Here only the workers import torch. If all of them are on one machine, they use its loopback address, which other
machines cannot reach. Workers on several machines must listen on the network: the store on the address of worker 0's
node, gloo on the interface of each node's address, NCCL on addresses that it chooses. That network must be closed to
others.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

_LOOPBACK = "127.0.0.1"
_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
_LEAVE_SECONDS = 30.0

log = logging.getLogger(__name__)

_listening: socket.socket | None = None  # on worker 0, from `_listen` to `_join`


@dataclass(frozen=True)
class ProcessGroup(BackendConfig):  # type: ignore[misc]  # Ray is untyped
    """Ray Train's settings for a process group: NCCL where workers have GPUs, else gloo."""

    timeout_s: int = 1800  # after which an operation fails that not all workers take part in

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that sets up the group."""
        return _Setup

    @property
    def train_func_context(self) -> Callable[[], AbstractContextManager[None]]:
        """The context manager in which each worker trains."""
        return _on_own_device


class _Setup(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True  # NCCL's workers on one node use each other's memory

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Open the socket of worker 0, then let all workers join at the same time."""
        nodes = worker_group.execute(_node)
        on_one_node = len({node for node, _ in nodes}) == 1
        host = _LOOPBACK if on_one_node else nodes[0][1]
        port = worker_group.execute_single(0, _listen, host)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo"
        interface = _INTERFACE if on_one_node else ""
        joining = worker_group.execute_async(_join, backend, host, port, interface, backend_config.timeout_s)
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Let all workers leave the group."""
        try:
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_SECONDS)
        except GetTimeoutError:
            log.warning("a process group did not end within %g s", _LEAVE_SECONDS)


def _node() -> tuple[str, str]:
    """The identity and the address of this worker's node."""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def _listen(host: str) -> int:
    """Open the socket for torch's store on this address only; torch would open it on all addresses. Returns the
    port."""
    global _listening
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    _listening = socket.create_server((host, 0), family=family, backlog=socket.SOMAXCONN)
    return int(_listening.getsockname()[1])


def _join(backend: str, host: str, port: int, interface: str, timeout_s: int) -> None:
    """Make this worker a member of the process group. interface: on which gloo and NCCL listen; empty: gloo on that of
    the node's address, NCCL where it chooses."""
    global _listening
    import torch.distributed as dist

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    local = {"LOCAL_RANK": context.get_local_rank(), "LOCAL_WORLD_SIZE": context.get_local_world_size()}
    place = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "NODE_RANK": context.get_node_rank(),
        **local,
    }  # the same names as torchrun sets
    os.environ.update({name: str(value) for name, value in place.items()})
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": exactly this name, not as a prefix
    elif name := _interface_of(_node()[1]):
        # By itself gloo listens where the machine's own name leads, which is often its loopback address.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    if "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a lost worker ends the others, too
    timeout = timedelta(seconds=timeout_s)
    descriptor = None if _listening is None else _listening.detach()
    _listening = None
    serves = descriptor is not None
    store = dist.TCPStore(host, port, size, serves, timeout, master_listen_fd=descriptor)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _interface_of(address: str) -> str:
    """The name of the network interface of this machine that has the address; empty if none has."""
    import psutil  # comes with Ray

    found = psutil.net_if_addrs().items()
    return next((name for name, has in found if any(one.address.partition("%")[0] == address for one in has)), "")


def _leave() -> None:
    """Leave the process group, and free unused GPU memory."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _on_own_device() -> Iterator[None]:
    """Context manager: torch uses this worker's GPU, if it has one, by default."""
    import ray.train.torch
    import torch

    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    yield
