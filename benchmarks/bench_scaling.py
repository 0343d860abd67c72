"""How selection, extraction and training scale over 1, 2, 4, 8 workers and over nodes, and a model of larger clusters.

    python benchmarks/bench_scaling.py         # about 8 minutes on two idle cores; also prints the tables of the README

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
IMAGES, IMAGES_EACH = 1024, 256
NODES = (1, 2, 4)
MEASURED = ("margin", "k_center", "pt4al")  # strategies whose memory is measured
GPUS, POOLS = (8, 64, 256), (10**8, 10**9)
D, LABELED, PICKS = 2048, 100_000, 10_000  # of the model: float16 embeddings of a ResNet-50
POOL, INDEX = 5, 4  # bytes per row on the driver: status and label of the pool, and rows of the feature table


def measured(folder: Path) -> dict[str, Any]:
    """All runs on one machine."""
    import ray

    found: dict[str, Any] = {"selection": {}, "extraction": {}, "training": {}}
    cluster.start(ResourceConfig(address="local", num_cpus=8, use_gpu="no"))
    tables = {n: features(folder, n) for n in {ROWS, *(ROWS_EACH * workers for workers in WORKERS)}}
    for kind, n_of in (("strong", lambda w: ROWS), ("weak", lambda w: ROWS_EACH * w)):
        for workers in WORKERS:
            found["selection"][f"{kind} {workers}"] = {"rows": n_of(workers)} | selection(
                tables[n_of(workers)], workers
            )
            print("selection", kind, workers, found["selection"][f"{kind} {workers}"], flush=True)
    for place in ("driver", "shard"):
        found[f"{place}_bytes_per_row"] = {name: round(per_row(name, place == "driver"), 2) for name in MEASURED}
    print(found["driver_bytes_per_row"], found["shard_bytes_per_row"], flush=True)
    catalog = images(folder, IMAGES_EACH * max(WORKERS))
    for stage, work, most in (("extraction", extraction, IMAGES_EACH * max(WORKERS)), ("training", training, IMAGES)):
        for kind in ("strong", "weak"):
            for workers in WORKERS:
                n = IMAGES if kind == "strong" else min(IMAGES_EACH * workers, most)
                if kind == "weak" and (stage == "training" or n == IMAGES):
                    continue  # of training the steps count, which strong scaling shows; or it was measured as strong
                found[stage][f"{kind} {workers}"] = work(catalog, n, workers, folder / f"{stage}-{kind}-{workers}")
                print(stage, kind, workers, found[stage][f"{kind} {workers}"], flush=True)
    ray.shutdown()
    for number in NODES:
        with nodes(number):
            found["selection"][f"nodes {number}"] = {"rows": ROWS} | selection(tables[ROWS], 4)
            print("selection on nodes", number, found["selection"][f"nodes {number}"], flush=True)
    found["gradient_bytes"] = gradient_bytes()
    seconds, size = decode_seconds()
    return found | {"decode": {"cpu_seconds_per_image": round(seconds, 5), "jpeg_bytes": size}}


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
                "driver_bytes": rows * (POOL + INDEX) + LABELED * D * 2,
                "driver_bytes_pt4al": rows * (POOL + INDEX + 8 + found["driver_bytes_per_row"]["pt4al"]),
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


def tables(found: dict[str, Any], predicted: dict[str, Any]) -> str:
    """The tables of benchmarks/README.md."""
    lines = ["| strategy | runs | " + " | ".join(map(str, WORKERS)) + " |", "|" + "---|" * (2 + len(WORKERS))]
    for name in NAMES:
        for kind in ("strong", "weak"):
            runs = [found["selection"][f"{kind} {workers}"][name] for workers in WORKERS]
            cells = [
                f"{run['shards_cpu_seconds']:.2f} + {run['driver_cpu_seconds']:.2f} s, {run['exchanges']}, "
                f"{_bytes(run['sent_bytes'] + run['received_bytes'])}"
                for run in runs
            ]
            lines.append(f"| {name} | {kind} | " + " | ".join(cells) + " |")
    lines += ["", "| stage | runs | " + " | ".join(map(str, WORKERS)) + " |", "|" + "---|" * (2 + len(WORKERS))]
    for stage in ("extraction", "training"):
        for kind in ("strong", "weak"):
            runs = [found[stage].get(f"{kind} {workers}") for workers in WORKERS]
            if any(runs):
                cells = [f"{run['images']:,} images, {run['cpu_seconds']} s" if run else "" for run in runs]
                lines.append(f"| {stage} | {kind} | " + " | ".join(cells) + " |")
    head = (
        "rows",
        "GPUs (shards)",
        "features per shard",
        "state per shard",
        "labeled rows in each shard",
        "driver",
        "driver, PT4AL",
        "messages of a round",
        "margin, s",
        "k-center, s",
        "decoding once, core hours",
    )
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in predicted["table"]:
        kinds = ("features_per_shard_bytes", "state_per_shard_bytes", "labeled_in_each_shard_bytes", "driver_bytes",
                 "driver_bytes_pt4al", "message_bytes_per_round")  # fmt: skip
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
    if sys.argv[1:] == ["tables"]:  # of the last run
        found = json.loads((FOLDER / "scaling.json").read_text())
        print(tables(found, model(found)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder))
    predicted = model(found)
    record("scaling", found | {"model": predicted})
    print(tables(found, predicted))


if __name__ == "__main__":
    main()
