"""How selection, extraction and training scale over 1, 2, 4, 8 workers and over nodes, and a model of larger clusters.

    python benchmarks/bench_scaling.py         # about 8 minutes on two idle cores; also prints the tables of the README
    python benchmarks/bench_scaling.py nodes   # one part of it: selection, memory, extraction, training, nodes, decode

Strong scaling shares the same work among more workers, weak scaling gives each worker the same work. All workers share
this machine's cores, so that only CPU seconds, exchanges and bytes are claimed. The model multiplies constants that
this run and the runs of `bench_scale.py` have measured.
"""

from __future__ import annotations

from scaling_work import quiet_environment

quiet_environment()

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import FOLDER, record
from scaling_work import (
    NAMES,
    decode_seconds,
    extraction,
    features,
    gradient_bytes,
    images,
    nodes,
    per_row,
    selection,
    training,
)

from alray import cluster
from alray.config import ResourceConfig

WORKERS = (1, 2, 4, 8)
ROWS, ROWS_EACH = 40_000, 10_000  # of selection: in all, and for each shard
IMAGES, IMAGES_EACH = 512, 128
NODES = (1, 2, 4)
MEASURED = ("margin", "k_center", "pt4al")  # strategies whose memory is measured
GPUS, POOLS = (8, 64, 256), (10**8, 10**9)
ABOUT = ("date", "command", "commit", "hardware", "versions")
D, LABELED, PICKS = 2048, 100_000, 10_000  # of the model: float16 embeddings of a ResNet-50
# Bytes per row on a run's driver: status, label and number of a row; and its table of the images, which has 41 bytes
# beside the keys (here of 9 letters) where each file holds many images, and a whole URI where each image is a file.
POOL, CATALOG = 13, 58


def selecting(folder: Path) -> dict[str, Any]:
    """Selection on actors of one node."""
    found: dict[str, Any] = {}
    for kind in ("strong", "weak"):
        for workers in WORKERS:
            n = ROWS if kind == "strong" else ROWS_EACH * workers
            found[f"{kind} {workers}"] = {"rows": n} | selection(features(folder, n), workers)
            print("selection", kind, workers, found[f"{kind} {workers}"], flush=True)
    return {"selection": found}


def memory(folder: Path) -> dict[str, Any]:
    """Bytes per row on the driver and in a shard."""
    return {
        f"{place}_bytes_per_row": {name: round(per_row(name, place == "driver"), 2) for name in MEASURED}
        for place in ("driver", "shard")
    }


def extracting(folder: Path) -> dict[str, Any]:
    """Extraction with more actors: of the same images, and of as many for each."""
    catalog = images(folder, IMAGES_EACH * max(WORKERS))
    runs = {f"strong {workers}": (IMAGES, workers) for workers in WORKERS}
    runs |= {f"weak {workers}": (IMAGES_EACH * workers, workers) for workers in WORKERS}
    extraction(catalog, 64, 1, folder / "first")  # starts processes that all runs use
    found: dict[str, Any] = {}
    for name, (n, workers) in runs.items():
        found[name] = extraction(catalog, n, workers, folder / f"extraction {name}")
        print("extraction", name, found[name], flush=True)
    return {"extraction": found}


def learning(folder: Path) -> dict[str, Any]:
    """Training of the same images with more workers; weak scaling has the same exchanges in each step."""
    catalog, found = images(folder, IMAGES + 64), dict[str, Any]()
    for workers in WORKERS:
        found[f"strong {workers}"] = training(catalog, IMAGES, workers, folder / f"training-{workers}")
        print("training", workers, found[f"strong {workers}"], flush=True)
    return {"training": found, "gradient_bytes": gradient_bytes()}


def over_nodes(folder: Path) -> dict[str, Any]:
    """Selection on four actors of 1, 2 and 4 nodes."""
    table, found = features(folder, ROWS), dict[str, Any]()
    for number in NODES:
        with nodes(number):
            found[f"{number}"] = {"rows": ROWS} | selection(table, 4)
            print("selection on nodes", number, found[f"{number}"], flush=True)
    return {"nodes": found}


def decoding(folder: Path) -> dict[str, Any]:
    """A JPEG of ImageNet's usual size."""
    seconds, size = decode_seconds()
    return {"decode": {"cpu_seconds_per_image": round(seconds, 5), "jpeg_bytes": size}}


PARTS = {
    "selection": selecting,
    "memory": memory,
    "extraction": extracting,
    "training": learning,
    "nodes": over_nodes,
    "decode": decoding,
}
OWN_CLUSTER = ("nodes", "decode")


