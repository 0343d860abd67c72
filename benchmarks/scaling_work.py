"""The pieces of work that `bench_scaling.py` measures: selection, extraction and training on 1, 2, 4, 8 workers.

What counts is what more workers cost: CPU seconds of all processes, exchanges, and bytes of messages and memory. Wall
time says nothing where all workers share the same cores.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from embeddings import heavy_tailed
from PIL import Image

from alray import RunConfig, replace
from alray.cluster import Joined
from alray.config import FeatureConfig, ModelConfig, TrainConfig, TransformConfig
from alray.data.catalog import Catalog, index
from alray.features.arrays import ArraySource, Shard, cut
from alray.features.extract import Measurers, extract
from alray.features.measures import Extraction, Features, ModelSource
from alray.features.table import FeatureTable, write_arrays
from alray.selection.protocol import Context, Picks, Strategy
from alray.selection.registry import build
from alray.selection.shards import RayActors
from alray.store import Store
from alray.train.driver import train
from alray.train.supervised import supervised_recipe
from alray.train.targets import ClassTargets

NAMES = ("margin", "base", "k_center", "badge", "pt4al")
CLASSES, WIDTH, LABELED, PICKS = 10, 64, 500, 200
MODEL = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 32, 32]}, small_stem=True)
TRANSFORM = TransformConfig(size=32, train="crop_pad", resize=0)


class TreeSeconds:
    """Context manager: CPU seconds of this process and of all processes below it, also of those that end. A thread
    looks at them often, because nobody adds up the seconds of Ray's workers when they have ended."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._over = threading.Event()
        self._before = 0.0

    def __enter__(self) -> TreeSeconds:
        self._before = self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return round(self._look() - self._before, 1)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self._look()

    def _look(self) -> float:
        import psutil  # comes with Ray

        for process in (me := psutil.Process(), *me.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
        return sum(list(self._seen.values()))


@dataclass
class Counted:
    """Shards of one strategy among those that the actors hold, with an account of the messages."""

    actors: RayActors
    name: str
    exchanges: int = 0
    sent: int = 0
    received: int = 0
    _parts: int = field(default=0, init=False)

    def map(self, method: str, *args: Any) -> list[Any]:
        answers = self.actors.map("call", self.name, method, *args)
        self.exchanges += 1
        self.sent += len(answers) * len(pickle.dumps(args, protocol=5))
        self.received += sum(len(pickle.dumps(answer, protocol=5)) for answer in answers)
        return answers

    def report_progress(self, picks: int) -> None:
        pass


def several() -> Strategy:
    """All strategies at once: starting actors is what takes long. Local classes travel by value."""
    strategies = {name: build(name) for name in NAMES}

    class State:
        def __init__(self, shard: Shard, context: Context) -> None:
            self.shard, self.context, self.states = shard, context, dict[str, Any]()

        def imports(self) -> None:
            import alray.selection.kernels.race
            import alray.selection.kernels.sieve  # noqa: F401  with torch, which takes seconds

        def call(self, name: str, method: str, *args: Any) -> Any:
            if name not in self.states:
                self.states[name] = strategies[name].open(self.shard, self.context)
            return getattr(self.states[name], method)(*args)

    class Several(Strategy):
        def open(self, shard: Shard, context: Context) -> State:
            return State(shard, context)

        def select(self, shards: object, budget: int, context: Context) -> Picks:
            raise NotImplementedError

    return Several()


def features(folder: Path, n: int) -> FeatureTable:
    """Generated embeddings as extraction writes them."""
    x = np.concatenate(list(heavy_tailed(n, WIDTH)))
    return write_arrays(Store(str(folder / f"table-{n}")), np.arange(n), x, "float16", f"{n}", part_rows=4096)


def context_of(table: FeatureTable) -> tuple[Context, np.ndarray]:
    """What the strategies know, and the rows to choose from."""
    rng, n = np.random.default_rng(0), len(table.rows)
    labeled = np.sort(rng.choice(n, LABELED, replace=False))
    head = (rng.normal(size=(CLASSES, table.dim)), np.zeros(CLASSES))
    pretext = (np.arange(n, dtype=np.int32), rng.random(n, np.float32))
    return (
        Context(1, 1, CLASSES, head, table.source(labeled), np.zeros(LABELED, np.int64), None, pretext),
        np.setdiff1d(table.rows, labeled),
    )


def selection(table: FeatureTable, actors: int) -> dict[str, Any]:
    """Each strategy's counters on so many actors."""
    import alray.selection.kernels.farthest
    import alray.selection.kernels.gradients  # noqa: F401

    context, pool = context_of(table)
    found: dict[str, Any] = {}
    with RayActors(table.shards(pool, actors), several(), context, 0.5) as held:
        held.map("imports")
        before = _cpu(held)
        for name in NAMES:
            shards, start = Counted(held, name), time.process_time()
            picks = build(name).select(shards, PICKS, held.context)
            driver, after = time.process_time() - start, _cpu(held)
            found[name] = {
                "shards_cpu_seconds": round(after - before, 3),
                "driver_cpu_seconds": round(driver, 3),
                "exchanges": shards.exchanges,
                "sent_bytes": shards.sent,
                "received_bytes": shards.received,
                "picks": f"{zlib.crc32(picks.rows.tobytes()):08x}",
            }
            before = after
        found["largest_shard_bytes"] = int(max(one["peak_bytes"] for one in held.accounts()))
    return found


def _cpu(actors: RayActors) -> float:
    return sum(one["cpu_seconds"] for one in actors.accounts())


def per_row(name: str, driver: bool, sizes: tuple[int, int] = (100_000, 300_000)) -> float:
    """Bytes per row that a strategy allocates at its peak, on the driver (its shards are an actor), or in a shard."""
    return (_peak(name, driver, sizes[1]) - _peak(name, driver, sizes[0])) / (sizes[1] - sizes[0])


def _peak(name: str, driver: bool, n: int) -> int:
    from alray.selection.in_process import InProcess

    rng, strategy = np.random.default_rng(0), build(name)
    x = rng.normal(size=(n + 50, 4)).astype(np.float32)
    rows = np.arange(n + 50)
    head = (rng.normal(size=(4, 4)), np.zeros(4))
    pretext = (np.arange(n + 50, dtype=np.int32), x[:, 1].copy())
    context = Context(1, 1, 4, head, ArraySource(rows[n:], {"embedding": x[n:]}), np.zeros(50, int), None, pretext)
    sources = [ArraySource(rows[part], {"embedding": x[part]}) for part in cut(n, 1)]
    with RayActors(sources, strategy, context, 0.5) if driver else InProcess(sources, strategy, context) as shards:
        tracemalloc.start()
        strategy.select(shards, 20, context)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def images(folder: Path, number: int) -> Catalog:
    """Noise as PNG files of two classes."""
    rng = np.random.default_rng(0)
    for at in range(number):
        path = folder / "images" / f"class{at % 2}" / f"{at:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    return index(str(folder / "images"), str(folder / "catalog"))


def extraction(catalog: Catalog, n: int, actors: int, out: Path) -> dict[str, Any]:
    """Embed n images with so many actors."""
    measure = Features(
        ModelSource(MODEL, 2, seed=1, weights="", weights_id="fresh", image_size=32),
        TRANSFORM, FeatureConfig(dtype="float32", batch_size=64), with_logits=True,
    )  # fmt: skip
    work = Extraction(catalog, np.arange(n), measure, part_rows=128)
    with TreeSeconds() as tree:
        table = extract(work, Store(str(out)), measurers=Measurers(actors), decode_cpus=0.5)
        seconds = tree.seconds
    return {
        "images": n,
        "cpu_seconds": seconds,
        "written_bytes": sum(path.stat().st_size for path in out.glob("part-*")),
        "parts": table.manifest["parts"],
    }


def training(catalog: Catalog, n: int, workers: int, out: Path) -> dict[str, Any]:
    """Fine-tune on n images with so many workers; a step exchanges the gradients of all parameters once."""
    config = replace(RunConfig(), {
        "model": MODEL, "transform": TRANSFORM, "train": TrainConfig(epochs=3, batch_size=64, lr=0.1),
        "resources.train_workers": workers, "resources.use_gpu": "no", "resources.decode_cpus": 0.5,
        "resources.cpus_per_train_worker": 0.5,
    })  # fmt: skip
    labels, held = np.arange(n) % 2, np.arange(n, n + 64)
    recipe = supervised_recipe(
        config, ClassTargets(2), labeled=(np.arange(n), labels), held_out=(held, held % 2), round=0, seed=0, start=None,
        out=Store(str(out)),
    )  # fmt: skip
    with TreeSeconds() as tree:
        train(recipe, catalog, Joined(config.resources), what="training")
        return {"images": n, "steps": 3 * -(-n // 64), "cpu_seconds": tree.seconds}


def gradient_bytes() -> int:
    """Bytes of all parameters of the network in float32, which workers exchange in every step."""
    from alray.models.backbone import create

    return sum(4 * parameter.numel() for parameter in create(MODEL, 2, 0, 32).parameters())


def decode_seconds(number: int = 60) -> tuple[float, int]:
    """CPU seconds for decoding and resizing one JPEG of ImageNet's usual size, and the bytes of that JPEG."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (94, 125, 3), np.uint8))
    file = io.BytesIO()
    small.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    start = time.process_time()
    for _ in range(number):
        Image.open(io.BytesIO(file.getvalue())).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    return (time.process_time() - start) / number, len(file.getvalue())


@contextmanager
def nodes(number: int) -> Iterator[None]:
    """A Ray cluster of so many nodes on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    memory = 150 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": memory})
    try:
        for _ in range(number - 1):
            cluster.add_node(num_cpus=4, object_store_memory=memory)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def quiet_environment() -> None:
    """Before Ray is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    for name in ("RAY_raylet_start_wait_time_s", "RAY_gcs_server_port_wait_time_s"):
        os.environ[name] = "180"  # on a busy machine
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
