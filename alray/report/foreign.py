"""Learning curves that alray did not make: a CSV with one line per run and round."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from alray.report.panel import Line
from alray.report.runs import ReportError
from alray.store import absolute, read_bytes

_NEEDED = ("strategy", "seed", "labels")
_SCALARS = ("test_top1", "test_balanced_accuracy", "validation_top1")


def read_curves(path: str) -> list[Line]:
    """Columns strategy, seed, labels, and accuracies as fractions (test_top1, test_balanced_accuracy, validation_top1);
    every other column is part of the setting in which strategies are compared. Raises ReportError with the line."""
    try:
        records = list(csv.DictReader(io.StringIO(read_bytes(absolute(path)).decode())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{path}: expected a CSV of learning curves: {error}") from None
    columns = list(records[0]) if records else []
    missing = [name for name in _NEEDED if name not in columns]
    scalars = [name for name in _SCALARS if name in columns]
    if missing or not scalars:
        raise ReportError(
            f"{path}: expected the columns {', '.join(_NEEDED)} and one or more of {', '.join(_SCALARS)}, got "
            f"{', '.join(columns) or 'an empty file'}"
        )
    others = [name for name in columns if name not in (*_NEEDED, *scalars)]
    varied = [name for name in others if len({record[name] for record in records}) > 1]
    runs: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for number, record in enumerate(records, 2):
        setting = ", ".join(f"{name} {record[name]}" for name in varied)
        values = _numbers(record, ("seed", "labels", *scalars), f"{path}, line {number}")
        runs.setdefault((setting, record["strategy"], int(values["seed"])), []).append(values)
    return [_line(key, points, scalars, path) for key, points in runs.items()]


def _numbers(record: dict[str, str], names: Sequence[str], where: str) -> dict[str, float]:
    found = {}
    for name in names:
        try:
            found[name] = float(record[name])
        except (ValueError, TypeError):
            raise ReportError(f"{where}: {name}: expected a number, got {record[name]!r}") from None
        if name in _SCALARS and not 0 <= found[name] <= 1:
            raise ReportError(f"{where}: {name}: expected a fraction from 0 to 1, got {record[name]}")
    return found


def _line(key: tuple[str, str, int], points: list[dict[str, float]], scalars: Sequence[str], path: str) -> Line:
    setting, strategy, seed = key
    points = sorted(points, key=lambda point: point["labels"])
    labels = tuple(point["labels"] for point in points)
    if len(set(labels)) < len(labels):
        raise ReportError(f"{path}: {strategy}, seed {seed}{f', {setting}' if setting else ''}: the same labels twice")
    return Line(setting, strategy, strategy, seed, labels, {n: tuple(p[n] for p in points) for n in scalars})
