"""Runs that share a cluster: each stage gets all that it needs or waits with nothing, and says who is in its way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import ray
from PIL import Image

from alray import RunConfig, demand, replace
from alray.cluster import ClusterError, Joined
from alray.config import ResourceConfig, TransformConfig
from alray.data.augment import Transform, eval_transform
from alray.data.catalog import index, index_arrays
from alray.data.images import image_dataset
from alray.joining import rejoin
from alray.reservation import Share, reserve
from alray.rounds import run
from alray.rundir import RunDir

HERE = Path(__file__).parent
TABLE = [
    (2, ["linear", "linear"]),
    *((cpus, ["finetune", "finetune"]) for cpus in (2, 4, 16)),
    *((cpus, ["finetune", "sweep"]) for cpus in (2, 4, 16)),
    *((cpus, ["sweep", "sweep"]) for cpus in (2, 4, 16)),
    *((cpus, ["finetuning sweep", "finetuning sweep"]) for cpus in (2, 4)),
    (8, ["finetune", "finetuning sweep", "sweep", "linear"]),
]


def program(name: str, *arguments: object, seconds: float) -> dict[str, Any]:
    """What a program of this folder prints as JSON. Its cluster is its own."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found


@pytest.mark.parametrize(
    ("seed", "meetings"), [(0, 2), *(pytest.param(seed, 12, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
@pytest.mark.timeout(1200)
def test_whatever_runs_demand_none_waits_for_ever(seed: int, meetings: int) -> None:
    found = program("many_demands.py", seed, meetings, seconds=1100)
    assert found["adds nodes"] is False
    assert all(found[size]["stages"] >= 6 * meetings for size in ("2", "4", "8", "16"))
    assert found["left"] == []  # every reservation was given back
    assert found["inside"] == {"reserved": [True, 1, 1], "still there": "CREATED"}
    (said,) = found["said"]
    assert said.startswith("train · waiting for 16 CPUs: ")
    for holder in ("13 CPUs", "by mine (select)", "2 CPUs", "by grid (sweep)", "1 CPU", "by others"):
        assert holder in said
    assert found["ended"].startswith("train: waiting for 16 CPUs: ")
    assert "for 0.15 minutes (resources.wait_minutes)" in found["ended"]


@pytest.mark.timeout(300)
def test_a_large_demand_gets_its_turn_beside_a_stream_of_small_ones() -> None:
    found = program("taking_turns.py", seconds=280)
    assert found["seconds"] is not None, "it was never granted"
    assert found["before"] > 4 and found["after"] > 2  # the others went on, before and after
    assert any("select · large (train) has waited for more than" in line for line in found["said"])


@pytest.mark.parametrize(
    ("cpus", "kinds"),
    [pytest.param(cpus, kinds, marks=[] if n == 0 else pytest.mark.slow) for n, (cpus, kinds) in enumerate(TABLE)],
)
@pytest.mark.timeout(1200)
def test_jobs_that_share_a_cluster_finish(cpus: int, kinds: list[str], tmp_path: Path) -> None:
    found = program("many_jobs.py", tmp_path, cpus, *kinds, seconds=1100)
    for job in found["jobs"]:
        print(f"{cpus} CPUs: {job['kind']} ended with {job['code']} after {job['seconds']} s")
        assert job["code"] == 0, job


@pytest.mark.usefixtures("ray_session")
def test_decoders_run_where_the_stage_reserved(tmp_path: Path) -> None:
    """A stage that holds the whole cluster waits for no CPU outside of what it holds."""
    for number in range(6):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    catalog = index(str(tmp_path / "images"), str(tmp_path / "catalog"))
    rows = np.arange(6)
    with reserve(Share("all"), "extract", demand.extraction(1, 1, use_gpu=False)) as held:
        assert held.decoders == 3
        assert ray.available_resources().get("CPU", 0.0) == 0.0
        dataset = image_dataset(
            catalog, rows, [pa.table({"row": rows[i : i + 2]}) for i in (0, 2, 4)],
            eval_transform(TransformConfig(size=8, resize=0)), max_tasks=held.decoders, where=held.anywhere(),
        )  # fmt: skip
        blocks = list(dataset.iter_batches(batch_size=None))
    assert sorted(int(image.mean()) for block in blocks for image in block["image"]) == list(range(6))


@pytest.mark.usefixtures("ray_session")
def test_a_stage_decodes_with_all_that_it_reserved_while_others_read(tmp_path: Path) -> None:
    """Ray Data would divide the CPUs of the cluster equally among those who read."""

    @dataclass(frozen=True)
    class Together(Transform):
        folder: str

        def __call__(self, image: Image.Image, row: int, epoch: int = 0) -> npt.NDArray[np.uint8]:
            folder, end = Path(self.folder), time.monotonic() + 60
            (folder / f"begun {row}").touch()
            while len(list(folder.glob("begun *"))) < 4:
                if time.monotonic() > end:
                    (folder / "alone").touch()
                    break
                time.sleep(0.1)
            return super().__call__(image, row, epoch)

    catalog = index_arrays(np.zeros((12, 8, 8, 3), np.uint8), None, str(tmp_path / "catalog"))
    others = [threading.Thread(target=ray.data.range(8).map_batches(lambda batch: batch).count) for _ in range(3)]
    with reserve(Share("all"), "extract", demand.extraction(1, 0.75, use_gpu=False)) as held:
        assert held.decoders == 4
        for other in others:
            other.start()  # its tasks wait until the stage has given everything back
        time.sleep(5)
        dataset = image_dataset(
            catalog, np.arange(12), [pa.table({"row": [row]}) for row in range(12)],
            Together(TransformConfig(size=8, resize=0), None, str(tmp_path)), num_cpus=0.75, max_tasks=held.decoders,
            where=held.anywhere(),
        )  # fmt: skip
        assert sum(len(block["row"]) for block in dataset.iter_batches(batch_size=None)) == 12
    for other in others:
        other.join()
    assert not (tmp_path / "alone").exists(), "the first four did not run at the same time"


@pytest.mark.usefixtures("ray_session")
def test_what_the_cluster_can_never_give_is_refused_at_once() -> None:
    with pytest.raises(ClusterError, match=r"needs 9 CPUs, the cluster has 4 CPUs \(select_shards=9.*Let it need less"):
        Joined(ResourceConfig(select_shards=9)).cluster  # noqa: B018
    wanted = demand.training(ResourceConfig(train_workers=4), use_gpu=False)
    with pytest.raises(ClusterError, match=r"train needs 5 CPUs.*train_workers=4"), reserve(Share(), "train", wanted):
        pass


@pytest.mark.usefixtures("ray_session")
def test_auto_is_one_of_each_on_one_machine_and_what_was_told_otherwise() -> None:
    joined = Joined(ResourceConfig(select_shards=3), most_workers=64)
    found = joined.resources
    assert (found.train_workers, found.extract_actors, found.select_shards) == (1, 1, 3)


@pytest.mark.usefixtures("ray_session")
def test_a_run_keeps_what_was_chosen_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "e.npz", features=rng.normal(size=(90, 4)).astype(np.float32), label=np.arange(90) % 3)
    config = RunConfig.model_validate(
        {
            "run_dir": str(tmp_path / "run"), "root": str(tmp_path), "rounds": 2, "budget": 5, "strategy": "margin",
            "data": {"root": str(tmp_path / "e.npz")}, "split": {"seed_set_size": 6},
            "top_k": [2], "train": {"mode": "linear", "epochs": 2},
        }
    )  # fmt: skip
    run(config)
    assert "1 shard(s)" in capsys.readouterr().out
    noted = RunDir(config.run_dir).cluster()
    assert [noted[name] for name in demand.COUNTED] == [1, 1, 1]
    RunDir(config.run_dir).write_cluster({**noted, "select_shards": 3})  # as if the first cluster had had three nodes
    run(replace(config, {"rounds": 3}))
    assert "3 shard(s)" in capsys.readouterr().out
    done = RunDir(config.run_dir)
    assert rejoin(done, config, done.catalog(), done.pool()).resources.select_shards == 3
    assert done.cluster() == {**noted, "select_shards": 3}
    run(replace(config, {"rounds": 4, "resources.select_shards": 2}))
    assert "2 shard(s)" in capsys.readouterr().out


MANY_GPUS = """
import json, sys, time
import numpy as np
import ray
from PIL import Image
from ray.cluster_utils import Cluster
folder = sys.argv[1]
for number in range(8):
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(f"{folder}/images/{'ab'[number % 2]}/{number}.png")
from alray import RunConfig, demand
from alray.joining import join
from alray.prepare import prepare
from alray.reservation import reserve
config = RunConfig.model_validate({"root": folder + "/runs", "data": {"root": folder + "/images"}, "budget": 1,
    "strategy": "margin", "split": {"seed_set_size": 2}, "model": {"backbone": "test_resnet"}, "top_k": [],
    "transform": {"size": 8, "train": "crop_pad", "resize": 0}, "train": {"batch_size": 2048}, "rounds": 2})
ready = prepare(config)
node = {"num_cpus": 64, "num_gpus": 8, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(8):
    cluster.add_node(**node)
cluster.wait_for_nodes()
joined = join(ready, ready.run)
taken = joined.resources
began, found = time.monotonic(), {}
for stage, wanted in (("train", demand.training(taken, joined.use_gpu)),
        ("extract", demand.extraction(taken.extract_actors, 1, joined.use_gpu)),
        ("select", demand.selection(taken.select_shards, 1))):
    with reserve(joined.share(print), stage, wanted) as held:
        nodes = held.nodes()
        found[stage] = [sorted(nodes.count(node) for node in set(nodes)), held.decoders]
seconds = time.monotonic() - began
cluster.add_node(**node)
cluster.wait_for_nodes()
again = join(ready, ready.run).resources  # the run goes on
noted = ready.run.cluster()
print(json.dumps({"taken": [getattr(taken, name) for name in demand.COUNTED], "use_gpu": joined.use_gpu,
    "again": [getattr(again, name) for name in demand.COUNTED], "noted": noted, "stages": found, "seconds": seconds}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_plain_command_uses_a_cluster_of_64_gpus_and_keeps_to_it(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
    command = [sys.executable, "-c", MANY_GPUS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["taken"] == found["again"] == [64, 64, 64]
    assert found["use_gpu"] is True
    assert found["noted"].items() >= {**dict.fromkeys(demand.COUNTED, 64), "use_gpu": True}.items()
    for stage in ("train", "extract", "select"):
        assert found["stages"][stage][0] == [8] * 8, stage
    assert [found["stages"][stage][1] for stage in ("train", "extract", "select")] == [8 * 64 - 64, 8 * 64, 0]
