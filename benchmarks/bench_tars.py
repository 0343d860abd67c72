"""The index of small images in WebDataset tars: CPU seconds per image, beside another version of alray and `tarfile`.

    python benchmarks/bench_tars.py --images 200000 --other CHECKOUT

Every image of 500 to 3,000 bytes is followed by a .cls member, 10,000 images to a tar. The images are not decoded. Each
version indexes the same tars in processes of its own, by turns; imports are not counted. The catalogs must be equal to
the last byte. CHECKOUT: the folder of another version, where one is to be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import record

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
_INDEX = """
import sys, time
import pandas  # Arrow imports it when it is there
from alray.data.catalog import index
start = time.process_time()
index(sys.argv[1], sys.argv[2], check="none", yes=True)
print(time.process_time() - start)
"""


def write(folder: Path, images: int, form: str, each: int = 10_000) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    data = rng.bytes(8192)
    for first in range(0, images, each):
        with tarfile.open(folder / f"train-{first // each:05d}.tar", "w", format=FORMATS[form]) as tar:
            for number in range(first, min(images, first + each)):
                size, at = int(rng.integers(500, 3000)), int(rng.integers(0, 4000))
                name = str(number * 7919 % 1000).encode()
                for suffix, content in (("jpg", data[at : at + size]), ("cls", name)):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size, member.mtime = len(content), 1_700_000_000
                    tar.addfile(member, io.BytesIO(content))


def indexed(code: Path, tars: Path, out: Path) -> float:
    """CPU seconds."""
    environment = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-c", _INDEX, str(tars), str(out)]
    return float(subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=True).stdout)


def by_tarfile(tars: Path) -> float:
    start = time.process_time()
    for path in sorted(tars.iterdir()):
        with tarfile.open(path) as tar:
            for _ in tar:
                pass
    return time.process_time() - start


def digest(out: Path) -> str:
    """Of all files of a catalog."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(out.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--format", choices=FORMATS, default="ustar")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--other", default="")
    args = parser.parse_args()
    versions = {"alray": Path(__file__).resolve().parent.parent}
    if args.other:
        versions["other"] = Path(args.other).resolve()
    seconds: dict[str, list[float]] = {name: [] for name in (*versions, "tarfile")}
    with tempfile.TemporaryDirectory() as folder:
        tars, out = Path(folder, "tars"), Path(folder, "catalog")
        write(tars, args.images, args.format)
        digests = set()
        for _ in range(args.repeats):
            for name, code in versions.items():
                seconds[name].append(indexed(code, tars, out))
                digests.add(digest(out))
            seconds["tarfile"].append(by_tarfile(tars))
    assert len(digests) == 1, "the versions made different catalogs"
    us = {name: [round(1e6 * value / args.images, 2) for value in values] for name, values in seconds.items()}
    result: dict[str, Any] = {"images": args.images, "format": args.format, "cpu_us_per_image": us}
    result["median_over_alray"] = {
        name: round(statistics.median(values) / statistics.median(us["alray"]), 2) for name, values in us.items()
    }
    for name, value in result.items():
        print(name, value)
    record("tars", result)


if __name__ == "__main__":
    main()
