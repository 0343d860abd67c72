"""Where a run stands, in sentences for people."""

from __future__ import annotations

from typing import Any

from alray.data.sources.scan import amount
from alray.labeling import state
from alray.labeling.ledger import Ledger
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
    found += _apart(run) if run.split else []
    found += filter(None, [state.without_image(run)])
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
        found.append(f"the batch: {run.batch_files(batch.name).uri}")
        found.append(f"next: alray label {run.uri} FILE" if missing else f"next: {command}")
    elif len(done) < rounds:
        found += sentences(run)
        found.append(f"next: {command}")
    else:
        found.append(f"the run is finished; next: alray report {run.uri}")
    return found


def _apart(run: RunDir) -> list[str]:
    """A sentence on the labels that are no part of the labeled set."""
    held_out, test = len(run.held_out()[0]), len(run.asked_test()[0])
    parts = [f"validation: {amount(held_out, 'label')}, counted apart"] if held_out else []
    parts += [f"test: {amount(test, 'label')} that people gave"] if test else []
    return ["; ".join(parts)] if parts else []


def _metrics(metrics: dict[str, Any]) -> str:
    test = metrics.get("test")
    accuracy = f", test top-1 {test['top1']:.3f}" if test else ", no test set"
    return f"last round: {metrics['round']} with {metrics['labels']:,} labels{accuracy}"
