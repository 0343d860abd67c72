"""Where a run stands, in sentences for people."""

from __future__ import annotations

from typing import Any

from alray.labeling import state
from alray.labeling.desk import NOTE
from alray.labeling.ledger import Ledger
from alray.labeling.sheet import CSV
from alray.rundir import RunDir

_SHOWN = 5


def lines(run: RunDir) -> list[str]:
    """Sentences on a run: rounds and labels so far, the last metrics, what it waits for, and the next command."""
    about, config, done = run.about(), run.config(), run.committed()
    rounds = int(config.get("rounds", len(done)))
    found = [f"{about['name']} · {run.uri}", f"rounds: {len(done)} of {rounds} are finished"]
    if done:
        found.append(_metrics(run.round(done[-1]).metrics()))
    batch = state.open_batch(run)
    command = f"alray run {run.at('config.json')}"
    if batch is not None:
        asked = len(batch.requests)
        answers = Ledger(run.deliveries).answers()
        names = batch.missing(answers)
        missing = len(names)
        found.append(f"waiting for labels, {batch.name}: {asked - missing:,} of {asked:,} images have an answer")
        if 0 < missing < asked:
            found.append(f"without an answer: {', '.join(names[:_SHOWN])}{', ...' if missing > _SHOWN else ''}")
        files = run.batch_files(batch.name)
        found.append(f"the batch: {files.uri}")
        found += files.read_bytes(NOTE).decode().splitlines() if files.has(NOTE) and missing else []
        found.append(f"next: alray label {run.uri} FILE" if missing and files.has(CSV) else f"next: {command}")
    elif len(done) < rounds:
        found.append(f"next: {command}")
    else:
        found.append(f"the run is finished; next: alray report {run.uri}")
    return found


def _metrics(metrics: dict[str, Any]) -> str:
    test = metrics.get("test")
    accuracy = f", test top-1 {test['top1']:.3f}" if test else ", no test set"
    return f"last round: {metrics['round']} with {metrics['labels']:,} labels{accuracy}"
