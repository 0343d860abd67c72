"""Pairs of jobs that share a cluster of 2 to 16 CPUs: whether both finish, and after how long.

    python benchmarks/bench_sharing.py [CPUS ...]    # default: 2 4 8 16; the others keep the results that they have

Each cell of the table is a cluster of its own, on which both jobs are started at the same moment. Runs and sweeps (of
two trials) on 27 training images, two rounds, with a linear head or with fine-tuning. The CPUs are Ray's, which are
logical, so that seconds are those of this machine with whatever else it did. `tests/ray/many_jobs.py` starts the jobs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import FOLDER, record

JOBS = Path(__file__).parents[1] / "tests" / "ray" / "many_jobs.py"
PAIRS = (
    ("linear", "linear"),
    ("finetune", "finetune"),
    ("linear", "sweep"),
    ("finetune", "finetuning sweep"),
    ("sweep", "sweep"),
    ("finetuning sweep", "finetuning sweep"),
)
NAMES = {
    "linear": "linear run", "finetune": "fine-tuning run", "sweep": "linear sweep",
    "finetuning sweep": "fine-tuning sweep",
}  # fmt: skip


def cell(cpus: int, pair: tuple[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(JOBS), folder, str(cpus), *pair]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    jobs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))["jobs"]
    for job in jobs:
        if job["code"]:
            print(job["said"], file=sys.stderr)
    return {
        "cpus": cpus, "jobs": pair, "codes": [job["code"] for job in jobs], "seconds": [job["seconds"] for job in jobs],
        "waits told": [job["said"].count("waiting for") for job in jobs],
    }  # fmt: skip


def shown(found: dict[str, Any]) -> str:
    texts = [
        f"{seconds:.0f} s" + (f", waited {waits}" if waits else "") if code == 0 else f"code {code}"
        for code, seconds, waits in zip(found["codes"], found["seconds"], found["waits told"], strict=True)
    ]
    return " / ".join(texts)


def main(sizes: list[int]) -> None:
    results = FOLDER / "sharing.json"
    known = json.loads(results.read_text())["cells"] if results.exists() else []
    found = {(one["cpus"], tuple(one["jobs"])): one for one in known}
    for cpus in sizes:
        for pair in PAIRS:
            found[cpus, pair] = cell(cpus, pair)
            finished = sum(not any(one["codes"]) for one in found.values())
            record("sharing", {"finished": finished, "of": len(found), "cells": list(found.values())})
            print(cpus, pair, shown(found[cpus, pair]), flush=True)
    columns = sorted({cpus for cpus, _ in found})
    print("| jobs | " + " | ".join(f"{cpus} CPUs" for cpus in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for pair in PAIRS:
        cells = [shown(found[cpus, pair]) if (cpus, pair) in found else "" for cpus in columns]
        print("| " + " | ".join([" + ".join(NAMES[kind] for kind in pair), *cells]) + " |")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [2, 4, 8, 16])
