"""A program: real jobs that share one cluster, each in a process of its own.

python many_jobs.py <folder> <CPUs> <kind of job> <kind of job> ...

Prints one JSON object: for each job its kind, exit code, seconds and the last lines of what it said; and the seconds of
all together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alray import RunConfig
from alray.config import ModelConfig
from alray.models.backbone import create

MODEL = {"backbone": "resnet18", "options": {"channels": [8, 8, 8, 8]}, "small_stem": True}
JOBS = {
    "linear": {"train": {"mode": "linear", "epochs": 2}},
    "finetune": {"train": {"mode": "finetune", "epochs": 1, "batch_size": 16}},
    "sweep": {"train": {"mode": "linear", "epochs": 2}},
    "finetuning sweep": {"train": {"mode": "finetune", "epochs": 1, "batch_size": 16}},
}
START = """
import sys
from alray.config import RunConfig
config = RunConfig.from_json(open(sys.argv[2]).read())
if "sweep" in sys.argv[1]:
    from alray.sweep import sweep
    failed = sweep(config, {"seed": [0, 1]}).failed
    sys.exit(str(failed) if failed else 0)
from alray.rounds import run
run(config)
"""


def config_of(folder: Path, name: str, kind: str) -> RunConfig:
    tree: dict[str, Any] = {
        "name": name, "root": str(folder / name), "rounds": 2, "budget": 4, "strategy": "margin", "top_k": [2],
        "data": {"root": str(folder / "images")}, "split": {"seed_set_size": 6},
        "transform": {"size": 16, "train": "crop_pad", "pad": 1, "resize": 0},
        "model": {**MODEL, "checkpoint": str(folder / "backbone.pt")},
        "resources": {"wait_minutes": 20}, **JOBS[kind],
    }  # fmt: skip
    return RunConfig.model_validate(tree)


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(36):
        part = "test" if number % 4 == 0 else "train"
        path = folder / "images" / part / f"class{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    torch.save(create(ModelConfig(**MODEL), 3, seed=4).backbone.state_dict(), folder / "backbone.pt")


def main(folder: Path, cpus: int, kinds: list[str]) -> None:
    import ray

    write_images(folder)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    began, jobs = time.monotonic(), []
    for number, kind in enumerate(kinds):
        name = f"job{number}"
        (folder / f"{name}.json").write_text(config_of(folder, name, kind).to_json())
        said = (folder / f"{name}.txt").open("wb")
        command = [sys.executable, "-c", START, kind, str(folder / f"{name}.json")]
        jobs.append(subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT))
    ended: dict[int, float] = {}
    while len(ended) < len(jobs) and time.monotonic() - began < float(os.environ.get("LIMIT", "900")):
        time.sleep(0.2)
        for number, job in enumerate(jobs):
            if number not in ended and job.poll() is not None:
                ended[number] = round(time.monotonic() - began, 1)
    for job in jobs:
        job.kill()
    found = [
        {
            "kind": kind,
            "code": job.wait(),
            "seconds": ended.get(n),
            "said": (folder / f"job{n}.txt").read_text()[-3000:],
        }
        for n, (kind, job) in enumerate(zip(kinds, jobs, strict=True))
    ]
    print(json.dumps({"jobs": found, "seconds": round(time.monotonic() - began, 1)}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
