"""Pictures of the images that a strategy picked, with the label that was given and the one that the model predicted.

The mistakes of the model come first, the most certain ones before others; then the right predictions, the least certain
first. Without predictions, pictures are in the order of choice: where an image has a mask of several classes, where the
strategy did not show the pool to the model, and in runs of older versions, which did not store predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alray.data.catalog import Catalog
from alray.report.panel import Line, Panel
from alray.report.runs import RunHistory
from alray.report.thumbnails import MaskPainter, Thumbnail, thumbnails
from alray.rundir import Bought, Missing

if TYPE_CHECKING:
    from alray.explain.briefly import Briefly

PER_ROUND, LEAST, MOST = 16, 8, 600
"""The most pictures of a round, half as many where each has a mask; the fewest, if there are as many picks; the most of
a page, about 3 MB."""


@dataclass(frozen=True)
class Picture:
    """One pick. given: the label, empty where an image has a mask; predicted, probability: None where they are
    unknown."""

    key: str
    given: str
    predicted: str | None
    probability: float | None
    score: float
    image: Thumbnail
    why: str = ""
    """A few words on why it was picked."""

    @property
    def wrong(self) -> bool:
        """Whether the model predicted another label than the one that was given."""
        return self.predicted is not None and self.predicted != self.given


@dataclass(frozen=True)
class Wall:
    """The picks of one run in one round (None: of the seed set). labels: those that the model had learned from; of:
    number of all picks; wrong: how many of all picks the model got wrong, None if its predictions are unknown; note: a
    sentence on what is not drawn."""

    line: Line
    round: int | None
    labels: int
    of: int
    wrong: int | None
    pictures: tuple[Picture, ...]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """All walls, those of a method together, in the order of its rounds; sentences on what is not shown; for masks, the
    colour of each class."""

    walls: tuple[Wall, ...] = ()
    notes: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()

    @property
    def predicted(self) -> bool:
        """Whether the model's predictions are known for some of the pictures."""
        return any(wall.wrong is not None for wall in self.walls)


def gallery(panel: Panel) -> Gallery:
    """The picks of every method, round by round, of its run with the lowest seed in the first setting that it has."""
    found: list[Wall] = []
    notes: dict[str, None] = {}
    legend: tuple[tuple[str, str], ...] = ()
    for method in panel.methods:
        lines = [line for setting in panel.settings for line in panel.select(setting, method)]
        line = next((line for line in lines if line.run is not None), None)
        if line is None or line.run is None:
            continue
        try:
            catalog = line.run.files.catalog()
            if not catalog.source.decoded:
                raise Missing("the data are embeddings without images")
            painter, why = _painter(line.run, catalog)
            legend = legend or (painter.legend if painter else ())
            notes |= {why: None} if why else {}
            walls, left_out = _walls(line, line.run, catalog, painter, MOST // len(panel.methods))
            found += walls
            without_masks = [wall.note for wall in walls if wall.note][:1]
            notes |= dict.fromkeys(filter(None, [left_out, *without_masks]))
        except Missing as reason:
            notes[f"There are no pictures of the picks: {reason}."] = None
    return Gallery(tuple(found), tuple(notes), legend)


def _painter(run: RunHistory, catalog: Catalog) -> tuple[MaskPainter | None, str]:
    """What draws the masks of a run, or a sentence on why they are not drawn; None and '' where images have labels."""
    if run.counted.class_per_image:
        return None, ""
    try:
        return MaskPainter.of(run, catalog), ""
    except Missing as reason:
        return None, f"Masks are not drawn: {reason}."


def _walls(
    line: Line, run: RunHistory, catalog: Catalog, painter: MaskPainter | None, most: int
) -> tuple[list[Wall], str]:
    """The walls of a run with at most so many pictures, and a sentence on the rounds that are left out."""
    from alray.explain.briefly import Briefly  # imports torch

    start, briefly = run.files.cold_start(), Briefly(run.files)
    steps = [*([start] if start else []), *run.files.bought()]
    if not steps:
        return [], ""
    number = max(1, min(len(steps), most // LEAST))
    shown = np.unique(np.linspace(len(steps) - 1, 0, number).round().astype(int))
    each = max(1, min(PER_ROUND if painter is None else PER_ROUND // 2, most // number))
    walls = [_wall(line, run, catalog, painter, briefly, steps[at], each) for at in shown.tolist()]
    few = (
        f"{line.method}: pictures of {len(shown)} of {len(steps)} rounds are shown." if len(shown) < len(steps) else ""
    )
    return walls, few


def _wall(
    line: Line, run: RunHistory, catalog: Catalog, painter: MaskPainter | None, briefly: Briefly, step: Bought,
    most: int,
) -> Wall:  # fmt: skip
    known = run.counted.class_per_image and step.predicted is not None
    order = _order(step) if known else np.arange(len(step.rows))
    positions = order[:most].tolist()
    rows = step.rows[positions]
    images, note = thumbnails(catalog, rows, painter)
    keys = catalog.keys(rows).to_pylist()
    names = run.classes
    told = briefly.of(step.round, rows.tolist()) if step.round is not None else {}
    pictures = []
    for key, at, row in zip(keys, positions, rows.tolist(), strict=True):
        predicted, probability = None, None
        if known and step.predicted is not None and step.probability is not None:
            predicted, probability = names[step.predicted[at]], float(step.probability[at])
        given = names[step.labels[at]] if run.counted.class_per_image else ""
        pictures.append(
            Picture(key, given, predicted, probability, float(step.scores[at]), images[row], told.get(row, ""))
        )
    labels = 0 if step.round is None else int(run.rounds[step.round]["labels"])
    wrong = int((step.predicted != step.labels).sum()) if known and step.predicted is not None else None
    return Wall(line, step.round, labels, len(step.rows), wrong, tuple(pictures), note)


def _order(step: Bought) -> np.ndarray:
    """Positions of the picks: mistakes with the highest probability first, then the rest, the lowest first."""
    assert step.predicted is not None
    assert step.probability is not None
    wrong = step.predicted != step.labels
    certain = np.where(wrong, -step.probability, step.probability)
    return np.lexsort((step.rows, certain, ~wrong))
