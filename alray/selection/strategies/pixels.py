"""Image-level acquisition for segmentation: how unsure a model is of an image's pixels, on average (Yi et al. 2022).

The logarithms of the means are columns of the feature table (`alray.models.segmenter.uncertainties`); these strategies
only sort them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alray.features.arrays import PIXEL, PRETEXT_LOSS, Block, Shard
from alray.selection.kernels.logits import Floats, Logits, Positions
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.options import with_options
from alray.selection.protocol import Context, Scores, SelectionError
from alray.selection.strategies.pt4al import Pt4al, Uncertain


class PixelScore(ScoreStrategy):
    """Score: a column made of the mean of an image's pixels; higher is less sure."""

    needs: ClassVar[frozenset[str]]
    column: ClassVar[str]

    def score(self, block: Block) -> Scores:
        """The column as scores (m,)."""
        return np.asarray(block[self.column].reshape(len(block)), np.float64)


@with_options
class PixelConfidence(PixelScore):
    """Logarithm of the mean of 1 - max p, in the order of the mean of -max p."""

    column, needs = PIXEL["confidence"], frozenset({PIXEL["confidence"]})


@with_options
class PixelMargin(PixelScore):
    """Logarithm of the mean of 1 - (p1 - p2), in the order of the mean of -(p1 - p2)."""

    column, needs = PIXEL["margin"], frozenset({PIXEL["margin"]})


@with_options
class PixelEntropy(PixelScore):
    """Logarithm of the mean entropy in nats."""

    column, needs = PIXEL["entropy"], frozenset({PIXEL["entropy"]})


@with_options
class PixelPt4al(Pt4al):
    """PT4AL whose uncertainty of an image is the mean over its pixels."""

    needs: ClassVar[frozenset[str]] = frozenset({PRETEXT_LOSS, PIXEL["confidence"], PIXEL["entropy"]})

    def __post_init__(self) -> None:
        if self.normalise_logits or self.class_balanced:
            raise SelectionError("pt4al: normalise_logits, class_balanced: expected false in segmentation, got true")

    def needs_in(self, round: int) -> frozenset[str]:
        """In round 0 there is no model yet: only the pretext losses are needed."""
        return frozenset({PRETEXT_LOSS}) if round == 0 else self.needs

    def open(self, shard: Shard, context: Context) -> Uncertain:
        """The shard-side state."""
        return _UncertainPixels(shard, context, self.uncertainty, False)


class _UncertainPixels(Uncertain):
    def logits(self) -> Logits:
        return Logits()

    def uncertainties(self, logits: Logits, block: Block) -> tuple[Floats, Positions]:
        values = block[PIXEL[self._uncertainty]].reshape(len(block)).astype(np.float64)
        return values, np.zeros(len(block), np.intp)
