"""What a run pays to see whether its data changed: one listing of a folder with as many files as ImageNet.

    python benchmarks/bench_look.py --files 1281167

The files are real and have a few bytes each, in 1,000 folders. They are indexed without reading them; then they are
looked at, which lists names, sizes and times and compares them with those of the catalog.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import record

from alray.data.catalog import Catalog, index
from alray.data.origin import look


def write(folder: Path, files: int) -> None:
    for number in range(1000):
        (folder / f"n{number:08d}").mkdir(parents=True)
    for number in range(files):
        (folder / f"n{number % 1000:08d}" / f"{number}.JPEG").write_bytes(b"x" * (1 + number % 7))


def timed(work: Callable[[], object]) -> dict[str, float]:
    start, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    args = parser.parse_args()
    result: dict[str, Any] = {"files": args.files}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "train", args.files)
        result["index"] = timed(lambda: index(f"{folder}/train", f"{folder}/catalog", check="none"))
        result["look"] = timed(lambda: look(Catalog.open(f"{folder}/catalog")))
        sizes = {path.name: path.stat().st_size for path in Path(folder, "catalog").iterdir()}
    result |= {"files_parquet_bytes": sizes["files.parquet"], "catalog_parquet_bytes": sizes["catalog.parquet"]}
    result["max_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for name, value in result.items():
        print(name, value)
    record("look", result)


if __name__ == "__main__":
    main()
