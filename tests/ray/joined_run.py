"""A program: a run that joins a cluster and holds it until it is ended.

python joined_run.py <address> <file that is written when the cluster is joined>
"""

from __future__ import annotations

import sys
from pathlib import Path

from alray.cli import guarded
from alray.cluster import Joined
from alray.config import ResourceConfig


def main(address: str, ready: Path) -> None:
    joined = Joined(ResourceConfig(address=address))
    print(joined.cluster, flush=True)
    import ray

    @ray.remote
    def long() -> None:
        import time

        time.sleep(600)

    waits = long.remote()
    ready.with_suffix(".tmp").write_text(ray.get_runtime_context().gcs_address)
    ready.with_suffix(".tmp").rename(ready)
    ray.get(waits)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1], Path(sys.argv[2])))
