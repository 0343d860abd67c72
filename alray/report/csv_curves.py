"""Learning curves from a CSV with one line per run and round, for runs that were not made with alray."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from alray.data.sources.text_files import decoded, separator
from alray.report.metrics import is_metric
from alray.report.panel import Line
from alray.report.runs import IMAGES, PIXELS, ReportError
from alray.store import absolute, read_bytes

_NEEDED = ("strategy", "seed", "labels")
_MORE = "cells without a column"
_USUAL = "test_top1, test_miou, test_balanced_accuracy, validation_top1"


def read_curves(path: str) -> list[Line]:
    """Read a CSV with the columns strategy, seed, labels, and accuracies as fractions (test_top1, test_miou,
    test_balanced_accuracy, validation_top1 or another that `metrics.is_metric` knows).

    In a file with test_miou all accuracies are of pixels. Every other column is part of the setting in which strategies
    are compared. Raises ReportError with the number of the line.
    """
    columns, records = _read(path)
    missing = [name for name in _NEEDED if name not in columns]
    scalars = [name for name in columns if is_metric(name)]
    if missing or not scalars:
        raise ReportError(
            f"{path}: expected the columns {', '.join(_NEEDED)} and one or more of {_USUAL}, got "
            f"{', '.join(columns) or 'an empty file'}"
        )
    if not records:
        raise ReportError(f"{path}: expected one line per run and round, got no line below the names of the columns")
    others = [name for name in columns if name not in (*_NEEDED, *scalars)]
    varied = [name for name in others if len({record[name] for record in records}) > 1]
    runs: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for number, record in enumerate(records, 2):
        setting = ", ".join(f"{name} {record[name]}" for name in varied)
        values = _numbers(record, ("seed", "labels", *scalars), f"{path}, line {number}")
        runs.setdefault((setting, record["strategy"], int(values["seed"])), []).append(values)
    return [_line(key, points, scalars, path) for key, points in runs.items()]


def _read(path: str) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = decoded(read_bytes(absolute(path)))
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_MORE, delimiter=separator(text))
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        records = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{path}: expected a CSV of learning curves: {error}") from None
    columns = list(reader.fieldnames or [])
    for number, record in enumerate(records, 2):
        got = sum(value is not None for value in record.values()) - 1 + len(record.get(_MORE, "1"))
        if got != len(columns):
            raise ReportError(f"{path}, line {number}: expected {len(columns)} cells, got {got}")
    return columns, records


def _numbers(record: dict[str, str], names: Sequence[str], where: str) -> dict[str, float]:
    found = {}
    for name in names:
        try:
            found[name] = value = float(record[name])
        except (ValueError, TypeError):
            raise ReportError(f"{where}: {name}: expected a number, got {record[name]!r}") from None
        expected, right = (
            ("a whole number", value.is_integer()) if name == "seed"
            else ("a number above 0", 0 < value < math.inf) if name == "labels"
            else ("a fraction from 0 to 1", 0 <= value <= 1)
        )  # fmt: skip
        if not right:
            raise ReportError(f"{where}: {name}: expected {expected}, got {record[name]}")
    return found


def _line(key: tuple[str, str, int], points: list[dict[str, float]], scalars: Sequence[str], path: str) -> Line:
    setting, strategy, seed = key
    points = sorted(points, key=lambda point: point["labels"])
    labels = tuple(point["labels"] for point in points)
    if len(set(labels)) < len(labels):
        raise ReportError(f"{path}: {strategy}, seed {seed}{f', {setting}' if setting else ''}: the same labels twice")
    values = {name: tuple(point[name] for point in points) for name in scalars}
    counted = PIXELS if PIXELS.accuracies[0] in scalars else IMAGES
    return Line(setting, strategy, strategy, seed, labels, values, counted=counted)
