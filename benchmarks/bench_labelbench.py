"""alray's report on curves alray did not make: LabelBench's published ImageNet runs (Zhang et al. 2024).

    python benchmarks/bench_labelbench.py --data ../shared/data/reference --out labelbench-report

Writes the report, and what it says to benchmarks/results/labelbench.json. Two seeds a strategy were published: the
report must show differences and claim none.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import tempfile
from pathlib import Path

from results import record

from alray.report import report
from alray.report.analysis import analyse
from alray.report.csv_curves import read_curves
from alray.report.panel import arrange
from alray.report.tables import as_text

NAMES = {
    "random_sampling": "random", "margin_sampling": "margin", "entropy_sampling": "entropy",
    "confidence_sampling": "confidence", "coreset_sampling": "k_center", "badge_sampling": "badge",
}  # fmt: skip


def convert(source: Path, target: Path, dataset: str) -> int:
    """Rewrite LabelBench's columns as the report reads them; returns how many runs there are."""
    with gzip.open(source, "rt") as file:
        records = [record for record in csv.DictReader(file) if record["dataset"] == dataset]
    with target.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["setup", "strategy", "seed", "labels", "test_top1", "test_balanced_accuracy"])
        for r in records:
            setup = r["setup"].removesuffix("/trainer_flexmatch").removeprefix("embed_")
            name = NAMES.get(r["strategy"], r["strategy"])
            out.writerow([setup, name, r["seed"], r["num_labeled"], r["test_acc"], r["balanced_test_acc"]])
    return len({(r["setup"], r["strategy"], r["seed"]) for r in records})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/reference"))
    parser.add_argument("--dataset", default="imagenet")
    parser.add_argument("--out", default="labelbench-report")
    args = parser.parse_args()
    source = args.data / "labelbench_al_curves.csv.gz"
    if not source.is_file():
        print(f"skipped: no {source}")
        return
    with tempfile.TemporaryDirectory() as folder:
        curves = Path(folder) / f"labelbench-{args.dataset}.csv"
        runs = convert(source, curves, args.dataset)
        print(report([str(curves)], args.out))
        found = analyse(arrange(read_curves(str(curves))), "test_top1")
    print("\n\n".join(as_text(table) for table in found.tables.values()))
    tables = {name: [list(table.head), *map(list, table.rows)] for name, table in found.tables.items()}
    record("labelbench", {"runs": runs, "warnings": found.warnings, "verdicts": found.verdicts, "tables": tables})


if __name__ == "__main__":
    main()
