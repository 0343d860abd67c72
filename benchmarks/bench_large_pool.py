"""Pools of 10^7 and 10^8 rows in one file: CPU seconds inside and outside of the selection, memory without page cache.

    python benchmarks/bench_large_pool.py                                                   # 10^7 x 128, float16
    python benchmarks/bench_large_pool.py --n 100000000 --d 64 --labeled 1000 --picks 100   # 12.8 GB of embeddings
    python benchmarks/bench_large_pool.py --d 64 --labeled 1000 --picks 100 --dtypes float16 int8   # beside each other

Generated embeddings (heavy-tailed clusters) and logits, float16 in .npy files; int8 are the same numbers divided by a
scale for each column and rounded, and the scale is given to the selection. Each selection is a process of its own.
"Inside" are the shards' work and the driver's decisions, and the import of PyTorch where it is worth it ("torch" says
so). "Outside" is the rest of its process' CPU time: other imports, which take as long for any number of rows and are
also listed alone, reading what was given, checks. Resident memory is what the system cannot take back (RssAnon). Beside
it is the peak with the pages of the mapped file, which it can (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from embeddings import heavy_tailed
from results import record

CLASSES, LOOK = 10, 0.2
LIMIT = 8 << 30  # bytes of memory of its own that a selection may have; more ends it with MemoryError
DTYPES = ("float16", "int8")


class Stored:
    """A .npy file that is written block by block, beside one with the scale where the type needs it."""

    def __init__(self, folder: Path, name: str, dtype: str, shape: tuple[int, int]) -> None:
        self._array = np.lib.format.open_memmap(folder / f"{name}_{dtype}.npy", "w+", np.dtype(dtype), shape)
        self._scale_path, self._scale = folder / f"{name}_{dtype}_scale.npy", None

    def write(self, start: int, values: np.ndarray) -> None:
        """Rows from `start` on. The scale is made of the first block; larger numbers of later ones are cut off."""
        if self._array.dtype == np.int8:
            if self._scale is None:
                self._scale = np.abs(values).max(axis=0).astype(np.float32) / 127
                np.save(self._scale_path, self._scale)
            values = np.rint(values / self._scale).clip(-127, 127)
        self._array[start : start + len(values)] = values


def write(folder: Path, n: int, d: int, dtypes: Sequence[str]) -> None:
    """The files of a pool: embeddings (n, d), logits (n, classes). A quarter of the rows is drawn; the others are these
    mirrored, with the signs of some columns changed."""
    x = [Stored(folder, "embedding", dtype, (n, d)) for dtype in dtypes]
    z = [Stored(folder, "logits", dtype, (n, CLASSES)) for dtype in dtypes]
    weight = np.random.default_rng(0).standard_normal((CLASSES, d), np.float32).T / np.float32(d**0.5)
    quarter, done = -(-n // 4), 0
    for block in heavy_tailed(quarter, d):
        for number in range(4):
            start = number * quarter + done
            mirrored = block[: max(0, n - start)].copy()
            mirrored[:, number::4] *= np.float16(-1 if number else 1)
            logits = 4 * (mirrored.astype(np.float32) @ weight)
            for file, values in [*((file, mirrored) for file in x), *((file, logits) for file in z)]:
                file.write(start, values)
        done += len(block)


def status(name: str) -> float:
    """A line of /proc/self/status, in GiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 2**20


def one(folder: Path, strategy: str, dtype: str, labeled: int, picks: int, shards: int) -> None:
    """Select, and print what it took. It runs in a process of its own."""
    from alray.every import every
    from alray.selection.select import select

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    if strategy == "k_center":
        import alray.selection.kernels.farthest  # noqa: F401

    imports = time.process_time()
    resident = [status("RssAnon")]
    column = "embedding" if strategy == "k_center" else "logits"
    path, scale = folder / f"{column}_{dtype}.npy", folder / f"{column}_{dtype}_scale.npy"
    rows = np.random.default_rng(1).choice(len(np.load(path, mmap_mode="r")), labeled, replace=False)
    start = time.monotonic()
    with every(LOOK, lambda: resident.append(status("RssAnon")), "memory"):
        given: dict[str, Any] = {column: str(path)}
        if scale.exists():
            given[f"{column}_scale"] = str(scale)
        found = select(strategy, picks, labeled=rows, num_shards=shards, **given)
    cpu = time.process_time()
    inside = found.account["arithmetic_cpu_seconds"] + found.account["merge_cpu_seconds"]
    result = {
        "cpu_seconds": round(cpu, 2), "inside": round(inside, 2), "imports": round(imports, 2),
        "outside_share": round(1 - inside / cpu, 3),
        "wall_seconds": round(time.monotonic() - start, 1), "resident_gib": round(max(resident), 2),
        "with_mapped_file_gib": round(status("VmHWM"), 2), "first_rows": found.rows[:5].tolist(),
        "torch": "torch" in sys.modules,
        **{name: value for name, value in found.account.items() if isinstance(value, int)},
    }  # fmt: skip
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("n", 10_000_000), ("d", 128), ("labeled", 30_000), ("picks", 10_000), ("shards", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--strategies", nargs="+", default=["margin", "k_center"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float16"], help="how the numbers are stored")
    parser.add_argument("--folder", default="", help="where the files are, or are written and kept")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(Path(args.folder), args.one, args.dtypes[0], args.labeled, args.picks, args.shards)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        missing = [dtype for dtype in args.dtypes if not (folder / f"embedding_{dtype}.npy").exists()]
        if missing:
            write(folder, args.n, args.d, missing)
        found: dict[str, Any] = {}
        for strategy, dtype in product(args.strategies, args.dtypes):
            command = [sys.executable, __file__, "--one", strategy, "--folder", str(folder), "--dtypes", dtype]
            command += [f"--{name}={getattr(args, name)}" for name in ("labeled", "picks", "shards")]
            name = strategy if dtype == "float16" else f"{strategy}_{dtype}"
            found[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(name, found[name], flush=True)
    compared = "" if args.dtypes == ["float16"] else f"_{'_'.join(args.dtypes)}"
    record(f"large_pool_{args.n:.0e}".replace("+0", "") + compared, {"sizes": {**vars(args), "folder": ""}, **found})


if __name__ == "__main__":
    main()