def measure(part: str) -> dict[str, Any]:
    """Run one part, on a Ray of its own."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        if part in OWN_CLUSTER:
            return PARTS[part](Path(folder))
        cluster.start(ResourceConfig(address="local", num_cpus=12, use_gpu="no"))
        try:
            return PARTS[part](Path(folder))
        finally:
            ray.shutdown()


def model(found: dict[str, Any]) -> dict[str, Any]:
    """What larger pools on larger clusters need, by the constants of the runs."""
    at_size = json.loads((FOLDER / f"scale_{D}.json").read_text())
    k_center = at_size["k_center"]
    slope = json.loads((FOLDER / "growth.json").read_text())["growth"]["k_center"]["labeled"]["slope"]
    row_seconds = k_center["account"]["arithmetic_cpu_seconds"] / at_size["sizes"]["n"]
    row_seconds *= (LABELED / at_size["sizes"]["labeled"]) ** slope
    one = found["selection"]["strong 1"]
    margin_seconds = one["margin"]["shards_cpu_seconds"] / one["rows"] * D / 64  # a product with the head: as the width
    table = []
    for rows in POOLS:
        for gpus in GPUS:
            each = rows / gpus
            table.append({
                "rows": rows,
                "gpus": gpus,
                "features_per_shard_bytes": each * D * 2,
                "state_per_shard_bytes": each * found["shard_bytes_per_row"]["k_center"],
                "labeled_in_each_shard_bytes": LABELED * D * (2 + 4),
                "driver_bytes": rows * POOL + LABELED * D * 2,
                "driver_bytes_pt4al": rows * (POOL + 8 + found["driver_bytes_per_row"]["pt4al"]),
                "driver_catalog_bytes": rows * CATALOG,
                "exchanges": k_center["account"]["exchanges"],
                "message_bytes_per_round": (8 + gpus) * PICKS * D * 2,  # far rows to the driver, picks to all
                "margin_seconds": each * margin_seconds,
                "k_center_seconds": each * row_seconds,
                "decode_core_hours": rows * found["decode"]["cpu_seconds_per_image"] / 3600,
            })  # fmt: skip
    constants = {
        "k_center_cpu_seconds_per_row": row_seconds,
        "k_center_from": f"scale_{D}.json, {at_size['date']}, commit {at_size['commit']}, "
        f"{at_size['sizes']['labeled']} labeled, {at_size['sizes']['picks']} picks; times the growth with labeled "
        f"rows, to the power {slope} (growth.json)",
        "margin_cpu_seconds_per_row": margin_seconds,
    }
    return {"constants": constants, "table": table}


def _cell(run: dict[str, Any]) -> str:
    """CPU seconds of the shards and of the driver, exchanges, and bytes of one selection."""
    seconds = f"{run['shards_cpu_seconds']:.2f} + {run['driver_cpu_seconds']:.2f} s"
    return f"{seconds}, {run['exchanges']}, {_bytes(run['sent_bytes'] + run['received_bytes'])}"


def tables(found: dict[str, Any], predicted: dict[str, Any]) -> str:
    """The tables of benchmarks/README.md."""
    lines = ["| strategy | runs | " + " | ".join(map(str, WORKERS)) + " |", "|" + "---|" * (2 + len(WORKERS))]
    for name in NAMES:
        for kind in ("strong", "weak"):
            runs = [found["selection"][f"{kind} {workers}"][name] for workers in WORKERS]
            lines.append(f"| {name} | {kind} | " + " | ".join(map(_cell, runs)) + " |")
    lines += ["", "| stage | runs | " + " | ".join(map(str, WORKERS)) + " |", "|" + "---|" * (2 + len(WORKERS))]
    for stage in ("extraction", "training"):
        for kind in ("strong", "weak"):
            runs = [found.get(stage, {}).get(f"{kind} {workers}") for workers in WORKERS]
            if any(runs):
                cells = [f"{run['images']:,} images, {run['cpu_seconds']} s" if run else "" for run in runs]
                lines.append(f"| {stage} | {kind} | " + " | ".join(cells) + " |")
    if "nodes" in found:
        lines += ["", "| strategy | " + " | ".join(f"{number} node(s)" for number in NODES) + " |"]
        lines.append("|" + "---|" * (1 + len(NODES)))
        for name in NAMES:
            runs = [found["nodes"][f"{number}"][name] for number in NODES]
            lines.append(f"| {name} | " + " | ".join(map(_cell, runs)) + " |")
    head = (
        "rows",
        "GPUs (shards)",
        "features per shard",
        "state per shard",
        "labeled rows in each shard",
        "driver",
        "driver, PT4AL",
        "catalog on the driver",
        "messages of a round",
        "margin, s",
        "k-center, s",
        "decoding once, core hours",
    )
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in predicted["table"]:
        kinds = ("features_per_shard_bytes", "state_per_shard_bytes", "labeled_in_each_shard_bytes", "driver_bytes",
                 "driver_bytes_pt4al", "driver_catalog_bytes", "message_bytes_per_round")  # fmt: skip
        cells = [f"10^{len(str(row['rows'])) - 1}", str(row["gpus"]), *(_bytes(row[kind]) for kind in kinds)]
        cells += [f"{row[kind]:,.0f}" for kind in ("margin_seconds", "k_center_seconds", "decode_core_hours")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def main() -> None:
    results = FOLDER / "scaling.json"
    for part in sys.argv[1:] or PARTS:
        known = json.loads(results.read_text()) if results.exists() else {}
        record("scaling", {name: one for name, one in known.items() if name not in ABOUT} | measure(part))
    found = json.loads(results.read_text())
    predicted = model(found)
    record("scaling", {name: one for name, one in found.items() if name not in ABOUT} | {"model": predicted})
    print(tables(found, predicted))


if __name__ == "__main__":
    main()
