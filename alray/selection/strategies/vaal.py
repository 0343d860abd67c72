"""VAAL (Sinha et al. 2019): choose the rows for which a discriminator is most certain that they are unlabeled.

The discriminator is trained on images before the selection (`alray.train.vaal`); this strategy only reads its logits.
"""

from __future__ import annotations

from typing import ClassVar

from alray.features.arrays import DISCRIMINATOR, Block
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Scores


@with_options
class Vaal(ScoreStrategy):
    """Score: minus the discriminator's logit for "labeled"."""

    needs: ClassVar[frozenset[str]] = frozenset({DISCRIMINATOR})

    def score(self, block: Block) -> Scores:
        """The scores (m,): minus the column "discriminator"."""
        scores: Scores = -block[DISCRIMINATOR].reshape(len(block)).astype("float64")
        return scores
