"""Balancing (Aggarwal et al. 2020): rows near the rarest class and far from the frequent ones.

It peeks at labels: every pick is labeled before the next one is chosen.

Let n_c be the number of labeled rows of class c and m the mean of these numbers. Frequent classes have n_c > m, rare
ones n_c <= m. While levelling the classes could use up all of the budget that is left, that is while
budget <= |rare| (mean frequent - mean rare), the next pick is

    argmin  |h - mu_r|^2 / max over frequent c of |h - mu_c|^2,   r the rarest class,

with class means mu_c = sum / (n_c + 1e-5), and the numerator 1 when n_r = 0. Otherwise the next pick is uniform. Each
pick depends on the label of the one before, so that every pick costs one exchange and O(n d), and the shards hold c
numbers per row: it is not for pools of millions.

Letters: n rows, k picks, d width, c classes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from alray.features.arrays import EMBEDDING, Rows, Shard
from alray.keyed import uniform
from alray.selection.case import Case
from alray.selection.kernels.logits import Floats, needed, paired_dots
from alray.selection.options import with_options
from alray.selection.protocol import (
    HIDDEN_LABELS,
    LABELED,
    Context,
    Picks,
    SelectionError,
    Shards,
    Strategy,
    Ties,
    best,
)

_BLOCK = 1 << 18  # numbers per temporary
Offer = tuple[float, int, Floats]  # score, row, embedding


@with_options
class Balancing(Strategy):
    """Peeks at the label of each pick. Score: the negative ratio of distances, or the hash priority where the pick was
    drawn uniformly."""

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING, LABELED, HIDDEN_LABELS})

    def open(self, shard: Shard, context: Context) -> MeanDistances:
        """The shard-side state."""
        return MeanDistances(needed(shard, frozenset({EMBEDDING})), context.ties)

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows, one after the other."""
        if context.peek is None or context.known is None or context.labeled is None:
            raise SelectionError("balancing peeks at labels: it needs an oracle and the labeled rows, got none")
        sums, counts = _labeled_sums(context)
        picks: list[int] = []
        scores: list[float] = []
        while len(picks) < budget:
            rare, frequent = _sides(counts, budget - len(picks))
            means = sums / (counts + 1e-5)[:, None]
            taken = np.array(picks, np.int64)
            if len(frequent):
                numerator = rare if counts[rare] else -1
                offers = shards.map("nearest", means, numerator, frequent, taken)
            else:
                offers = shards.map("draw", context.seed, f"balancing/{context.round}/{len(picks)}", taken)
            score, row, vector = _first([offer for offer in offers if offer is not None], context.ties)
            picks.append(row)
            scores.append(score)
            label = int(context.peek(np.array([row]))[0])
            sums[label] += vector
            counts[label] += 1
            shards.report_progress(len(picks))
        return Picks(np.array(picks), np.array(scores))

    def reasons(self, case: Case) -> list[str]:
        """Its place, and what the score means."""
        what = (
            "Each pick has the highest score of its turn: near the mean of the class that then had the fewest labels "
            "and far from those of frequent classes, or drawn by chance where the classes cannot be levelled (a score "
            "from 0 to 1)."
        )
        if case.rank is None:
            return ["At each turn another image had a higher score.", what] if case.took_part else [case.absent]
        return [*case.place(), what]


def _first(offers: list[Offer], ties: Ties) -> Offer:
    """The offer with the highest score."""
    rows, scores = np.array([row for _, row, _ in offers]), np.array([score for score, _, _ in offers])
    row = int(best(rows, scores, 1, ties)[0][0])
    return next(offer for offer in offers if offer[1] == row)


def _labeled_sums(context: Context) -> tuple[Floats, npt.NDArray[np.int64]]:
    assert context.labeled is not None
    assert context.known is not None
    shard = context.labeled.open()
    classes = context.num_classes or int(np.max(context.known, initial=-1)) + 1
    counts = np.bincount(context.known, minlength=classes)
    rows = shard.rows()
    if not len(rows):
        raise SelectionError("balancing needs labeled rows, got none")
    x = shard.take(rows)[EMBEDDING].astype(np.float64)
    sums = np.zeros((len(counts), x.shape[1]))
    for vector, label in zip(
        x, context.known, strict=True
    ):  # in row order, so that the last bits do not depend on the cut
        sums[label] += vector
    return sums, counts


def _sides(counts: npt.NDArray[np.int64], left: int) -> tuple[int, npt.NDArray[np.intp]]:
    """The rarest class and the frequent ones; no frequent ones when the next pick is uniform."""
    frequent, rare = np.flatnonzero(counts > counts.mean()), np.flatnonzero(counts <= counts.mean())
    if not len(frequent) or left > len(rare) * (counts[frequent].mean() - counts[rare].mean()):
        return 0, np.empty(0, np.intp)
    return int(np.argmin(counts)), frequent


class MeanDistances:
    """The state of one shard: squared distances to the class means, computed again where a mean has moved."""

    def __init__(self, shard: Shard, ties: Ties) -> None:
        self._shard, self._rows, self._ties = shard, shard.rows(), ties
        self._means: Floats = np.empty((0, 0))
        self._squared: Floats = np.empty((0, 0))

    def nearest(self, means: Floats, numerator: int, frequent: npt.NDArray[np.intp], taken: Rows) -> Offer | None:
        """The row with the smallest ratio (numerator -1: 1 for all rows): (-ratio, row, vector)."""
        if not len(self._rows):
            return None
        self._renew(means, frequent if numerator < 0 else np.append(frequent, numerator))
        above = self._squared[numerator] if numerator >= 0 else np.ones(len(self._rows))
        farthest = np.zeros(len(self._rows))
        for c in frequent:
            np.maximum(farthest, self._squared[c], out=farthest)
        with np.errstate(divide="ignore", invalid="ignore"):
            score = -(above / farthest)
        score[np.isnan(score)] = -np.finfo(np.float64).max  # 0 / 0: the row lies on the rare and on all frequent means
        score[np.isin(self._rows, taken)] = -np.inf
        return self._offer(score)

    def draw(self, seed: int, stream: str, taken: Rows) -> Offer | None:
        """The row with the highest priority: (priority, row, vector)."""
        if not len(self._rows):
            return None
        score = uniform(seed, stream, self._rows)
        score[np.isin(self._rows, taken)] = -np.inf
        return self._offer(score)

    def _offer(self, score: Floats) -> Offer:
        row, value = best(self._rows, score, 1, self._ties)
        return float(value[0]), int(row[0]), self._shard.take(row)[EMBEDDING][0].astype(np.float64)

    def _renew(self, means: Floats, classes: npt.NDArray[np.intp]) -> None:
        """Bring the distances to the means of these classes up to date."""
        if self._means.shape != means.shape:
            self._means = np.full(means.shape, np.nan)
            self._squared = np.empty((len(means), len(self._rows)))
        moved = classes[(self._means[classes] != means[classes]).any(axis=1)]
        if not len(moved):
            return
        size, start = max(1, _BLOCK // means.shape[1]), 0
        for block in self._shard.blocks(size):
            x = block[EMBEDDING].astype(np.float64)
            for c in moved:
                difference = x - means[c]
                self._squared[c, start : start + len(x)] = paired_dots(difference, difference)
            start += len(x)
        self._means[moved] = means[moved]
