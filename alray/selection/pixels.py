"""Image-level acquisition for segmentation: how unsure a model is of an image's pixels, on average (Yi et al. 2022).

The means are columns of the feature table (`alray.models.segmenter.uncertainties`); here they are only sorted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from alray.features.arrays import PIXEL, PRETEXT_LOSS, Block, Shard
from alray.selection.logits import Floats, Logits, Positions
from alray.selection.protocol import Context, Scores, SelectionError, Strategy
from alray.selection.pt4al import Pt4al, Uncertain
from alray.selection.score import ScoreStrategy
from alray.selection.strategies import STRATEGIES, build

_WHOLE_IMAGES = frozenset({"logits", "head", "labels", "known"})  # what an image of many classes does not have


@dataclass(frozen=True)
class PixelScore(ScoreStrategy):
    """Score: the column of a mean, higher is less sure."""

    needs: ClassVar[frozenset[str]]
    column: ClassVar[str]

    def score(self, block: Block) -> Scores:
        """(m,)."""
        return np.asarray(block[self.column].reshape(len(block)), np.float64)


class PixelConfidence(PixelScore):
    """Mean of -max p."""

    column, needs = PIXEL["confidence"], frozenset({PIXEL["confidence"]})


class PixelMargin(PixelScore):
    """Mean of -(p1 - p2)."""

    column, needs = PIXEL["margin"], frozenset({PIXEL["margin"]})


class PixelEntropy(PixelScore):
    """Mean entropy in nats."""

    column, needs = PIXEL["entropy"], frozenset({PIXEL["entropy"]})


@dataclass(frozen=True)
class PixelPt4al(Pt4al):
    """PT4AL whose rounds look for the images with the least sure pixels."""

    needs: ClassVar[frozenset[str]] = frozenset({PRETEXT_LOSS, PIXEL["confidence"], PIXEL["entropy"]})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalise_logits or self.class_balanced:
            raise SelectionError("pt4al: normalise_logits, class_balanced: expected false in segmentation, got true")

    def needs_in(self, round: int) -> frozenset[str]:
        """Before the first model only the losses count."""
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


_OF_PIXELS: dict[str, type[Strategy]] = {
    "confidence": PixelConfidence,
    "margin": PixelMargin,
    "entropy": PixelEntropy,
    "pt4al": PixelPt4al,
}


def build_for_segmentation(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name for images with masks. Raises SelectionError, also for one that needs a class."""
    strategy = build(name, options)
    if name in _OF_PIXELS:
        return _OF_PIXELS[name](**(options or {}))
    if strategy.needs & _WHOLE_IMAGES:
        there = [other for other, kind in STRATEGIES.items() if other in _OF_PIXELS or not kind.needs & _WHOLE_IMAGES]
        raise SelectionError(
            f"strategy: {name} needs {', '.join(sorted(strategy.needs & _WHOLE_IMAGES))} of whole images, and in "
            f"segmentation there are none; expected one of {', '.join(there)}"
        )
    return strategy
