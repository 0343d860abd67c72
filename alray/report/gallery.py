"""Thumbnails of the images that a strategy picked, by class, the most surprising first.

Surprise is 1 minus the probability that the model which selected the image gave to the label that was bought. Where
the embeddings or the head of the model were deleted, pictures are sorted by the strategy's score. Where an image has
several classes there is no surprise: pictures are sorted by score, all together.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alray.data.catalog import Catalog
from alray.data.decode import decode
from alray.data.depth import Range
from alray.data.fetch import ImageError, fetch
from alray.features.arrays import LOGITS, Array, Rows
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.report.panel import Line, Panel
from alray.report.runs import RunHistory
from alray.rundir import Bought, Missing

PER_ROUND, PER_CLASS, MOST = 36, 6, 1500
_LOGITS = 1 << 24  # numbers in memory at a time


@dataclass(frozen=True)
class Picture:
    """One pick. label: empty where images have several classes; surprise: 0 to 1, None where it is unknown; jpeg:
    base64."""

    key: str
    label: str
    score: float
    surprise: float | None
    jpeg: str


@dataclass(frozen=True)
class Wall:
    """The picks of one run in one round (None: of the seed set), classes in order of their most surprising picture. of:
    number of all picks; by_class: whether pictures are grouped by class; by_surprise: else they are sorted by score."""

    line: Line
    round: int | None
    of: int
    by_class: bool
    by_surprise: bool
    classes: tuple[tuple[str, tuple[Picture, ...]], ...]


def gallery(panel: Panel) -> tuple[list[Wall], str]:
    """The picks of every method, round by round, of its run with the lowest seed in the first setting; and a sentence
    where pictures are missing ('' where none is)."""
    walls: list[Wall] = []
    left = MOST
    for method in panel.methods:
        lines = [line for setting in panel.settings for line in panel.select(setting, method)]
        line = next((line for line in lines if line.run is not None), None)
        if line is None or line.run is None:
            return [], "There are no pictures, because these curves come from a CSV."
        try:
            for wall in _walls(line, line.run):
                walls.append(wall)
                left -= sum(len(pictures) for _, pictures in wall.classes)
                if left <= 0:
                    return walls, f"The gallery stops at {MOST:,} pictures."
        except Missing as reason:
            return [], f"There are no pictures: {reason}."
    return walls, ""


def _walls(line: Line, run: RunHistory) -> list[Wall]:
    catalog = run.files.catalog()
    if not _has_images(catalog):
        raise Missing("the data are embeddings without images")
    start = run.files.cold_start()
    return [_wall(line, run, catalog, step) for step in [*([start] if start else []), *run.files.bought()]]


def _has_images(catalog: Catalog) -> bool:
    return catalog.source.decoded


def _wall(line: Line, run: RunHistory, catalog: Catalog, step: Bought) -> Wall:
    by_class = run.counted.class_per_image
    surprise = _surprise(run, step, step.round) if by_class and step.round is not None else None
    names, most = (catalog.classes, PER_CLASS) if by_class else (("",), PER_ROUND)
    step = step if by_class else replace(step, labels=np.zeros_like(step.labels))
    order = np.lexsort((step.rows, -step.scores if surprise is None else -surprise))
    shown: dict[int, list[int]] = {}
    for position in order.tolist():
        group = shown.setdefault(int(step.labels[position]), [])
        if len(group) < most and sum(map(len, shown.values())) < PER_ROUND:
            group.append(position)
    positions = [position for group in shown.values() for position in group]
    made = _pictures(catalog, step, names, positions, surprise, run.counted.thumbnail)
    pictures = dict(zip(positions, made, strict=True))
    classes = tuple(
        (names[label], tuple(pictures[position] for position in group))
        for label, group in shown.items() if group
    )  # fmt: skip
    return Wall(line, step.round, len(step.rows), by_class, surprise is not None, classes)


def _surprise(run: RunHistory, step: Bought, number: int) -> Array | None:
    """(k,) 1 - p(label) by the model that selected; None where that model's outputs were deleted."""
    order = np.argsort(step.rows)
    at_once = max(1, _LOGITS // len(run.classes))
    found = np.empty(len(order))
    try:
        table = run.files.round(number).selected_by()
        model = None if LOGITS in table.columns else run.files.round(number).head()
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            found[part] = _missed(_logits(table, model, step.rows[part]), step.labels[part])
    except Missing:
        return None
    return found


def _logits(table: FeatureTable, model: Head | None, rows: Array) -> Array:
    """(k, c) float64, those of the table or, with a model, those of its head."""
    if model is None:
        return np.asarray(table.read(rows, LOGITS), np.float64)
    return np.asarray(table.embedding(rows) @ model.weight.T.astype(np.float64) + model.bias)


def _missed(logits: Array, labels: Array) -> Array:
    """(k,) 1 - p(label)."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(1 - p[np.arange(len(labels)), labels])


def _pictures(
    catalog: Catalog, step: Bought, names: Sequence[str], positions: Sequence[int], surprise: Array | None, side: int
) -> list[Picture]:
    rows = step.rows[list(positions)]
    jpegs = _thumbnails(catalog, rows, side)
    keys = catalog.keys(rows).to_pylist()
    return [
        Picture(
            key, names[step.labels[position]], float(step.scores[position]),
            None if surprise is None else float(surprise[position]), jpegs[int(row)],
        )
        for key, position, row in zip(keys, positions, rows, strict=True)
    ]  # fmt: skip


def _thumbnails(catalog: Catalog, rows: Rows, side: int) -> dict[int, str]:
    references = catalog.references(rows)
    ordered = references["row"].to_pylist()
    try:
        data = fetch(references, catalog.source, catalog.image_column)
        return {
            row: _jpeg(content, key, catalog.pixel_range, side)
            for row, content, key in zip(ordered, data, references["key"].to_pylist(), strict=True)
        }
    except (ImageError, OSError) as error:
        raise Missing(f"the images do not exist any more ({error})") from None


def _jpeg(data: bytes, key: str, pixel_range: Range | None, side: int) -> str:
    image = decode(data, key, pixel_range)
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return base64.b64encode(out.getvalue()).decode()
