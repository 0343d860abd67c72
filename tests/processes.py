"""Processes of this machine, as /proc tells them."""

from __future__ import annotations

from pathlib import Path


def processes(title: str) -> list[int]:
    """All processes whose command begins so, ascending. Ray's workers are called ray:: and what they do."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(title.encode()):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return sorted(found)


def parent(pid: int) -> int:
    """The process that started another one; 0 if that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def below(pid: int, ancestor: int) -> bool:
    """Whether a process, or one that started it, was started by another one."""
    while pid > 1:
        pid = parent(pid)
        if pid == ancestor:
            return True
    return False
