"""What must not change while the code is rearranged: the picks of every strategy, and a small finished run.

`python tests/pins.py add` adds the picks of strategies that are not pinned yet and changes nothing else. `python
tests/pins.py` writes tests/fixtures anew; it is run only when picks are meant to change, which a CHANGELOG line then
says. `tests/unit/test_pins.py` compares.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alray import STRATEGIES, RunConfig, replace, run, select
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.report import report
from alray.verify import record

FIXTURES = Path(__file__).parent / "fixtures"
PICKS, RUNS, METRICS = FIXTURES / "picks.json", FIXTURES / "finished", FIXTURES / "metrics.json"
TABLES, PLACE = FIXTURES / "tables", "/some/place"  # where the runs of the fixture say that they are
N, C, D, M, K = 300, 5, 6, 40, 45
KINDS = ("random", "tied", "float16")
RUN_STRATEGIES, RUN_SEEDS = ("random", "margin", "base"), (0, 1)
GROWING = "records-2.csv"  # lists all options: it grows with each new one
# Fields of metrics.json that a clock decides.
TIMED = "seconds"

CONFIG = RunConfig(
    name="pinned",
    rounds=3,
    budget=12,
    top_k=(2,),
    data=DataConfig(root="features.npz"),
    split=SplitConfig(val_size=15, seed_set_size=10),
    train=TrainConfig(mode="linear", epochs=20, batch_size=8, lr=1.0, schedule="cosine"),
    resources=ResourceConfig(select_workers="process", select_shards=3),
)


def inputs(kind: str) -> dict[str, Any]:
    """Embeddings, a head, labels and further columns: arrays of N rows."""
    rng = np.random.default_rng(7 + KINDS.index(kind))
    if kind == "tied":
        x, w = rng.integers(-1, 2, (N, D)).astype(float), rng.integers(-1, 2, (C, D)).astype(float)
    else:
        x, w = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    x = x.astype(np.float16 if kind == "float16" else np.float32)
    columns = {name: x[:, at].copy() for at, name in enumerate(("pretext_loss", "discriminator"))}
    return {"embedding": x, "head": (w, np.zeros(C)), "labels": rng.integers(0, C, N), **columns}


def picks_of(name: str, kind: str) -> str:
    """A hash of the rows that a strategy picks in rounds 0 and 1, in order."""
    data = inputs(kind)
    needed = {key: data[key] for key in ("pretext_loss", "discriminator") if key in STRATEGIES[name].needs}
    digest = hashlib.blake2b(digest_size=8)
    for number in (0, 1):
        picks = select(
            name, K, embedding=data["embedding"], head=data["head"], labels=data["labels"], labeled=np.arange(M),
            round=number, seed=3, num_shards=4, **needed,
        )  # fmt: skip
        digest.update(picks.rows.astype("<i8").tobytes())
    return digest.hexdigest()


def all_picks() -> dict[str, dict[str, str]]:
    """The hashes of every strategy on every kind of input."""
    return {name: {kind: picks_of(name, kind) for kind in KINDS} for name in STRATEGIES}


def features(path: Path) -> None:
    """240 embeddings of four overlapping classes, a quarter of them test images."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 240)
    x = rng.normal(size=(4, D))[label] + rng.normal(size=(240, D))
    np.savez(path, features=x.astype(np.float32), label=label, is_test=np.arange(240) % 4 == 0)


def run_all(folder: Path) -> dict[str, Any]:
    """Run every strategy and seed in a folder; returns the metrics and picks of all rounds."""
    features(folder / "features.npz")
    base = replace(CONFIG, {"root": str(folder / "runs"), "data.root": str(folder / "features.npz")})
    found = {}
    for strategy in RUN_STRATEGIES:
        for seed in RUN_SEEDS:
            result = run(replace(base, {"strategy": strategy, "seed": seed}), quiet=True)
            rounds = [{name: value for name, value in one.items() if name != TIMED} for one in result.rounds]
            found[f"{strategy}-{seed}"] = {"rounds": rounds, "labeled": labeled(Path(result.dir))}
    return found


def labeled(run_dir: Path) -> list[list[int]]:
    """The rows that each round bought, in order of choice."""
    return [pq.read_table(path)["row"].to_pylist() for path in sorted(run_dir.glob("round_*/picks.parquet"))]


def write() -> None:
    """Replace the fixtures."""
    PICKS.parent.mkdir(exist_ok=True)
    PICKS.write_text(json.dumps(all_picks(), indent=1) + "\n")
    shutil.rmtree(RUNS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        METRICS.write_text(json.dumps(run_all(Path(place)), indent=1) + "\n")
        shutil.copytree(Path(place) / "runs", RUNS)
    for path in RUNS.rglob("*.json"):
        path.write_text(path.read_text().replace(place, PLACE))
    for path in RUNS.rglob("run.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "versions": {}, "machine": {}}, indent=2) + "\n")
    for path in RUNS.glob("*/tensorboard"):
        shutil.rmtree(path)
    for path in (*RUNS.rglob("catalog.parquet"), *RUNS.rglob("files.parquet")):
        table = pq.read_table(path)
        uris = pa.array([f"{PLACE}/features.npz"] * len(table))
        pq.write_table(table.set_column(table.schema.get_field_index("uri"), "uri", uris), path)
    for path in RUNS.rglob("alray-checksums*.json"):  # of the files as they were; `tables_of` writes new ones
        path.unlink()
    shutil.rmtree(TABLES, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        tables_of(Path(place), TABLES)


def tables_of(folder: Path, out: Path) -> None:
    """Report on a copy of the finished runs in `folder`, and keep the tables in `out`."""
    shutil.copytree(RUNS, folder / "runs")
    for path in (folder / "runs").rglob("*.json"):
        path.write_text(path.read_text().replace(PLACE, str(folder)))
    record(str(folder / "runs"))
    report([str(path.parent) for path in sorted((folder / "runs").glob("*/run.json"))], str(folder / "report"))
    out.mkdir(parents=True, exist_ok=True)
    for path in [folder / "report" / "report.csv", *(folder / "report" / "tables").glob("*.csv")]:
        if path.name == GROWING:
            continue
        (out / path.name).write_text(path.read_text().replace(str(folder), PLACE))


def add() -> None:
    """Pin the picks of new strategies."""
    known = json.loads(PICKS.read_text())
    PICKS.write_text(json.dumps({**all_picks(), **known}, indent=1) + "\n")


if __name__ == "__main__":
    add() if sys.argv[1:] == ["add"] else write()
