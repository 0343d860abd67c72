"""Random sampling, the baseline. A row's score is its hash priority, uniform in [0, 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from alray.features.arrays import Block, Shard
from alray.keyed import uniform
from alray.selection.case import Case
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context, Scores


@with_options
class RandomSampling(ScoreStrategy):
    """Uniform without replacement. The score is a function of (seed, round, row) alone."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def scorer(self, shard: Shard, context: Context) -> _Priority:
        """Scores by priority."""
        return _Priority(context.seed, f"random/{context.round}")

    def probabilities(self, offered: int, picks: int) -> Scores:
        """Each of the rows that are left has the same probability."""
        return 1.0 / (offered - np.arange(picks))

    def reasons(self, case: Case) -> list[str]:
        """Its score, which is chance."""
        return [*super().reasons(case), "The score is a hash of the seed, the round and the row: chance decided."]


@dataclass(frozen=True)
class _Priority:
    seed: int
    stream: str

    def bounds(self, block: Block, least: float = -np.inf) -> tuple[Scores, Scores]:
        scores = self.exact(block)
        return scores, scores

    def exact(self, block: Block) -> Scores:
        return uniform(self.seed, self.stream, block.rows)
