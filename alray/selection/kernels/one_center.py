"""The 1-center of the pool: the row whose farthest row is nearest, a start for k-center where nothing is labeled (the
published code of Emam et al. 2021 takes the argmin of the row maxima of an n x n matrix).

A row's largest distance is at least its distance to any landmark: a lower bound. Rows whose bound exceeds the smallest
largest distance found so far cannot be the 1-center. In every step the row with the smallest bound, and the row
farthest from it, become landmarks; each costs one exact pass over the pool, and the number of steps depends on the
data. Letters: n rows of the shard, m landmarks, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alray.features.arrays import Array, Rows, Shard
from alray.selection.kernels.distance import Space
from alray.selection.kernels.logits import Floats
from alray.selection.protocol import Key, Shards, beats

_BLOCK = 4096  # rows compared at once
Offer = tuple[Key, Array]  # (value, row) and the row's stored vector (1, d)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Rows that are compared with the whole pool, in this order. vectors (m, d) as stored."""

    rows: Rows
    vectors: Array


@dataclass(frozen=True)
class Answer:
    """One shard's row farthest from the last landmark, and its row with the smallest bound that is no landmark."""

    farthest: Offer | None
    candidate: Offer | None  # the value is minus the bound: the smallest comes first


class Central:
    """The state of one shard: lower bounds of its rows' largest distances."""

    def __init__(self, shard: Shard, column: str) -> None:
        self._shard, self._column, self.rows = shard, column, shard.rows()
        self._low, self._last = np.zeros(len(self.rows)), np.zeros(len(self.rows))
        self._seen = np.empty(0, np.int64)

    def answer(self, space: Space, landmarks: Landmarks) -> Answer:
        """Compare the rows with the landmarks that are new to this process: all of them after a restart."""
        if not np.array_equal(self._seen, landmarks.rows[: len(self._seen)]):
            self._low[:], self._seen = (
                0.0,
                np.empty(0, np.int64),
            )  # these landmarks do not continue the ones before: another selection began
        for vector in landmarks.vectors[len(self._seen) :, None]:
            self._last = self._squared(space, vector)
            np.maximum(self._low, self._last, out=self._low)
        self._seen = landmarks.rows
        return Answer(
            self._offer(self._last), self._offer(np.where(np.isin(self.rows, self._seen), -np.inf, -self._low))
        )

    def _squared(self, space: Space, vector: Array) -> Floats:
        parts = [np.empty(0)]
        for block in self._shard.blocks(_BLOCK):
            at = np.arange(len(block))
            parts.append(space.pairs(block[self._column], vector, at, np.zeros_like(at)))
        return np.concatenate(parts)

    def _offer(self, value: Floats) -> Offer | None:
        if not len(value) or value.max() == -np.inf:
            return None
        row = self.rows[int(np.argmax(value))]  # rows ascend: the first of equals is the lowest
        return (float(value.max()), int(row)), self._shard.take(np.array([row]))[self._column]


def one_center(space: Space, shards: Shards, start: Offer) -> Offer:
    """The 1-center by canonical squared distances, the lowest row of equals; start: any row."""
    landmarks = Landmarks(np.empty(0, np.int64), start[1][:0])
    offers: dict[int, Offer] = {}  # of every landmark, its value minus its largest squared distance
    following = [start]
    while True:
        (_, row), vector = following.pop(0)
        landmarks = Landmarks(np.append(landmarks.rows, row), np.concatenate([landmarks.vectors, vector]))
        answers: list[Answer] = shards.map("central", space, landmarks)
        farthest = _first([a.farthest for a in answers])
        candidate = _first([a.candidate for a in answers])
        assert farthest is not None
        offers[row] = (-farthest[0][0], row), vector
        best = _first(list(offers.values()))
        assert best is not None
        if candidate is None or beats(best[0], candidate[0]):
            return best
        if not following:
            following = [candidate] if farthest[0][1] in offers else [farthest, candidate]
        following = [offer for offer in following if offer[0][1] not in offers]


def _first(offers: list[Offer | None]) -> Offer | None:
    there = [offer for offer in offers if offer is not None]
    return max(there, key=lambda offer: (offer[0][0], -offer[0][1])) if there else None
