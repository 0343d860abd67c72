"""Draw images with known probabilities and ask for their labels, to estimate the accuracy of a run's model.

The population is the pool of the moment: the images without a label that are neither asked for nor drawn before. Its
accuracy is how well the model labels the rest. The drawn images leave the pool and are never trained on. A draw depends
on the seed of the run, the number of the test and the files of the run, so that a command that was killed draws the
same images again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from alray import lure
from alray.cluster import driver_takes_no_gpu
from alray.data.oracle import Requests
from alray.data.pool import Rows
from alray.explain.replay import Replay
from alray.features.arrays import Array
from alray.features.table import FeatureTable
from alray.joining import rejoin
from alray.labeling import drawn, state
from alray.labeling.desk import Desk, Waiting
from alray.labeling.registry import Setting, oracle_of
from alray.labeling.replay import taking_part
from alray.labeling.turns import past_turn
from alray.lease import lease
from alray.models.no_gpu import without_gpu
from alray.progress import Stages
from alray.rundir import DrawDir, RunDir, RunError
from alray.train.columns import Columns

Predict = Callable[[Rows], tuple[Array, Array]]


class DrawError(ValueError):
    """A test cannot be drawn, or there is nothing from which an accuracy could be estimated. The message says why."""


def _even(rows: Rows, predict: Predict) -> Array:
    return np.ones(len(rows))


def _by_expected_loss(rows: Rows, predict: Predict) -> Array:
    return lure.expected_loss(predict(rows)[1])


HOW: Mapping[str, Callable[[Rows, Predict], Array]] = {"random": _even, "active": _by_expected_loss}
"""How images are drawn -> their weights (n,). random: all alike. active: by the loss that the model expects (Kossen et
al. 2021), which needs fewer labels where the model knows when it may be wrong."""


def draw_test(run: RunDir, size: int, how: str) -> list[str]:
    """Draw `size` images and ask the run's oracle for their labels. Returns sentences: the estimate if the labels are
    there, else where the batch is. The same call again goes on with a test that has no labels yet.

    Raises DrawError if the run has no model, is in the middle of a round, has an open test of another kind, or has too
    few images; RunError if a start of the run is at work; OracleError.
    """
    with lease(run, busy=lambda holder: _refuse(run, holder)):
        if found := drawn.record(run):  # the last command was killed, or labels were corrected
            return [*found, "the same command again draws another test"]
        if not run.committed():
            raise DrawError(f"{run.uri}: expected a model to test, but no round is finished")
        replay = Replay(run)
        done = {test.number for test in drawn.tests(run)}
        number = next((at for at in range(len(run.tests())) if at not in done), len(run.tests()))
        place = run.test(number)
        if not place.drawn:
            with without_gpu(driver_takes_no_gpu(replay.config.resources)):
                _draw(replay, place, number, size, how)
        about = place.about()
        if (size, how) != (about["draws"], about["how"]):
            raise DrawError(
                f"test {number} is open, with {about['draws']:,} {about['how']} draws: answer it, or close it with "
                f"`alray label {run.uri} --close --batch 'test {number}'`, before another one is drawn"
            )
        return _ask(replay, place, number)


def _refuse(run: RunDir, holder: str) -> None:
    raise RunError(
        f"{run.uri}: a start of this run is at work, {holder}, and could choose the images that are drawn: wait for "
        "its end or stop it, then draw"
    )


def _draw(replay: Replay, place: DrawDir, number: int, size: int, how: str) -> None:
    run, committed = replay.run, replay.run.committed()
    begun = [other for other in run.rounds() if run.chosen_by(other) in (None, other)]  # not only chosen early
    if not committed or begun[-1] > committed[-1]:
        raise DrawError(f"{run.uri}: round {begun[-1]} is not finished: start the run's command again, then draw")
    last, out = committed[-1], run.round(committed[-1])
    pool = list(replay.steps())[-1].pool
    taken = [run.round(other).picks()["row"].to_numpy() for other in run.rounds() if run.chosen_by(other) is not None]
    rows = np.setdiff1d(pool.unlabeled, np.concatenate([np.empty(0, np.int64), *taken]))
    if not 2 <= size <= len(rows):
        raise DrawError(f"--test: expected from 2 to {len(rows):,} images, which have no label so far, got {size:,}")
    names = tuple(state.classes(run)[: out.begun()["classes"]])
    predict = predictor(replay, last, names)
    weights = HOW[how](rows, predict)
    chosen, q = lure.draw(rows, weights, size, replay.config.seed, f"test {number}")
    predicted, probability = predict(chosen)
    draws = pa.table(
        {
            "row": chosen, "key": replay.catalog.keys(chosen), "q": q,
            "predicted": pa.array([names[at] for at in predicted.tolist()], pa.string()), "probability": probability,
        }
    )  # fmt: skip
    first = last + (1 if out.chosen else 0)
    about = {
        "how": how, "draws": size, "population": len(rows), "round": last, "first_round": first,
        "model_labels": out.metrics()["labels"], "seed": replay.config.seed, "strategy": replay.config.strategy,
    }  # fmt: skip
    place.write_draws(about, draws)


def predictor(replay: Replay, number: int, classes: tuple[str, ...]) -> Predict:
    """What a round's model predicts: classes (n,) int32 and their probabilities (n,) for rows in any order. classes:
    those that the model knows."""
    config, out, stages = replay.config, replay.run.round(number), Stages(f"{replay.config.name} · test")
    catalog = replace(replay.catalog, classes=classes)
    joined = rejoin(replay.run, config, catalog, replay.pool_rows)
    columns = Columns(config, catalog, joined, replay.pool_rows)
    learn = replay.task.learner(config, catalog)(columns.with_backbone(stages), catalog, joined)
    if learn.head(out) is None:
        raise DrawError(f"{replay.run.uri}: expected a model that gives one class per image, got one for {config.task}")
    learn.begin(stages)
    table: FeatureTable | None = None

    def predict(rows: Rows) -> tuple[Array, Array]:
        nonlocal table
        if table is None or not np.isin(rows, table.rows).all():
            table = learn.embed(number, np.sort(rows), out, stages)
        predicted, probability = learn.predict(table, rows, out)
        assert predicted is not None
        assert probability is not None
        return predicted, probability

    return predict


def _ask(replay: Replay, place: DrawDir, number: int) -> list[str]:
    """Ask for the labels. People do not see what the model predicts, because it could sway them."""
    run, config = replay.run, replay.config
    rows = place.rows()
    requests = Requests.of(replay.catalog, rows, batch=f"test {number}")
    oracle = oracle_of(Setting(config, replay.catalog, replay.task, run))
    desk = Desk(run, oracle, config.labels, run.about()["classes"], poll=False, then="")
    try:
        closed = desk.ask(requests, ["test"] * len(requests))
    except Waiting as waiting:
        return str(waiting).splitlines()
    names = desk.classes()
    labels = [names[label] if known else "" for label, known in zip(closed.labels, closed.labeled, strict=True)]
    place.write_answers(
        pa.table({"key": pa.array(requests.keys, pa.string()), "status": closed.status, "label": labels})
    )
    return drawn.record(run)


def picks_estimate(run: RunDir, number: int = -1) -> str:
    """An estimate from the picks of a round, in words, if its strategy draws them with known probabilities. number: of
    the round; -1 for the last one whose picks have labels.

    Raises DrawError, which names the strategy, if it does not; also if the round's model did not see its picks.
    """
    replay = Replay(run)
    bought = {step.round: step for step in run.bought()}
    if number < 0:
        number = max((known for known in bought if known is not None), default=-1)
    if number not in bought:
        got = f"round {number}" if number >= 0 else "none"
        raise DrawError(f"{run.uri}: expected a round that bought labels, got {got}")
    step, picks = bought[number], run.round(number).picks()["row"].to_numpy()
    pool = next(one.pool for one in replay.steps() if one.kind == "said" and one.number == number)
    offered = len(taking_part(replay.config, run, pool, past_turn(run, number)[0])[1])
    name = replay.config.strategy
    q = None if replay.strategy is None else replay.strategy.probabilities(offered, len(picks))
    if q is None:
        raise DrawError(
            f"strategy {name}: its picks are not drawn with known probabilities, so an accuracy on them is biased and "
            f"nobody knows how much; `alray label {run.uri} --test N` draws images from which it can be estimated"
        )
    if step.predicted is None:
        raise DrawError(
            f"round {number}: its model made no predictions for its picks; `alray label {run.uri} --test N` draws some"
        )
    at = {row: place for place, row in enumerate(step.rows.tolist())}
    where = np.array([at.get(row, -1) for row in picks.tolist()])
    right = (step.predicted == step.labels)[where]
    found = lure.estimate(q, offered, right, where >= 0)
    return (
        f"picks of round {number}: the accuracy of its model is {found.accuracy:.4f} (95 % interval {found.low:.4f} to "
        f"{found.high:.4f}) on {drawn.population(offered)}, estimated without bias from {len(picks):,} picks of {name}"
    )


def estimates(run: RunDir) -> list[str]:
    """The sentences of all closed tests. Raises DrawError if there are none."""
    found = [test.sentence for test in drawn.tests(run)]
    if not found:
        waiting = [batch.name for batch in state.open_batches(run) if batch.is_test]
        more = f"; {', '.join(waiting)} waits for answers: `alray label {run.uri} FILE` gives them" if waiting else ""
        raise DrawError(
            f"{run.uri}: expected a test with labels, got none{more}; `alray label {run.uri} --test N` draws one, and "
            "--picks uses the picks of a strategy that draws at random"
        )
    return found
