"""Write the numbers of a run for other programs, as JSON lines, CSV and TensorBoard events."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alray.store import Store, read_bytes

Metrics = dict[str, Any]
TABLE = "metrics.csv"
SECTIONS = {"test": "test", "validation": "validation", "labeled_set": "labeled", "seconds": "seconds"}
"""Section of metrics.json -> prefix of the names of its scalars in metrics.csv."""


def flat(metrics: Metrics) -> dict[str, Any]:
    """The scalars of a round by flat names, such as labels, test_top1, labeled_kl_to_pool, seconds_total.

    Lists and mappings, such as numbers per class, are left out. A section that is null has no scalars.
    """
    scalars = {name: value for name, value in metrics.items() if name not in SECTIONS and not isinstance(value, dict)}
    for section, prefix in SECTIONS.items():
        for name, value in (metrics[section] or {}).items():
            if not isinstance(value, list | dict):
                scalars[f"{prefix}_{name}"] = value
    return {**scalars, "seconds_total": sum(metrics["seconds"].values())}


def write_scalars(store: Store, rounds: Sequence[Metrics]) -> None:
    """Write metrics.jsonl (all metrics) and metrics.csv (only scalars) into a run, with one line per round.

    Accuracies are fractions. Both files are replaced. Raises StoreError.
    """
    lines = "".join(json.dumps(metrics) + "\n" for metrics in rounds)
    table = csv_text([flat(metrics) for metrics in rounds])
    store.write_together({"metrics.jsonl": lines.encode(), TABLE: table.encode()}, last=True)


def lines_written(store: Store) -> int:
    """For how many rounds `write_scalars` has written the last of its files."""
    try:
        return max(0, len(read_bytes(store.at(TABLE)).splitlines()) - 1)
    except FileNotFoundError:
        return 0


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records as CSV. The columns are all names, in order of appearance; None is an empty cell."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def write_tensorboard(store: Store, rounds: Sequence[Metrics]) -> None:
    """Write the scalars as TensorBoard events into <run>/tensorboard; the step is the number of labels.

    The wall time of a point is the sum of the seconds of all stages so far, so the same rounds give the same events.
    """
    folder = store.child("tensorboard")
    before = folder.names()
    with tempfile.TemporaryDirectory() as directory:
        _write_events(directory, rounds)
        written = sorted(Path(directory).iterdir())
        folder.write_together({file.name: file.read_bytes() for file in written}, last=not before)
    for name in set(before) - {file.name for file in written}:
        folder.delete(name)


def _write_events(directory: str, rounds: Sequence[Metrics]) -> None:
    from tensorboardX import SummaryWriter  # takes a second to import

    elapsed = 0.0
    # purge_step: a running TensorBoard drops what it read from the files that are replaced
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
