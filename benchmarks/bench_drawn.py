#!/usr/bin/env python
"""Is the accuracy of `alray label --test` unbiased? On a simulated pool, and on 2,000 images of CIFAR-10.

    python benchmarks/bench_drawn.py --data ../shared/data

Simulated: 10,000 images, and models that are right in about 90 % or 97 %, as certain as they should be or twice as
certain. Real: 2,000 images as flat files without labels, MobileNetV2 (ImageNet) with a linear head, four rounds of 50
labels by margin, given by a script as people give them; then one test of 200 draws each way through `alray label`, and
1,000 draws with other seeds from the same predictions. The truth is the accuracy on the whole population. "Naive" is
the share of right answers without weights: on the draws, and on the last picks of margin.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import mobilenet
import numpy as np
import pyarrow.parquet as pq
import torch
from results import record

from alray import RunConfig, lure, run
from alray.cli import main as command
from alray.config import (
    DataConfig,
    LabelConfig,
    ModelConfig,
    ResourceConfig,
    SplitConfig,
    TrainConfig,
    TransformConfig,
)
from alray.draws import predictor
from alray.explain.replay import Replay
from alray.labeling import drawn, state
from alray.labeling.desk import Waiting
from alray.rundir import RunDir

IMAGES, DRAWS, REPEATS = 2_000, 200, 1_000


def many(right: np.ndarray, probability: np.ndarray, size: int) -> list[dict[str, Any]]:
    """Draws with different seeds: mean and spread of the estimates."""
    rows, truth, found = np.arange(len(right)), right.mean(), []
    for how, weights in (("random", np.ones(len(right))), ("active", lure.expected_loss(probability))):
        each = []
        for seed in range(REPEATS):
            chosen, q = lure.draw(rows, weights, size, seed, "bench")
            each.append(lure.estimate(q, len(right), right[chosen], np.ones(size, bool)))
        accuracy = np.array([one.accuracy for one in each])
        found.append(
            {
                "how": how, "draws": size, "population": len(right), "truth": float(truth),
                "bias": float(accuracy.mean() - truth), "bias_error": float(accuracy.std() / np.sqrt(REPEATS)),
                "rmse": float(np.sqrt(((accuracy - truth) ** 2).mean())),
                "naive_bias": float(np.mean([one.unweighted for one in each]) - truth),
                "covered": float(np.mean([one.low <= truth <= one.high for one in each])),
                "width": float(np.mean([one.high - one.low for one in each])),
            }
        )  # fmt: skip
    return found


def simulated() -> list[dict[str, Any]]:
    found = []
    for middle, sure in ((2.8, 1.0), (2.8, 2.0), (4.6, 1.0), (4.6, 2.0)):
        rng = np.random.default_rng(0)
        logit = rng.normal(middle, 1.5, 10_000)
        right = rng.random(10_000) < 1 / (1 + np.exp(-logit))
        probability = np.maximum(1 / (1 + np.exp(-sure * logit)), 0.1)
        for size in (100, 400):
            found += [{"certainty": sure, **one} for one in many(right, probability, size)]
    return found


def images(data: Path, folder: Path) -> dict[str, str]:
    """Write the first images of CIFAR-10 as flat files; returns the class of each by name."""
    table = pq.read_table(data / "cifar10/cifar10_train_00-of-03.parquet").slice(0, IMAGES)
    folder.mkdir()
    truth = {}
    for line in table.to_pylist():
        name = f"{line['index']:05d}.webp"
        data_ = line["image"]["bytes"] if isinstance(line["image"], dict) else line["image"]
        (folder / name).write_bytes(data_)
        truth[name] = f"class {line['label']}"
    return truth


def give(folder: RunDir, truth: dict[str, str], place: Path) -> None:
    """Answer all open batches, as people do."""
    keys = [key for batch in state.open_batches(folder) for key in batch.requests["key"].to_pylist()]
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *((key, truth[key]) for key in keys)])
    command(["label", folder.uri, str(place)])


def people(config: RunConfig, truth: dict[str, str], folder: Path) -> RunDir:
    while True:
        try:
            return RunDir(run(config, quiet=True).dir)
        except Waiting:
            (found,) = Path(config.root).glob(f"{config.name}-*")
            give(RunDir(str(found)), truth, folder / "labels.csv")


def real(data: Path, folder: Path) -> dict[str, Any]:
    truth, weights = images(data, folder / "images"), folder / "mobilenet.pt"
    torch.save(mobilenet.state_dict(data / "weights/mobilenet_v2_1.0_224_imagenet_int8.npz"), weights)
    config = RunConfig(
        name="drawn", root=str(folder / "runs"), rounds=5, budget=50, strategy="margin", top_k=(),
        data=DataConfig(root=str(folder / "images"), classes=tuple(sorted(set(truth.values()))), yes=True),
        split=SplitConfig(seed_set_size=100), labels=LabelConfig(oracle="files", wait="exit", cost=0.05),
        transform=TransformConfig(size=96, train="eval", resize=0),
        model=ModelConfig(
            backbone=mobilenet.TIMM_NAME, options=mobilenet.TIMM_OPTIONS, checkpoint=str(weights),
            mean=mobilenet.MEAN, std=mobilenet.STD,
        ),
        train=TrainConfig(mode="linear", epochs=50, lr=1.0, batch_size=64, patience=0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip
    found = people(config, truth, folder)
    tests = []
    for how in ("random", "active"):
        command(["label", found.uri, "--test", str(DRAWS), "--how", how])
        give(found, truth, folder / "labels.csv")
    command(["status", found.uri])
    replay = Replay(found)
    names, label = replay.classes, np.array([truth[key] for key in replay.catalog.keys().to_pylist()])
    taken = np.concatenate([test.rows() for test in found.tests()])
    predicted, probability = predictor(replay, 4, tuple(names))(rows := np.arange(len(label)))
    right = np.array(names)[predicted] == label[rows]
    pool = np.union1d(list(replay.steps())[-1].pool.unlabeled, taken)
    for test in drawn.tests(found):
        about = test.place.about()
        left = np.setdiff1d(pool, found.tests()[0].rows()) if test.number else pool
        assert len(left) == about["population"]
        tests.append({**test.place.estimate(), "truth": float(right[left].mean())})
        print(f"truth on this population: {tests[-1]['truth']:.4f}")
    picks = [step for step in found.bought() if step.predicted is not None][-1]
    last = np.array(names)[predicted[picks.rows]] == label[picks.rows]
    seen = {"right_at_pick_time": float((picks.predicted == picks.labels).mean()), "right_now": float(last.mean())}
    return {"tests": tests, "repeated": many(right[pool], probability[pool], DRAWS), "last_picks_of_margin": seen}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    args = parser.parse_args()
    found: dict[str, Any] = {"repeats": REPEATS, "simulated": simulated()}
    with tempfile.TemporaryDirectory() as folder:
        if args.data.is_dir():
            found["real"] = real(args.data, Path(folder))
    for line in [*found["simulated"], *found.get("real", {}).get("repeated", [])]:
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()})
    record("drawn", found)


if __name__ == "__main__":
    main()
