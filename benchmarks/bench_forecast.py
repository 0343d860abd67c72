#!/usr/bin/env python
"""Do the forecasts of `alray forecast` cover what came? Learning curves, fitted on their first half.

    python benchmarks/bench_forecast.py PATH/labelbench_al_curves.csv.gz  # published curves
    python benchmarks/bench_forecast.py PATH/embeddings                   # runs of alray, made here

Published: every run of LabelBench (Zhang et al. 2024) with at least six rounds. Made here: linear heads on real
embeddings, twelve rounds, all combinations of data set, strategy and seed. Every curve is fitted on the first half of
its rounds. Two shares are printed per data set: of the later accuracies that lie in their 90 % interval, and of the
runs whose later numbers of labels lie in the interval for the accuracy that they reached.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from bench_linear_eval import BASE, SETS
from results import record

from alray import replace, run
from alray.config import DataConfig
from alray.report.forecast import LEAST_POINTS, fit

RUN = ["dataset", "batch", "setup", "strategy", "seed"]
STRATEGIES, SEEDS, ROUNDS = ("random", "margin", "base"), (0, 1), 12
BUDGETS = {"cifar10_mnv2_pca64": 250, "tiny_imagenet_dev100_mnv2_pca64": 500, "plankton121_mnv2_pca64": 400}
COLUMNS = ["dataset", "accuracies covered", "last accuracy covered", "labels covered", "width of the last interval"]

Curve = tuple[str, np.ndarray, np.ndarray]  # data set, labels, accuracies


def published(path: Path) -> Iterator[Curve]:
    table = pd.read_csv(path).dropna(subset=["test_acc"])
    for key, points in table.groupby(RUN):
        points = points.sort_values("num_labeled").drop_duplicates("num_labeled")
        yield key[0], points["num_labeled"].to_numpy(float), points["test_acc"].to_numpy(float)


def made(folder: Path) -> Iterator[Curve]:
    with tempfile.TemporaryDirectory() as root:
        for name, strategy, seed in product(BUDGETS, STRATEGIES, SEEDS):
            changes = {**SETS[name], "budget": BUDGETS[name], "rounds": ROUNDS, "strategy": strategy, "seed": seed}
            config = replace(BASE, {**changes, "name": name.split("_")[0], "root": root, "train.epochs": 30})
            config = config.model_copy(update={"data": DataConfig(root=str(folder / f"{name}.npz"))})
            rounds = run(config, quiet=True).rounds
            accuracy = [one["test"]["top1"] for one in rounds]
            print(name, strategy, seed, np.round(accuracy, 3), flush=True)
            yield name, np.array([one["labels"] for one in rounds], float), np.array(accuracy)


def main(path: Path) -> None:
    own, found, points = path.is_dir(), [], []
    for name, n, y in made(path) if own else published(path):
        half = max(LEAST_POINTS, (len(n) + 1) // 2)
        if len(n) < 6:
            continue
        points.append({"dataset": name, "labels": n.astype(int).tolist(), "accuracy": y.round(5).tolist()})
        curve = fit(n[:half], y[:half])
        low, _, high = curve.accuracy(n[half:]).T
        inside = (y[half:] >= low) & (y[half:] <= high)
        need = curve.needs(float(y[-1]))
        reached = int(n[np.argmax(y >= y[-1])])
        width = float(high[-1] - low[-1])
        found.append([name, float(inside.mean()), bool(inside[-1]), need.low <= reached <= need.high, width])
    result = pd.DataFrame(found, columns=COLUMNS)
    summary = result.groupby("dataset").mean().assign(runs=result.groupby("dataset").size())
    summary.loc["all"] = [*result[COLUMNS[1:]].mean(), len(result)]
    print(summary.round(3).to_string())
    curves = {"curves": summary.round(4).reset_index().to_dict("records")}
    record("forecast_own" if own else "forecast", {**curves, "points": points} if own else curves)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
