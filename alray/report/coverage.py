"""How well the labeled set covers the pool in embedding space: per round, the largest and the mean distance of an image
to its nearest labeled image (Sener & Savarese 2018: the largest distance bounds the core-set loss).

Letters: n pool, m labeled, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alray.features.arrays import EMBEDDING, Array, Rows
from alray.report.runs import RunHistory
from alray.rundir import Missing

MOST_PRODUCTS = 2e11
"""The most multiplications that a report spends on distances; about a minute on one slow core."""

_BLOCK = 1024


@dataclass(frozen=True)
class Coverage:
    """Per round: radius and mean distance over the pool (labeled images count with distance 0). Distances, not squared,
    of the embeddings as stored."""

    radius: tuple[float, ...]
    mean: tuple[float, ...]


def cover(runs: Sequence[RunHistory], most_products: float = MOST_PRODUCTS) -> tuple[dict[str, Coverage], str]:
    """Coverage by run directory, and a sentence on the runs that were left out ('' where none was).

    Runs are left out where their embeddings are missing, and from the run on at which the work exceeds `most_products`
    multiplications. Runs with low seeds come first, so that all strategies are covered on the same seeds.
    """
    found: dict[str, Coverage] = {}
    reasons: dict[str, int] = {}
    tables: dict[str, tuple[Rows, Array]] = {}
    spent = 0.0
    for run in sorted(runs, key=lambda run: run.seed):
        try:
            # Runs that are left out count too: else a cheap run of a higher seed would be covered without its pair.
            spent += _cost(run)
            if spent > most_products:
                raise Missing("there are too many distances to compute in a report")
            found[run.dir] = _cover(run, tables)
        except Missing as reason:
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
    said = "; ".join(f"{count} of {len(runs)} runs left out: {reason}" for reason, count in reasons.items())
    return found, said


def _cost(run: RunHistory) -> float:
    if not run.frozen:
        raise Missing("the model was fine-tuned, so that distances of different rounds cannot be compared")
    last = run.rounds[-1]
    return float((last["unlabeled"] + last["labels"]) * last["labels"] * run.files.round(0).selected_by().dim)


def _cover(run: RunHistory, tables: dict[str, tuple[Rows, Array]]) -> Coverage:
    table = run.files.round(0).selected_by()
    rows = run.files.pool()
    if table.uri not in tables:
        tables.clear()  # keep one table in memory
        tables[table.uri] = table.rows, table.read(table.rows, EMBEDDING)
    all_rows, all_x = tables[table.uri]
    x = all_x[np.searchsorted(all_rows, rows)]
    nearest = np.full(len(rows), np.inf)
    mean_embedding = x.mean(axis=0, dtype=np.float64)
    radius, mean = [], []
    new = run.files.seed_set()
    steps = [step.rows for step in run.files.bought()]
    for number in range(len(run.rounds)):
        _bring_nearer(nearest, x, all_x[np.searchsorted(all_rows, new)], mean_embedding)
        nearest[np.searchsorted(rows, new)] = 0  # rounding can prefer a center that is almost equal to the image itself
        radius.append(float(np.sqrt(nearest.max())))
        mean.append(float(np.sqrt(nearest).mean()))
        new = steps[number] if number < len(steps) else new[:0]
    return Coverage(tuple(radius), tuple(mean))


def _bring_nearer(nearest: Array, x: Array, centers: Array, origin: Array) -> None:
    """Lower the squared distances (n,) float64 to those of new centers (m, d), in place.

    A matrix product finds the nearest center. It loses digits where all embeddings are far from zero and near each
    other, so that it works on float64 differences from an origin (d,), the mean of the pool. The distance to the center
    that it finds is then computed from the float64 differences of the stored values.
    """
    if not len(centers):
        return
    moved = centers - origin
    norms = np.einsum("md,md->m", moved, moved)
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK]
        product = (part - origin) @ moved.T
        product *= -2
        product += norms
        found = product.argmin(axis=1)
        difference = part.astype(np.float64) - centers[found]
        squared = np.einsum("nd,nd->n", difference, difference)
        np.minimum(nearest[start : start + _BLOCK], squared, out=nearest[start : start + _BLOCK])
