"""VAAL (Sinha et al. 2019): the rows that a discriminator takes most surely for unlabeled.

The discriminator is trained before the selection, on images (`alray.train.vaal`); here are only its logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alray.features.arrays import DISCRIMINATOR, Block
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.protocol import Scores


@dataclass(frozen=True)
class Vaal(ScoreStrategy):
    """Score: minus the logit of looking labeled."""

    needs: ClassVar[frozenset[str]] = frozenset({DISCRIMINATOR})

    def score(self, block: Block) -> Scores:
        """From the column "discriminator", (m,)."""
        scores: Scores = -block[DISCRIMINATOR].reshape(len(block)).astype("float64")
        return scores
