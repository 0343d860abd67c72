#!/usr/bin/env python
"""Do the forecasts of `alray forecast` cover what came? Published learning curves, fitted on their first half.

    python benchmarks/bench_forecast.py PATH/labelbench_al_curves.csv.gz

Every run of LabelBench (Zhang et al. 2024) with at least six rounds is fitted on the first half of its rounds. Two
shares are printed per data set: of the later accuracies that lie in their 90 % interval, and of the runs whose later
numbers of labels lie in the interval for the accuracy that they reached.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from results import record

from alray.report.forecast import LEAST_POINTS, fit

RUN = ["dataset", "batch", "setup", "strategy", "seed"]


def main(path: str) -> None:
    table = pd.read_csv(path).dropna(subset=["test_acc"])
    found = []
    for run, points in table.groupby(RUN):
        points = points.sort_values("num_labeled").drop_duplicates("num_labeled")
        n, y = points["num_labeled"].to_numpy(float), points["test_acc"].to_numpy(float)
        half = max(LEAST_POINTS, (len(n) + 1) // 2)
        if len(n) < 6:
            continue
        curve = fit(n[:half], y[:half])
        low, _, high = curve.accuracy(n[half:]).T
        inside = (y[half:] >= low) & (y[half:] <= high)
        need = curve.needs(float(y[-1]))
        reached = int(n[np.argmax(y >= y[-1])])
        width = float(high[-1] - low[-1])
        found.append([run[0], float(inside.mean()), bool(inside[-1]), need.low <= reached <= need.high, width])
    columns = ["dataset", "accuracies covered", "last accuracy covered", "labels covered", "width of the last interval"]
    result = pd.DataFrame(found, columns=columns)
    summary = result.groupby("dataset").mean().assign(runs=result.groupby("dataset").size())
    summary.loc["all"] = [*result[columns[1:]].mean(), len(result)]
    print(summary.round(3).to_string())
    record("forecast", {"curves": summary.round(4).reset_index().to_dict("records")})


if __name__ == "__main__":
    main(sys.argv[1])
