"""Why a trial of a sweep failed, in one line."""

from __future__ import annotations

import re
from pathlib import Path

from alray.store import Store

DIED = "its process died"
_FAILURE = re.compile(r"^Failure # \d+ .*\n", re.MULTILINE)
_DETAIL = re.compile(r"Worker exit detail: (.*)")
_MACHINE = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)
_SHORT_OF_MEMORY = re.compile(r"running low on memory|due to memory pressure", re.IGNORECASE)
_LOST = re.compile(r"\bnode (has died|died|was terminated|is dead|was preempted)", re.IGNORECASE)


def message(store: Store, name: str) -> str:
    """The message that a trial left when it raised an error. Empty if its process ended without one."""
    text = store.read_bytes(name).decode() if store.has(name) else ""
    return text.partition("\n\n")[0]


def last_failure(error_file: str | None) -> str:
    """Ray's text on the last failure of a trial, from the file that Tune adds to. Empty if there is none."""
    path = Path(error_file or "")
    return _FAILURE.split(path.read_text(errors="replace"))[-1] if path.is_file() else ""


def death(text: str) -> str:
    """Why a process ended without a message of its own. text: what Ray says of it.

    Ray names its own memory monitor, lost machines and SIGTERM. Of a process that was killed or crashed it only sees
    that the connection is closed: then the possible reasons are named, and where to look.
    """
    machine = f" ({found[1]})" if (found := _MACHINE.search(text)) else ""
    detail = found[1].strip() if (found := _DETAIL.search(text)) else ""
    if _SHORT_OF_MEMORY.search(text):
        return f"{DIED}: Ray ended it, because its machine{machine} was short of memory; let fewer trials run at a time"
    if _LOST.search(text):
        return f"{DIED}: its machine{machine} was lost"
    if "End of file" in detail:
        return (
            f"{DIED} without a message: it was killed by a signal (SIGKILL, which the kernel sends if memory runs out) "
            f"or crashed (SIGSEGV); where it was memory, the kernel's log (dmesg) of its machine{machine} says so"
        )
    return f"{DIED}: {detail}" if detail else DIED
