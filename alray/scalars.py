"""The numbers of a run for other programs: JSON lines, CSV, TensorBoard; made anew from the committed rounds."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alray.store import Store

Metrics = dict[str, Any]
SECTIONS = {"test": "test", "validation": "validation", "labeled_set": "labeled", "seconds": "seconds"}
"""Sections of metrics.json, and how the names of their scalars begin in metrics.csv."""


def flat(metrics: Metrics) -> dict[str, Any]:
    """The scalars of a round by flat name: labels, test_top1, labeled_kl_to_pool, seconds_train, seconds_total ...

    Lists (per class) are left out; a section that is null gives no names.
    """
    scalars = {name: value for name, value in metrics.items() if name not in SECTIONS}
    for section, prefix in SECTIONS.items():
        for name, value in (metrics[section] or {}).items():
            if not isinstance(value, list | dict):
                scalars[f"{prefix}_{name}"] = value
    return {**scalars, "seconds_total": sum(metrics["seconds"].values())}


def write_scalars(store: Store, rounds: Sequence[Metrics]) -> None:
    """Write metrics.jsonl (a round per line, all of it) and metrics.csv (a round per line, scalars only) into a run.

    Accuracies are fractions. Both files are replaced whole. Raises StoreError.
    """
    lines = "".join(json.dumps(metrics) + "\n" for metrics in rounds)
    store.write_bytes("metrics.jsonl", lines.encode())
    store.write_bytes("metrics.csv", csv_text([flat(metrics) for metrics in rounds]).encode())


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records as CSV; the columns are the union of their names in order of appearance, None is an empty cell."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def write_tensorboard(store: Store, rounds: Sequence[Metrics]) -> None:
    """Write the scalars as TensorBoard events into <run>/tensorboard; the step is the number of labels.

    The wall time of a point is the seconds that the run's stages took up to it: same rounds, same events.
    """
    folder = store.child("tensorboard")
    before = folder.names()
    with tempfile.TemporaryDirectory() as directory:
        _write_events(directory, rounds)
        written = sorted(Path(directory).iterdir())
        for file in written:
            folder.write_bytes(file.name, file.read_bytes())
    for name in set(before) - {file.name for file in written}:
        folder.delete(name)


def _write_events(directory: str, rounds: Sequence[Metrics]) -> None:
    from tensorboardX import SummaryWriter  # a second of imports that reports without events do not pay

    elapsed = 0.0
    # purge_step: a TensorBoard that watches drops what it has read from the files that this one replaces
    with SummaryWriter(directory, purge_step=0) as writer:
        for metrics in rounds:
            scalars = flat(metrics)
            elapsed += scalars["seconds_total"]
            for name, value in scalars.items():
                if isinstance(value, int | float):
                    writer.add_scalar(_tag(name), value, metrics["labels"], walltime=elapsed)


def _tag(name: str) -> str:
    section, _, rest = name.partition("_")
    return f"{section}/{rest}" if section in ("test", "validation", "labeled", "seconds") else f"run/{name}"
