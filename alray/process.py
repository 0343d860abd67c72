"""Which process of which machine wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def here() -> str:
    """The name of this machine."""
    return socket.gethostname()


def describe(pid: int) -> dict[str, Any]:
    """What identifies a process of this machine for ever: host, machine, pid, start.

    machine: the start of the operating system and the namespace of process numbers. Containers and machines may have
    equal host names, but they never share it. start: when the process started, in ticks of its system; process numbers
    are used again, but not with the same start. Both are empty where the system does not tell them.
    """
    return {"host": here(), "machine": _machine(), "pid": pid, "start": _state(pid)[1]}


def running(who: Mapping[str, Any]) -> bool | None:
    """Whether the described process still runs; None if it is a process of another machine, which cannot be seen from
    here."""
    pid = who.get("pid")
    if who.get("host") != here() or who.get("machine", "") != _machine() or not isinstance(pid, int) or pid < 1:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a running process of another user
        pass
    state, start = _state(pid)
    if state in ("Z", "X"):  # it was killed, and its parent has not asked for its end yet
        return False
    return not (start and who.get("start")) or start == who["start"]


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, str]:
    """State and start of a process, from /proc/PID/stat; empty where the system has no such file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # the name of the program, in brackets, may hold blanks and brackets
    return fields[0], fields[19]
