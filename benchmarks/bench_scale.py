"""ImageNet's size: 1.28 M rows, 30,000 labeled, 10,000 exact k-center picks on four Ray actors; BADGE beside it.

    python benchmarks/bench_scale.py --d 512        # and --d 2048
    python benchmarks/bench_scale.py --d 2048 --picks 0 --badge 1000 10000 --actors 0        # BADGE, without Ray

Generated embeddings (heavy-tailed clusters), float16 on disk as alray's own feature files; not ImageNet's. The plain
greedy is measured in the same run on some picks and some labeled rows and extrapolated: it does one pass over the pool
for each of 40,000 centers. BADGE stands beside the two float32 products, of embeddings and of gradients of the logits,
that the squared distances of all rows to 1,000 picks would take.
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
from alray.selection.select import Workers, select_from
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


def two_products_seconds(table: FeatureTable, rows: np.ndarray) -> float:
    """CPU seconds of the two float32 products of the whole pool and 1,000 picks, measured on some of the rows."""
    part, best = rows[:16_384], np.inf
    h, u = (table.read(part, name).astype(np.float32) for name in ("embedding", "logits"))
    for _ in range(3):
        start = time.process_time()
        for one in (h, u):
            one @ one[:1000].T
        best = min(best, time.process_time() - start)
    return best * len(rows) / len(part)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("n", 1_281_167), ("d", 512), ("labeled", 30_000), ("picks", 10_000), ("actors", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--badge", type=int, nargs="*", default=[], help="BADGE's budgets on the same rows, 1,000 classes"
    )
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    folder = args.folder or tempfile.mkdtemp()
    table = write(folder, args.n, args.d, with_logits=bool(args.badge))
    mixed = keyed.order(0, "scale", np.arange(args.n))
    labeled, pool = np.sort(mixed[: args.labeled]), np.sort(mixed[args.labeled :])
    plain = plain_pick_seconds(table, pool)
    workers: Workers = "ray" if args.actors else "process"
    if args.actors:
        cluster.start(ResourceConfig(address="local", num_cpus=args.actors, select_shards=args.actors))
    context = Context(num_classes=CLASSES, labeled=table.source(labeled))
    result: dict[str, Any] = {"sizes": vars(args) | {"folder": ""}, "plain_cpu_seconds_per_center": plain}
    if args.badge:
        import torch  # noqa: F401  # so that no selection pays for it

        result["two_products_cpu_seconds_per_1000_picks"] = products = two_products_seconds(table, pool)
    runs: list[tuple[str, int, dict[str, Any]]] = [("k_center", args.picks, {})] if args.picks else []
    runs += [("badge", k, {"centers": centers}) for k in args.badge for centers in ("labeled", "picks")]
    for name, k, options in runs:
        times: list[tuple[float, int]] = []
        start = time.monotonic()

        def watch(done: int, times: list[tuple[float, int]] = times, start: float = start) -> None:
            times.append((round(time.monotonic() - start, 1), done))

        shards = table.shards(pool, max(1, args.actors))
        picks = select_from(shards, build(name, options), k, context, workers=workers, watch=watch)
        account = dict(picks.account)
        cpu = account["arithmetic_cpu_seconds"] + account["merge_cpu_seconds"]
        seen = times[:: max(1, len(times) // 10)]
        entry = {"picks": k, **options, "cpu_seconds": cpu, "wall_seconds_and_picks": seen, "account": account}
        if name == "badge":
            entry["over_two_products"] = round(cpu / (products * k / 1000), 3)
        else:
            entry["plain_over_ours"] = plain * (args.labeled + k) / cpu
        result["_".join([name, *options.values(), str(k)]) if options else name] = entry
        print(name, entry, flush=True)
    record(f"scale_{args.d}" + ("_badge" if args.badge else ""), result)
    if not args.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
