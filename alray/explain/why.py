"""Sentences on one image of a run: where it stands, and for each round why it was picked or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alray.data.oracle import SEED_SET
from alray.data.pool import ELSEWHERE, HELD_OUT, LABELED, UNLABELED, Pool
from alray.explain.images import find
from alray.explain.replay import Replay, Step
from alray.labeling import state
from alray.labeling.ledger import Ledger
from alray.labeling.replay import taking_part
from alray.labeling.turns import Turn, past_turn
from alray.pool_rows import parts_of
from alray.reasons import short
from alray.rundir import RunDir, RunError
from alray.selection.case import Case


def why(run: RunDir, name: str, number: int = -1) -> list[str]:
    """Sentences on the image with this key (or URI, or end of its path), on all rounds that could pick it or on one.

    number: of the round; -1 for all. Raises UnknownImage; RunError if the run has no such round, or if its catalog is
    gone.
    """
    replay = Replay(run)
    chosen = [one for one in run.rounds() if run.round(one).chosen]
    if number >= 0 and number not in chosen:
        have = f"one of the rounds with picks, {chosen[0]} to {chosen[-1]}" if chosen else "a run with picks"
        raise RunError(f"{run.uri}: expected {have}, got round {number}")
    row = find(replay.catalog, name)
    uri = replay.catalog.references(np.array([row]))["uri"][0].as_py()
    steps = list(replay.steps())
    found = [f"{replay.key(row)} · row {row} · {uri}", *_story(replay, steps, row)]
    pools = {step.number: step.pool for step in steps if step.kind == "said"}
    for one in chosen:
        turn, _ = past_turn(run, one)
        if turn.model in pools and number in (-1, one):
            found += _in_round(replay, one, turn, pools[turn.model], row, asked=number >= 0)
    return found


def _story(replay: Replay, steps: list[Step], row: int) -> Iterator[str]:
    """How the image came where it is."""
    before = -1, -1
    for step in steps:
        now = int(step.pool.status[row]), int(step.pool.known[row])
        if now != before:
            yield _change(replay, step, row, before[0])
        before = now
    key, ledger = replay.key(row), Ledger(replay.run.deliveries)
    asked = [batch for batch in state.open_batches(replay.run) if key in batch.requests["key"].to_pylist()]
    for batch in asked:
        if key in batch.missing(ledger):
            yield f"Its label is awaited: people are asked for it with {batch.name}."
        else:
            yield f"People have answered for it with {batch.name}; the run takes the answer when it goes on."
    if before[0] == UNLABELED and not asked:
        yield "It has no label so far."


def _change(replay: Replay, step: Step, row: int, before: int) -> str:
    status, named = step.pool.status[row], _named(replay, step.pool, row)
    if step.kind == "start":
        return {
            LABELED: f"It belongs to the seed set{named}.",
            HELD_OUT: f"It belongs to the validation set{named}, so it is never picked.",
            UNLABELED: "It belongs to the pool.",
            ELSEWHERE: _elsewhere(replay, row),
        }[status]
    if step.kind == "bought":
        if status == ELSEWHERE:
            return f"Round {step.number} picked it, and people called it unusable."
        return f"It is labeled since round {step.number}, which picked it{named}."
    if step.kind == "drawn":
        return f"It was drawn for a test before round {step.number} chose its batch, so it is never picked."
    if status == ELSEWHERE:
        return f"People called it unusable before round {step.number}."
    if before == UNLABELED:
        return f"It is labeled since round {step.number}{named}: people gave the label although nobody had asked."
    return f"People corrected its label before round {step.number}{named}."


def _named(replay: Replay, pool: Pool, row: int) -> str:
    """ ", with the label cat", where an image has one class."""
    label = int(pool.known[row])
    return f", with the label {short(replay.classes[label])}" if replay.task.class_per_image and label >= 0 else ""


def _elsewhere(replay: Replay, row: int) -> str:
    """Why an image is not in the pool."""
    if replay.catalog.is_test()[row]:
        return "It is a test image, so it is never picked."
    if row in replay.run.batch(SEED_SET).left_out("unusable"):
        return "People called it unusable when it was chosen for the seed set."
    try:
        _, parts, _ = parts_of(replay.config, replay.catalog, replay.task)
    except (ValueError, OSError):  # a list of images that is no longer there
        return "It is not in the pool of this run."
    if row in parts.test:
        by = "named by split.test_list" if row in parts.listed else "drawn by split.test_share"
        return f"It is a test image, {by}, so it is never picked."
    if row in parts.validation:
        return "It is in the given validation set, but has no label."
    if row not in parts.pool:
        return "It is not in the pool: data.train_list or data.unlabeled leave it out."
    return "It is not in the pool: people called it unusable, or data.imbalance leaves it out."


def _in_round(replay: Replay, number: int, turn: Turn, pool: Pool, row: int, asked: bool) -> list[str]:
    """A title and the reasons of a round; nothing if the round could not pick it, unless that was asked for. pool: as
    the round began whose model chose."""
    ahead = f" with the model of round {turn.model}" if turn.model != number else ""
    title = f"Round {number}, by {replay.config.strategy}{ahead}"
    if pool.status[row] != UNLABELED:
        return [f"{title}: it could not be picked any more."] if asked else []
    if row in turn.pending:
        return [f"{title}: it was picked before, and its label was awaited."] if asked else []
    out = replay.run.round(number)
    case = replay.case(number, pool, row)
    if case.rank is None and row in replay.run.skipped_before(turn.model):
        return [f"{title}: not offered, because people had skipped it in the round before."]
    if case.rank is None and row not in taking_part(replay.config, replay.run, pool, turn)[1]:
        return [f"{title}: it was not among the images that subset_unlabeled drew."]
    verdict = "not picked" if case.rank is None else "picked"
    if case.rank is not None and not out.labeled:
        verdict += ", and its label is awaited"
    elif case.rank is not None and row in out.left_out("skipped"):
        verdict += ", and people skipped it"
    return [f"{title}: {verdict}.", *(f"  {line}" for line in reasons(replay, case))]


def reasons(replay: Replay, case: Case) -> list[str]:
    """The reasons of the run's strategy."""
    if replay.strategy is None:
        return [*case.standing(), "The strategy is an object of your own, which the run's files do not hold."]
    gone = []
    if case.columns is None and replay.reads_features:
        gone = ["The features of this round were deleted (features.keep=all keeps them), so less is known."]
    return [*replay.strategy.reasons(case), *gone]
