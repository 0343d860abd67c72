"""ImageNet's size: 1.28 M rows, 30,000 labeled, 10,000 exact k-center picks on four Ray actors; BADGE beside it.

    python benchmarks/bench_scale.py --d 512        # and --d 2048

Generated embeddings (heavy-tailed clusters), float16 on disk as alray's own feature files; not ImageNet's. The plain
greedy is measured in the same run on some picks and some labeled rows and extrapolated: it does one pass over the pool
for each of 40,000 centers.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import shutil
import tempfile
import time
from typing import Any

import numpy as np
from embeddings import heavy_tailed, logits
from results import record

from alray import cluster, keyed
from alray.config import ResourceConfig
from alray.features.table import FeatureTable, commit, write_part
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.selection.select import select_from
from alray.store import Store

CLASSES = 1000


def write(folder: str, n: int, d: int, with_logits: bool) -> FeatureTable:
    """Feature files as extraction writes them."""
    store, parts, done = Store(folder), [], 0
    for number, block in enumerate(heavy_tailed(n, d)):
        rows = np.arange(done, done + len(block))
        columns = {"embedding": block, **({"logits": logits(block, CLASSES)} if with_logits else {})}
        write_part(store, number, rows, columns)
        parts.append(rows)
        done += len(block)
    widths: dict[str, Any] = {"embedding": (d, "float16"), **({"logits": (CLASSES, "float16")} if with_logits else {})}
    return commit(store, parts, "generated", widths)


def plain_pick_seconds(table: FeatureTable, rows: np.ndarray) -> float:
    """CPU seconds of one float32 pass of a matrix-vector product over part of the pool, times the whole pool."""
    part = rows[: 200_000_000 // table.dim]
    x = table.read(part, "embedding").astype(np.float32)
    squares = np.einsum("nd,nd->n", x, x)
    nearest = np.full(len(x), np.inf, np.float32)
    start = time.process_time()
    for i in range(10):
        nearest = np.minimum(nearest, squares + squares[i] - 2 * (x @ x[i]))
        int(np.argmax(nearest))
    return (time.process_time() - start) / 10 * len(rows) / len(part)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("n", 1_281_167), ("d", 512), ("labeled", 30_000), ("picks", 10_000), ("actors", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--badge", type=int, default=0, help="BADGE picks to make on the same rows, with 1,000 classes")
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    folder = args.folder or tempfile.mkdtemp()
    table = write(folder, args.n, args.d, with_logits=args.badge > 0)
    mixed = keyed.order(0, "scale", np.arange(args.n))
    labeled, pool = np.sort(mixed[: args.labeled]), np.sort(mixed[args.labeled :])
    plain = plain_pick_seconds(table, pool)
    cluster.start(ResourceConfig(address="local", num_cpus=args.actors, select_shards=args.actors))
    context = Context(num_classes=CLASSES, labeled=table.source(labeled))
    result: dict[str, Any] = {"sizes": vars(args) | {"folder": ""}, "plain_cpu_seconds_per_center": plain}
    for name, k in (("k_center", args.picks), ("badge", args.badge)):
        if not k:
            continue
        times: list[tuple[float, int]] = []
        start = time.monotonic()
        picks = select_from(
            table.shards(pool, args.actors), build(name), k, context, workers="ray",
            watch=lambda done, times=times, start=start: times.append((round(time.monotonic() - start, 1), done)),
        )  # fmt: skip
        account = dict(picks.account)
        cpu = account["arithmetic_cpu_seconds"] + account["merge_cpu_seconds"]
        result[name] = {"picks": k, "cpu_seconds": cpu, "wall_seconds_and_picks": times[:: max(1, len(times) // 10)],
                        "account": account, "plain_over_ours": plain * (args.labeled + k) / cpu}  # fmt: skip
        print(name, result[name], flush=True)
    record(f"scale_{args.d}" + ("_badge" if args.badge else ""), result)
    if not args.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
