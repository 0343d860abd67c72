"""Where a run stands, in sentences for people."""

from __future__ import annotations

from typing import Any

from alray.labeling import state
from alray.labeling.drawn import tests
from alray.labeling.ledger import Ledger
from alray.rundir import RunDir
from alray.stop import Standing, ended, why_stopped

_SHOWN = 5


def lines(run: RunDir) -> list[str]:
    """Sentences on a run: rounds and labels so far, the last metrics, what it waits for, and the next command."""
    about, config, done = run.about(), run.config(), run.committed()
    rounds = int(config.get("rounds", len(done)))
    found = [f"{about['name']} · {run.uri}", f"rounds: {len(done)} of {rounds} are finished"]
    if done:
        found.append(_metrics(run.round(done[-1]).metrics()))
        found += _money(run, done[-1])
    found += [test.sentence for test in tests(run)]
    batches = state.open_batches(run)
    found += [_test(batch, run) for batch in batches if batch.is_test]
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
    elif not ended(run):
        found.append(f"next: {command}")
    else:
        why = why_stopped(run.round(done[-1]).metrics())
        found.append(f"the run is finished{f' early: {why}' if why else ''}; next: alray report {run.uri}")
    return found


def _test(batch: state.OpenBatch, run: RunDir) -> str:
    """What an open test waits for."""
    asked, missing = len(batch.requests), len(batch.missing(Ledger(run.deliveries).answers()))
    where = run.batch_files(batch.name).uri
    return f"{batch.name}: {asked - missing:,} of {asked:,} drawn images have an answer; the batch: {where}"


def _money(run: RunDir, number: int) -> list[str]:
    """What the labels cost that were asked for up to a round, where labels have a price."""
    cost = run.settings().labels.cost
    if not cost:
        return []
    count = Standing.of(run, number).paid
    return [f"paid for by then: {count:,} labels at {cost:g} each, {count * cost:,.2f}"]


def _metrics(metrics: dict[str, Any]) -> str:
    test = metrics.get("test")
    accuracy = f", test top-1 {test['top1']:.3f}" if test else ", no test set"
    return f"last round: {metrics['round']} with {metrics['labels']:,} labels{accuracy}"
