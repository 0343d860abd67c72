"""A whole program for the tests that kill: runs a configuration, and can shoot itself at a chosen write.

    python program.py CONFIG.json [--kill-at WHAT --when before|after] [--kill-after-writes N]

WHAT is the end of a path, e.g. round_01/picks.parquet. SIGKILL is real: no handler runs, nothing is flushed.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from alray import RunConfig, store


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kill_at: str, when: str, kill_after_writes: int) -> None:
    """Replace the one function that writes files by one that also dies."""
    write, count = store.write_bytes, 0

    def write_and_die(uri: str, data: bytes | memoryview) -> None:
        nonlocal count
        here = bool(kill_at) and uri.endswith(kill_at)
        if here and when == "before":
            die()
        if here and when == "during":  # as a kill inside the write leaves it: half a temporary file
            Path(f"{uri}.0badc0de.tmp").write_bytes(bytes(data)[: len(data) // 2])
            die()
        write(uri, data)
        count += 1
        if (here and when == "after") or count == kill_after_writes:
            die()

    store.write_bytes = write_and_die


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--when", choices=["before", "during", "after"], default="after")
    parser.add_argument("--kill-after-writes", type=int, default=0)
    args = parser.parse_args()
    arm(args.kill_at, args.when, args.kill_after_writes)

    from alray.rounds import run

    print(run(RunConfig.from_json(args.config.read_text())).dir)


if __name__ == "__main__":
    main()
