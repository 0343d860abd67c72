"""PT4AL on real CIFAR-10 images beside random and BASE: rotation is learnt from the unlabeled pool by two workers, its
losses order the pool, its encoder is the frozen backbone of all three; and how pretext loss and supervised loss agree.

    python benchmarks/bench_pt4al.py --data ../shared/data --images 2500 --seeds 3

A small ResNet-18 and few epochs: what two cores can do, not the paper's setting.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import record
from scipy.stats import bootstrap, spearmanr

from alray import RunConfig, replace
from alray.config import ConfigError
from alray.data.catalog import Catalog
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.rounds import run
from alray.store import Store

STRATEGIES = ("random", "base", "pt4al")


def subset(data: Path, folder: Path, images: int, tests: int) -> None:
    """The first training images (their order is random) and every k-th test image (theirs is by class), as Parquet."""
    train = pq.read_table(sorted((data / "cifar10").glob("*train_00*"))[0]).slice(0, images)
    test = pq.read_table(sorted((data / "cifar10").glob("*test*"))[0])
    every = pa.array(np.arange(0, len(test), len(test) // tests)[:tests])
    for name, table in (("train", train), ("test", test.take(every))):
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "images.parquet", row_group_size=500)


def config(folder: Path, seed: int, epochs: int, budget: int) -> RunConfig:
    return RunConfig(
        name="pt4al-bench",
        root=str(folder / "runs"),
        seed=seed,
        rounds=6,
        budget=budget,
        strategy="pt4al",
        top_k=(),
        data={"root": str(folder / "train"), "test_root": str(folder / "test"), "format": "parquet"},
        split={"seed_set_size": budget, "seed_set_how": "pretext"},
        transform={"size": 32, "train": "crop_pad", "resize": 0},
        model={"backbone": "resnet18", "options": {"channels": [8, 16, 32, 64]}, "small_stem": True},
        train={"mode": "linear", "epochs": 60, "lr": 1.0, "weight_decay": 1e-4},
        pretext={"task": "rotation", "as_backbone": True, "epochs": epochs, "batch_size": 128, "lr": 0.05},
        resources={"train_workers": 2, "select_workers": "process", "num_cpus": 4},
    )  # type: ignore[arg-type]


def variant(base: RunConfig, strategy: str) -> RunConfig:
    how = "pretext" if strategy == "pt4al" else "random"
    return replace(base, {"strategy": strategy, "split.seed_set_how": how})


def only(folder: Store) -> FeatureTable:
    (name,) = folder.names()
    return FeatureTable.open(folder.at(name))


def labeled_rows(out: Store) -> np.ndarray:
    """All rows that a run labeled."""
    rounds = [out.child(name) for name in out.names() if name.startswith("round_")]
    bought = [round.read_table("labels.parquet")["row"].to_numpy() for round in rounds if round.has("labels.parquet")]
    seeds = out.read_table("seed_set.parquet" if out.has("seed_set.parquet") else "splits.parquet")
    return np.concatenate([seeds["row"].to_numpy(), *bought])


def agreement_of(embedding: np.ndarray, head: Head, labels: np.ndarray, pretext: np.ndarray) -> dict[str, Any]:
    """Spearman's rho of the pretext losses and the cross-entropies of a head, with its bootstrap interval."""
    z = embedding.astype(float) @ head.weight.T + head.bias
    z -= z.max(axis=1, keepdims=True)
    supervised = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]
    interval = bootstrap(
        (pretext, supervised), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False,
        n_resamples=500, rng=np.random.default_rng(0), method="percentile",
    ).confidence_interval  # fmt: skip
    rho = float(spearmanr(pretext, supervised).statistic)
    return {"rho": rho, "interval_95": [float(interval.low), float(interval.high)], "images": len(z)}


def agreement(run_dir: str, task: Store, features: FeatureTable, catalog: Catalog) -> dict[str, Any]:
    """Of the images that no round has labeled, by the last round's head."""
    out, losses = Store(run_dir), only(task.child("losses"))
    rows = np.setdiff1d(losses.rows, labeled_rows(out))
    last = max(name for name in out.names() if name.startswith("round_"))
    head = Head.load(out.child(last, "checkpoint"))
    pretext = losses.read(rows, "pretext_loss")[:, 0]
    return agreement_of(features.read(rows, "embedding"), head, catalog.labels()[rows], pretext)


def one_seed(folder: Path, seed: int, epochs: int, budget: int) -> dict[str, Any]:
    base = config(folder, seed, epochs, budget)
    runs = {strategy: run(variant(base, strategy)) for strategy in STRATEGIES}
    root = Store(str(folder / "runs"))
    task = next(
        task for task in map(root.child("pretext").child, root.child("pretext").names())
        if Store(runs["pt4al"].dir).has("seed_set.parquet") and task.has("train.json")
    )  # fmt: skip
    rounds = {
        strategy: [
            {
                "labels": r["labels"],
                "top1": r["test"]["top1"],
                "class_entropy": r["labeled_set"]["normalised_entropy"],
            }
            for r in result.rounds
        ]
        for strategy, result in runs.items()
    }
    catalog = Catalog.open(root.child("catalogs").at(root.child("catalogs").names()[0]))
    agrees = agreement(runs["random"].dir, task, only(root.child("features")), catalog)
    return {"seed": seed, "rounds": rounds, "pretext": task.read_json("train.json")["history"], "agreement": agrees}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    for name, value in (("images", 2500), ("tests", 2000), ("seeds", 3), ("epochs", 6), ("budget", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: no images in {args.data}")
        return
    found = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            subset(args.data, folder, args.images, args.tests)
            try:
                found.append(one_seed(folder, seed, args.epochs, args.budget))
            except ConfigError as error:
                raise SystemExit(str(error)) from None
            print(found[-1]["agreement"], flush=True)
    last = {s: [seed["rounds"][s][-1]["top1"] for seed in found] for s in STRATEGIES}
    summary = {s: [mean(values), stdev(values) if len(values) > 1 else 0.0] for s, values in last.items()}
    print(summary)
    sizes = {name: value for name, value in vars(args).items() if name != "data"}
    record("pt4al", {"sizes": sizes, "final top-1, mean and deviation": summary, "seeds": found})


if __name__ == "__main__":
    main()
