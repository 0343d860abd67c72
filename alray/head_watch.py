"""Notice that the head of a Ray cluster is gone, and say so.

The head runs the service that knows who does what (GCS). Without Redis behind it, a cluster ends with it. Whoever waits
for an answer of Ray's then waits for a minute, and is ended by Ray without a word that helps.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from alray import sigterm
from alray.credentials import redacted
from alray.patience import may_pass

_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's own environment variable
_SECONDS, _WITH_REDIS = 8.0, 60.0  # without an answer
_PAUSE, _ANSWER, _KNOCKS = 2.0, 3.0, 3
_TIDY = 2.0  # seconds for ending what was started here


def watch_head(address: str) -> None:
    """Start a thread that knocks at the head (host:port of its GCS) every two seconds while this process is joined.

    If nobody answers for 8 seconds, it prints an error and ends this process with exit code 1 (143 after SIGTERM): the
    threads that wait for Ray cannot be woken. Where the head comes back by itself it is waited for: for as long as
    Ray's variable RAY_gcs_rpc_server_reconnect_timeout_s says, and for 60 seconds if RAY_REDIS_ADDRESS is set.
    """
    threading.Thread(target=_watch, args=(address,), name="alray-head", daemon=True).start()


def _watch(address: str) -> None:
    seconds = float(os.environ.get(_PATIENCE) or (_WITH_REDIS if os.environ.get("RAY_REDIS_ADDRESS") else _SECONDS))
    since, knocks = time.monotonic(), 0
    while _joined(address):
        if _answers(address):
            since, knocks = time.monotonic(), 0
        else:
            knocks += 1
            if knocks >= _KNOCKS and time.monotonic() - since > seconds and _joined(address):
                _end(address, time.monotonic() - since)
        time.sleep(_PAUSE)


def _joined(address: str) -> bool:
    """Whether this process is still joined to that cluster."""
    import ray

    return bool(ray.is_initialized()) and ray.get_runtime_context().gcs_address == address


def _answers(address: str) -> bool:
    """Whether the head takes a connection. An error on this side, such as too many open files, counts as an answer."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        return not may_pass(error)
    return True


def _end(address: str, seconds: float) -> None:
    lost = (
        f"error: the Ray cluster at {address} is gone: its head has not answered for {seconds:.0f} s. Nothing that "
        "was written is lost: start the same command again, on this cluster when it is back, or on another one "
        "(resources.address)"
    )
    stops = sigterm.came()  # to all processes, the head's too, for which this one waits in vain while it stops
    print(f"SIGTERM came, {sigterm.STOPPED}" if stops else f"\n{redacted(lost)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    tidying = threading.Thread(target=_tidy, daemon=True)
    tidying.start()
    tidying.join(_TIDY)
    os._exit(sigterm.Stop.code if stops else 1)


def _tidy() -> None:
    """End Ray's processes that this process started: without a head they would stay for a minute."""
    from ray._private import worker

    if worker._global_node is not None:
        worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
