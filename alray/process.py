"""Which process of which machine wrote a file, whether it still runs, and why it ended."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DIED = "its process died"
_DETAIL = re.compile(r"Worker exit detail: (.*)")
_MACHINE = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)
_SHORT_OF_MEMORY = re.compile(r"running low on memory|due to memory pressure", re.IGNORECASE)
_LOST = re.compile(r"\bnode (has died|died|was terminated|is dead|was preempted)", re.IGNORECASE)


def processors() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def death(text: str) -> str:
    """Why a process ended without a message of its own. text: what Ray says of it.

    Ray names its own memory monitor, lost machines and SIGTERM. Of a process that was killed or crashed it only sees
    that the connection is closed: then the possible reasons are named, and where to look.
    """
    machine = f" ({found[1]})" if (found := _MACHINE.search(text)) else ""
    detail = found[1].strip() if (found := _DETAIL.search(text)) else ""
    if _SHORT_OF_MEMORY.search(text):
        return f"{_DIED}: Ray ended it, because its machine{machine} was short of memory; let less run there at a time"
    if _LOST.search(text):
        return f"{_DIED}: its machine{machine} was lost"
    if "End of file" in detail:
        return (
            f"{_DIED} without a message: it was killed by a signal (SIGKILL, which the kernel sends if memory runs "
            f"out) or crashed (SIGSEGV); where it was memory, the kernel's log (dmesg) of its machine{machine} says so"
        )
    return f"{_DIED}: {detail}" if detail else _DIED
