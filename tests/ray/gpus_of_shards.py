"""A program: selection actors on a Ray of 8 CPUs and two GPUs that are pretended; PyTorch sees none.

python gpus_of_shards.py <folder>

Prints one JSON object: what the processes of a selection hold and see, case by case.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from alray import RunConfig, replace, run, select
from alray.cluster import driver_takes_no_gpu
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.features.arrays import ArraySource, Shard, cut
from alray.models.no_gpu import gpu_allowed, without_gpu
from alray.reservation import Share
from alray.selection.protocol import Context, Picks, Strategy
from alray.selection.shards import RayActors
from alray.selection.strategies.k_center import KCenter
from alray.sweep.tuner import _hide_gpus

CPUS, ROWS = 0.25, 60


def seen() -> dict[str, Any]:
    """What this process holds, is shown and may use."""
    shown, group = os.environ.get("CUDA_VISIBLE_DEVICES"), ray.util.get_current_placement_group()
    held = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    return {"held": held, "shown": shown, "allowed": gpu_allowed(), "group": group.id.hex() if group else ""}


class State:
    def seen(self) -> dict[str, Any]:
        return seen()


class Looks(Strategy):
    def open(self, shard: Shard, context: Context) -> State:
        return State()

    def select(self, shards: Any, budget: int, context: Context) -> Picks:
        raise NotImplementedError


class LooksOnGpu(Looks):
    uses_gpu: ClassVar[bool] = True


@dataclass(frozen=True)
class Noting(KCenter):
    """k-center whose shards write down what they see."""

    folder: str = ""

    def open(self, shard: Shard, context: Context) -> Any:
        Path(self.folder, f"{os.getpid()}.json").write_text(json.dumps(seen()))
        return super().open(shard, context)


def actors(shards: int, strategy: Strategy, use_gpu: bool = True, share: Share | None = None) -> RayActors:
    sources = [ArraySource(np.arange(ROWS)[part], {}) for part in cut(ROWS, shards)]
    return RayActors(sources, strategy, Context(0, 1), CPUS, share or Share(), use_gpu)


def look(shards: int, strategy: Strategy, use_gpu: bool = True) -> list[dict[str, Any]]:
    with actors(shards, strategy, use_gpu) as found:
        return found.map("seen")


def free_gpus() -> float:
    """The GPUs that nobody holds, when what has ended was given back."""
    deadline = time.monotonic() + 30
    while (free := float(ray.available_resources().get("GPU", 0.0))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    return free


def lost() -> list[list[dict[str, Any]]]:
    """What two actors see before one of them is killed, and after it was started again."""
    with actors(2, LooksOnGpu()) as found:
        before, pids = found.map("seen"), found.pids()
        os.kill(pids[0], signal.SIGKILL)
        after = found.map("seen")
        assert found.pids()[0] != pids[0]
    return [before, after]


def waited() -> dict[str, Any]:
    """What a selection says that waits for GPUs, and what its actors see when they are given back."""
    said, got = list[str](), list[Any]()

    def later() -> None:
        with actors(2, LooksOnGpu(), share=Share("late", 3, said.append)) as found:
            got.extend(found.map("seen"))

    with actors(2, LooksOnGpu(), share=Share("first")):
        thread = threading.Thread(target=later, daemon=True)
        thread.start()
        while not said and thread.is_alive():
            time.sleep(0.1)
        early = list(got)
    thread.join(120)
    return {"said": (said or [""])[0], "early": early, "got": got}


@ray.remote
def trial() -> dict[str, Any]:
    _hide_gpus()
    return {"driver": driver_takes_no_gpu(ResourceConfig()), "own": seen(), "actors": look(2, LooksOnGpu())}


def in_trial(driver_gpus: float, worker_gpus: Sequence[float]) -> dict[str, Any]:
    """What the driver of a trial and its actors see, for the GPUs of the trial's bundles."""
    group = placement_group(
        [{"CPU": 1.0, "GPU": gpus} if gpus else {"CPU": 1.0} for gpus in (driver_gpus, *worker_gpus)]
    )
    assert group.wait(60)
    inside = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    found: dict[str, Any] = ray.get(
        trial.options(num_cpus=1, num_gpus=driver_gpus, scheduling_strategy=inside).remote(), timeout=120
    )
    remove_placement_group(group)
    return found


def whole_run(folder: Path, use_gpu: str) -> list[dict[str, Any]]:
    """What the actors of a run see."""
    rng, label = np.random.default_rng(0), np.arange(90) % 3
    noted, features = folder / use_gpu, rng.normal(size=(90, 6)).astype(np.float32)
    noted.mkdir()
    np.savez(folder / "e.npz", features=features, label=label, is_test=np.arange(90) % 4 == 0)
    config = RunConfig(
        name=use_gpu, root=str(folder / "runs"), rounds=2, budget=5, top_k=(2,),
        data=DataConfig(root=str(folder / "e.npz")), split=SplitConfig(val_size=9, seed_set_size=6),
        train=TrainConfig(mode="linear", epochs=2), resources=ResourceConfig(cpus_per_shard=CPUS),
    )  # fmt: skip
    run(replace(config, {"resources.use_gpu": use_gpu}), strategy=Noting(folder=str(noted)), quiet=True)
    return [json.loads(path.read_text()) for path in noted.iterdir()]


def same_picks() -> bool:
    x = np.random.default_rng(1).normal(size=(ROWS, 5)).astype(np.float32)
    one, other = (select("k_center", 9, embedding=x, workers=w, num_shards=3) for w in ("process", "ray"))
    return one == other


def other_driver() -> str:
    """What a process is told that joins this Ray from outside."""
    address = ray.get_runtime_context().gcs_address
    program = (
        "import ray; from alray.cluster import driver_takes_no_gpu as f; from alray.config import ResourceConfig as R; "
        f"ray.init({address!r}, log_to_driver=False, logging_level='ERROR'); print(f(R()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200)
    return done.stdout.split()[-1]


def main(folder: Path) -> None:
    with without_gpu():  # Ray's processes inherit it, as in a program whose first run uses no GPU
        ray.init(
            address="local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=100 * 2**20, logging_level="ERROR",
        )  # fmt: skip
    found = {
        "shards": {number: look(number, LooksOnGpu()) for number in (1, 2, 3, 4, 6)},
        "strategy without": look(2, Looks()),
        "run without": look(2, LooksOnGpu(), use_gpu=False),
        "lost": lost(),
        "waited": waited(),
        "training trial": in_trial(0.0, [1.0, 1.0]),
        "linear trial": in_trial(0.0, [0.0, 0.0]),
        "trial with a GPU": in_trial(1.0, [0.0, 0.0]),
        "auto": whole_run(folder, "auto"),
        "no": whole_run(folder, "no"),
        "same picks": same_picks(),
        "own driver": driver_takes_no_gpu(ResourceConfig()),
        "own driver of a run without": driver_takes_no_gpu(ResourceConfig(use_gpu="no")),
        "other driver": other_driver(),
        "free": free_gpus(),
    }
    print(json.dumps(found))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
