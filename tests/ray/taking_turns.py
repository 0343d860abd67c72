"""A program: a stage that needs the whole cluster, beside two runs whose small stages follow each other without end.

python taking_turns.py

Prints one JSON object: after how many seconds the large stage was granted (null: never), how many small stages there
were, and what they were told.
"""

from __future__ import annotations

import json
import threading
import time

import ray

from alray import demand, reservation
from alray.reservation import ClusterError, Share, reserve


def small(name: str, over: threading.Event, done: list[str], said: list[str]) -> None:
    while not over.is_set():
        with reserve(Share(name, 5, said.append), "select", demand.selection(2, 1)):
            done.append(name)
            over.wait(2)


def main() -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    reservation.TURN = 0.1
    over, done, said = threading.Event(), list[str](), list[str]()
    runs = [threading.Thread(target=small, args=(name, over, done, said)) for name in ("one", "two")]
    for run in runs:  # one second apart: half of the cluster is always held
        run.start()
        time.sleep(1)
    began, seconds = time.monotonic(), None
    try:
        with reserve(Share("large", 1), "train", demand.selection(4, 1)):
            seconds = time.monotonic() - began
    except ClusterError:
        pass
    before = len(done)
    time.sleep(8)
    over.set()
    for run in runs:
        run.join()
    print(json.dumps({"seconds": seconds, "before": before, "after": len(done) - before, "said": said}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
