"""A program: selections from features that are larger than the memory that the process may have.

python limited_memory.py FOLDER SLACK STRATEGY...

FOLDER has x.npy and a feature table; SLACK: bytes that may be allocated beyond what the imports have taken. Files that
are mapped do not count: the system takes their pages back. Prints one JSON object: the picks by strategy and source, or
the error's name; and of a plain copy of x.npy, which must not fit.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from alray.features.table import FeatureTable
from alray.selection.protocol import Context
from alray.selection.registry import build
from alray.selection.select import select, select_from

C, LABELED, K, SHARDS = 5, 97, 25, 3


def data_bytes() -> int:
    """Private memory of this process that can be written, which RLIMIT_DATA limits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmData")).split()[1]) * 1024


def head(d: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(1).normal(size=(C, d)), np.zeros(C)


def from_file(folder: Path, name: str) -> Any:
    d = np.load(folder / "x.npy", mmap_mode="r").shape[1]
    labeled = np.arange(0, 10_000, LABELED)
    return select(name, K, embedding=str(folder / "x.npy"), head=head(d), labeled=labeled, num_shards=SHARDS)


def from_table(folder: Path, name: str) -> Any:
    table = FeatureTable.open(str(folder / "table"))
    labeled = np.arange(0, 10_000, LABELED)
    context = Context(num_classes=C, head=head(table.dim), labeled=table.source(labeled))
    sources = table.shards(np.setdiff1d(table.rows, labeled), SHARDS)
    return select_from(sources, build(name), K, context)


def attempt(work: Any) -> Any:
    try:
        return work().rows.tolist()
    except MemoryError:
        return "MemoryError"


def main() -> None:
    folder, slack, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    small = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    # One shard after the other: each thread would have buffers of its own, about 40 MB.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    for name in names:
        select(name, 5, embedding=small, head=head(8), labeled=[1, 2])  # imports, and threads with their stacks
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    assert len(FeatureTable.open(str(folder / "table")).read(np.arange(5), "embedding"))  # threads of Arrow
    limit = data_bytes() + slack
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    found = {name: [attempt(lambda n=name, f=f: f(folder, n)) for f in (from_file, from_table)] for name in names}
    copy = attempt(lambda: np.zeros(1) if np.array(np.load(folder / "x.npy", mmap_mode="r")).sum() else None)
    print(json.dumps({"picks": found, "copy": copy}))


if __name__ == "__main__":
    main()
