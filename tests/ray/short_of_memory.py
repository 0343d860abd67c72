"""A program: a task takes more memory than Ray allows on its machine and is ended. Its second try takes none.

python short_of_memory.py <folder>      it prints what a user is told, as JSON
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import ray

from alray.lost_workers import told_losses

_ROOM = 1.5e9  # bytes that are left to all tasks together


def main(folder: Path) -> None:
    text = Path("/proc/meminfo").read_text()
    total, free = (
        1024 * int(re.findall(rf"^{name}: +(\d+) kB$", text, re.MULTILINE)[0]) for name in ("MemTotal", "MemAvailable")
    )
    threshold = (total - free + _ROOM) / total
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        _system_config={"memory_usage_threshold": min(threshold, 0.99), "memory_monitor_refresh_ms": 100},
    )  # fmt: skip

    @ray.remote(max_retries=3)
    def greedy() -> str:
        try:
            (folder / "tried").touch(exist_ok=False)
        except FileExistsError:
            return "done"
        held = bytearray(int(3 * _ROOM))
        held[:: 2**12] = b"x" * len(held[:: 2**12])
        time.sleep(60)
        return f"nobody ended it: {len(held)}"

    said = list[str]()
    with told_losses("extract", said.append):
        answer = ray.get(greedy.remote())
    print(json.dumps({"answer": answer, "said": said}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
