"""Pools of 10^7 and 10^8 rows in one file: CPU seconds inside and outside of the selection, memory without page cache.

    python benchmarks/bench_large_pool.py                                                   # 10^7 x 128, float16
    python benchmarks/bench_large_pool.py --n 100000000 --d 64 --labeled 1000 --picks 100   # 12.8 GB of embeddings

Generated embeddings (heavy-tailed clusters) and logits, float16 in .npy files. Each selection is a process of its own.
"Inside" are the shards' work and the driver's decisions. "Outside" is the rest of its process' CPU time: imports, which
take as long for any number of rows and are also listed alone, reading what was given, checks. Resident memory is what
the system cannot take back (RssAnon). Beside it is the peak with the pages of the mapped file, which it can (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from embeddings import heavy_tailed
from results import record

CLASSES, LOOK = 10, 0.2
LIMIT = 8 << 30  # bytes of memory of its own that a selection may have; more ends it with MemoryError


def write(folder: Path, n: int, d: int) -> None:
    """The files of a pool: embeddings (n, d), logits (n, classes). A quarter of the rows is drawn; the others are these
    mirrored, with the signs of some columns changed."""
    x = np.lib.format.open_memmap(folder / "embedding.npy", "w+", np.float16, (n, d))
    z = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float16, (n, CLASSES))
    weight = np.random.default_rng(0).standard_normal((CLASSES, d), np.float32).T / np.float32(d**0.5)
    quarter, done = -(-n // 4), 0
    for block in heavy_tailed(quarter, d):
        for number in range(4):
            start = number * quarter + done
            mirrored = block[: max(0, n - start)].copy()
            mirrored[:, number::4] *= np.float16(-1 if number else 1)
            x[start : start + len(mirrored)] = mirrored
            z[start : start + len(mirrored)] = 4 * (mirrored.astype(np.float32) @ weight)
        done += len(block)
    x.flush()
    z.flush()


def status(name: str) -> float:
    """A line of /proc/self/status, in GiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 2**20


def one(folder: Path, strategy: str, labeled: int, picks: int, shards: int) -> None:
    """Select, and print what it took. It runs in a process of its own."""
    from alray.every import every
    from alray.selection.select import select

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    if strategy == "k_center":
        import torch  # noqa: F401

    imports = time.process_time()
    resident = [status("RssAnon")]
    column = "embedding" if strategy == "k_center" else "logits"
    path = folder / f"{column}.npy"
    rows = np.random.default_rng(1).choice(len(np.load(path, mmap_mode="r")), labeled, replace=False)
    start = time.monotonic()
    with every(LOOK, lambda: resident.append(status("RssAnon")), "memory"):
        given: dict[str, Any] = {column: str(path)}
        found = select(strategy, picks, labeled=rows, num_shards=shards, **given)
    cpu = time.process_time()
    inside = found.account["arithmetic_cpu_seconds"] + found.account["merge_cpu_seconds"]
    result = {
        "cpu_seconds": round(cpu, 2), "inside": round(inside, 2), "imports": round(imports, 2),
        "outside_share": round(1 - inside / cpu, 3),
        "wall_seconds": round(time.monotonic() - start, 1), "resident_gib": round(max(resident), 2),
        "with_mapped_file_gib": round(status("VmHWM"), 2), "first_rows": found.rows[:5].tolist(),
        **{name: value for name, value in found.account.items() if isinstance(value, int)},
    }  # fmt: skip
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("n", 10_000_000), ("d", 128), ("labeled", 30_000), ("picks", 10_000), ("shards", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--strategies", nargs="+", default=["margin", "k_center"])
    parser.add_argument("--folder", default="", help="where the files are, or are written and kept")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(Path(args.folder), args.one, args.labeled, args.picks, args.shards)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if not (folder / "embedding.npy").exists():
            write(folder, args.n, args.d)
        found: dict[str, Any] = {}
        for strategy in args.strategies:
            command = [sys.executable, __file__, "--one", strategy, "--folder", str(folder)]
            command += [f"--{name}={getattr(args, name)}" for name in ("labeled", "picks", "shards")]
            found[strategy] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(strategy, found[strategy], flush=True)
    record(f"large_pool_{args.n:.0e}".replace("+0", ""), {"sizes": {**vars(args), "folder": ""}, **found})


if __name__ == "__main__":
    main()
