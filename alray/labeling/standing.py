"""Where a run stands, in sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alray.labeling import state
from alray.labeling.check import Answer
from alray.labeling.ledger import Ledger
from alray.labeling.state import OpenBatch
from alray.rundir import RunDir
from alray.watch import sentences

_SHOWN = 5


def lines(run: RunDir) -> list[str]:
    """Sentences on a run: rounds and labels so far, the last metrics, what it waits for, and the next command."""
    about, config, done = run.about(), run.config(), run.committed()
    rounds = int(config.get("rounds", len(done)))
    found = [f"{about['name']} · {run.uri}", f"rounds: {len(done)} of {rounds} are finished"]
    if done:
        found.append(_metrics(run.round(done[-1]).metrics()))
    batches, needed = state.open_batches(run), state.needed(run)
    answers = Ledger(run.deliveries).answers()
    for batch in batches:
        found += _waiting(run, batch, answers)
    if len(batches) > 1:
        goes_on = f"{needed} is needed first" if needed else f"the run can go on without {batches[-1].name}"
        found.append(f"{len(batches)} batches are out; {goes_on}")
    if needed:
        found.append(f"next: alray label {run.uri} FILE")
    elif batches or len(done) < rounds:
        found += sentences(run)
        found.append(f"next: alray run {run.at('config.json')}")
    else:
        found.append(f"the run is finished; next: alray report {run.uri}")
    return found


def _waiting(run: RunDir, batch: OpenBatch, answers: Mapping[str, Answer]) -> list[str]:
    asked, names = len(batch.requests), batch.missing(answers)
    missing = len(names)
    found = [f"waiting for labels, {batch.name}: {asked - missing:,} of {asked:,} images have an answer"]
    if 0 < missing < asked:
        found.append(f"without an answer: {', '.join(names[:_SHOWN])}{', ...' if missing > _SHOWN else ''}")
    return [*found, f"the batch: {run.batch_files(batch.name).uri}"]


def _metrics(metrics: dict[str, Any]) -> str:
    test = metrics.get("test")
    accuracy = f", test top-1 {test['top1']:.3f}" if test else ", no test set"
    return f"last round: {metrics['round']} with {metrics['labels']:,} labels{accuracy}"
