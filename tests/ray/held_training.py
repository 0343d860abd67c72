"""A program: a training on two workers that goes on until a file appears. It says where Ray is, and then ends well.

python held_training.py <folder>
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from alray.cluster import Joined
from alray.config import ResourceConfig
from alray.store import Store

READY, STOP, WRITTEN = "ready.txt", "stop", "written.json"


def main(folder: Path) -> None:
    joined = Joined(ResourceConfig(address="local", num_cpus=4, train_workers=2))
    resources = joined.resources
    import ray

    from alray.train.launch import launch

    gcs = ray.get_runtime_context().gcs_address

    def work(decoding: Any) -> dict[str, Any]:
        """All workers exchange tensors, so that every connection of a training is there."""
        import torch
        import torch.distributed as dist

        total = torch.zeros(1)
        while not total:  # until any worker has seen the file
            total = torch.tensor([float((folder / STOP).exists())])
            dist.all_reduce(total)
            if dist.get_rank() == 0 and not (folder / READY).exists():
                (folder / f"{READY}.tmp").write_text(gcs)
                (folder / f"{READY}.tmp").rename(folder / READY)
            time.sleep(0.1)
        if dist.get_rank() == 0:
            (folder / WRITTEN).write_text("{}")
        return {"workers": dist.get_world_size(), "backend": dist.get_backend()}

    found = launch(
        work, what="held", written=WRITTEN, out=Store(str(folder)), resources=resources, use_gpu=False,
        share=joined.share(print), epochs=1, progress=None,
    )  # fmt: skip
    assert found == {"workers": 2, "backend": "gloo"}, found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
