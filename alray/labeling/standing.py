"""Where a run stands, in sentences for people."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from alray.data.oracle import Status
from alray.data.sources.scan import amount
from alray.labeling import state
from alray.labeling.check import Answer
from alray.labeling.desk import NOTE
from alray.labeling.drawn import tests
from alray.labeling.kinds import advice_on
from alray.labeling.ledger import Ledger
from alray.labeling.sheet import CSV, SHEETS
from alray.labeling.state import OpenBatch
from alray.reasons import first_of, short, some_classes
from alray.rundir import RunDir, RunError
from alray.stop import Standing, ended, why_stopped
from alray.store import Store
from alray.tasks import task_of
from alray.watch import sentences

_SHOWN, _CLASSES = 5, 10  # images and classes that are named


def lines(run: RunDir) -> list[str]:
    """Sentences on a run: rounds and labels so far, the last metrics, what it waits for, and the next command."""
    about, config, done = run.about(), run.config(), run.committed()
    rounds = int(config.get("rounds", len(done)))
    found = [f"{about['name']} · {run.uri}", f"rounds: {len(done)} of {rounds} are finished"]
    if done:
        found.append(_metrics(run.round(done[-1]).metrics()))
        found += _money(run, done[-1])
    found += _apart(run) if run.split else []
    found += _classes(run)
    found += filter(None, [state.without_image(run)])
    found += _without_label(run)
    found += [test.sentence for test in tests(run)]
    batches, needed = state.open_batches(run), state.needed(run)
    ledger = Ledger(run.deliveries)
    found += [_test(batch, run, ledger) for batch in batches if batch.is_test]
    batches = [batch for batch in batches if not batch.is_test]
    for batch in batches:
        found += _waiting(run, batch, ledger)
    if len(batches) > 1:
        goes_on = f"{needed} is needed first" if needed else f"the run can go on without {batches[-1].name}"
        found.append(f"{len(batches)} batches are out; {goes_on}")
    if needed and run.batch_files(needed).has(CSV):
        found.append(f"next: alray label {run.uri} {_advice(run, run.batch_files(needed))[1]}")
    elif batches or not ended(run):
        found += [] if batches else sentences(run)
        found.append(f"next: alray run {run.at('config.json')}")
    else:
        why = why_stopped(run.round(done[-1]).metrics())
        found.append(f"the run is finished{f' early: {why}' if why else ''}; next: alray report {run.uri}")
    return found


def _waiting(run: RunDir, batch: OpenBatch, ledger: Ledger) -> list[str]:
    asked, names = len(batch.requests), batch.missing(ledger)
    missing = len(names)
    found = [f"waiting for labels, {batch.name}: {asked - missing:,} of {asked:,} images have an answer"]
    if not missing:
        found = [f"{batch.name}: all {asked:,} images have an answer, which the run takes when it goes on"]
    if 0 < missing < asked:
        found.append(f"without an answer: {', '.join(names[:_SHOWN])}{', ...' if missing > _SHOWN else ''}")
    files = run.batch_files(batch.name)
    if missing and files.has(CSV):
        return [*found, f"the batch is in {files.uri}: {_advice(run, files)[0]}"]
    note = files.read_bytes(NOTE).decode().splitlines() if missing and files.has(NOTE) else []
    return [*found, f"the batch: {files.uri}", *note]


def _advice(run: RunDir, files: Store) -> tuple[str, str]:
    """What people do with the files of a batch, and what they give then."""
    return advice_on(task_of(run.settings()).answers, CSV, SHEETS if files.has(SHEETS) else "")


def _test(batch: OpenBatch, run: RunDir, ledger: Ledger) -> str:
    """What an open test waits for."""
    asked, missing = len(batch.requests), len(batch.missing(ledger))
    where = run.batch_files(batch.name).uri
    return f"{batch.name}: {asked - missing:,} of {asked:,} drawn images have an answer; the batch: {where}"


def _money(run: RunDir, number: int) -> list[str]:
    """What the labels cost that were asked for up to a round, where labels have a price."""
    cost = run.settings().labels.cost
    if not cost:
        return []
    count = Standing.of(run, number).paid
    return [f"paid for by then: {count:,} labels at {cost:g} each, {count * cost:,.2f}"]


def _apart(run: RunDir) -> list[str]:
    """A sentence on the labels that are no part of the labeled set."""
    held_out, test = len(run.held_out()[0]), len(run.asked_test()[0])
    parts = [f"validation: {amount(held_out, 'label')}, counted apart"] if held_out else []
    parts += [f"test: {amount(test, 'label')} that people gave"] if test else []
    return ["; ".join(parts)] if parts else []


def _classes(run: RunDir) -> list[str]:
    """How many labels each class has, the most frequent first; the names alone for masks, or where the catalog is
    gone."""
    names, given = state.classes(run), dict[str, Answer]()
    with suppress(RunError):
        given = state.given(run)
    count = Counter(name for status, name in given.values() if status == Status.LABEL)
    if not count:
        return [f"classes: {some_classes(names, most=_CLASSES) or 'none so far'}"]
    few = sorted(names, key=lambda name: -count[name])
    empty = sum(not count[name] for name in names)
    more = ["those counted apart"] if run.split and _apart(run) else []
    more += ["those of drawn tests"] if any(key in given for key in _drawn(run)) else []
    apart = f" ({' and '.join(more)}, too)" if more else ""
    said = f"labels by class{apart}: {first_of([f'{short(name)}: {count[name]:,}' for name in few], most=_CLASSES)}"
    return [said + f"; {amount(empty, 'class', 'classes')} without a label" * (empty > 0 and len(names) > _CLASSES)]


def _drawn(run: RunDir) -> list[str]:
    """The keys of the images that were drawn for tests."""
    return [key for test in run.tests() if test.has_requests for key in test.draws()["key"].to_pylist()]


def _without_label(run: RunDir) -> list[str]:
    """What people said of images instead of a label."""
    said = Ledger(run.deliveries).answers()
    found = []
    for status, what in (
        (Status.SKIP, "skipped (a later round may ask for them again)"),
        (Status.UNUSABLE, "unusable (out of the pool)"),
    ):
        keys = [key for key, answer in said.items() if answer[0] == status]
        found += [f"{what}: {amount(len(keys), 'image')}, {first_of(keys, most=_SHOWN)}"] if keys else []
    return found


def _metrics(metrics: dict[str, Any]) -> str:
    test = metrics.get("test")
    accuracy = f", test top-1 {test['top1']:.3f}" if test else ", no test set"
    return f"last round: {metrics['round']} with {metrics['labels']:,} labels{accuracy}"
