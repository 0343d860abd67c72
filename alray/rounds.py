"""The loop of active learning (contract C6).

Each round trains on the labeled images, embeds the unlabeled ones, lets every shard propose rows, chooses among them on
the driver, asks the oracle for their labels, and writes all of it down.

A round is a directory, round_NN. A stage whose files exist is skipped; files are written atomically. metrics.json is
written last and commits the round. A run that was killed and started again makes the same picks.

Batch k is in round_kk, whichever round chooses it. Round n chooses batch n; with labels.overlap it chooses batch n + 1,
too, while batch n is out (see `alray.labeling.turns`). The next start enters the first round n that lacks one of the
files metrics.json and labels.parquet (the last round has no labels). Where it goes on depends on what is there:

| the last file that is there | what the start does |
|---|---|
| nothing of the round but, with an overlap, batch n | notes in begun.json which answers count: none to batch n |
| round_nn/begun.json | trains on the labels of batches 0 to n - 1; embeds; evaluates |
| round_nn/checkpoint, features | chooses the round's first batch k that has no picks; earlier batches are pending |
| round_kk/selection.json (model, pending rows) | chooses batch k again: the same rows |
| round_kk/picks.parquet | writes the requests of batch k, with the predictions of this round's model |
| round_kk/batch/requests.parquet | gives them to the oracle, keeps what it answers, and chooses the next batch |
| the same of all batches of the round | asks for what batch n still lacks; waits for people if they have to answer |
| round_nn/metrics.json, no labels.parquet | the same: the metrics were written for people to see before the wait |
| all answers to batch n, or its --close | writes left_out.json and labels.parquet; answers to batch n + 1 stay unused |
| round_nn/labels.parquet | writes metrics.json, which commits the round |

Only one start of a run is at work at a time: it holds the lease of the run directory (`alray.lease`) from before its
first write to its end. A run that is finished is only read, which needs no lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from alray.cluster import driver_takes_no_gpu
from alray.config import RunConfig
from alray.data.oracle import Oracle, OracleError, Requests
from alray.data.pool import Pool
from alray.features.table import FeatureTable
from alray.labeling.replay import after, corrected, corrected_test, without_drawn
from alray.labeling.state import masks
from alray.labeling.turns import out_before, turn_at, turns_of
from alray.lease import lease
from alray.models.no_gpu import without_gpu
from alray.prepare import Checked, Prepared, begin, check
from alray.progress import Stages
from alray.provenance import content_notes, find_run
from alray.query import Query
from alray.rundir import FEATURES_DIR, RoundDir, RunDir, RunError
from alray.scalars import lines_written, write_scalars, write_tensorboard
from alray.selection.protocol import Picks, Strategy
from alray.stop import Reason, Standing, Stop, paid, why_stopped
from alray.tracking import TrackingError, track
from alray.train.evaluate import labeled_set_metrics
from alray.train.summary import TrainSummary
from alray.watch import to_ray, watchers

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its directory, and the metrics of each round."""

    dir: str
    rounds: Sequence[dict[str, Any]]


def run(
    config: RunConfig,
    *,
    oracle: Oracle | None = None,
    strategy: Strategy | None = None,
    quiet: bool = False,
    on_round: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> RunResult:
    """Run active learning to its end, or continue where an earlier start of the same configuration stopped. The end is
    the last round, or an earlier one with which a rule of config.stop ends the run (`alray.stop`).

    oracle: gives the labels (default: those of the source); strategy: your own object instead of config.strategy.
    quiet: print nothing. on_round: called with the metrics of every round, also of rounds that an earlier start
    committed. Raises a ValueError (ConfigError, CatalogError, SplitError, RunError, SelectionError ...) before anything
    expensive starts; OracleError, TrainError, ClusterError and ImageError where they occur. RunError also if another
    start of this run is at work; LeaseLost if this process stood still so long that another start went on in its place.
    """
    found = check(config, strategy, oracle)
    folder = find_run(found.config, found.catalog)
    told = [] if folder.exists else found.source
    notes = [*told, *filter(None, [found.notes]), *content_notes(found.config, found.catalog, folder)]
    if notes and not quiet:
        print("\n".join(notes), flush=True)
    end = _finished(folder, Stop(config))
    if end is not None and _complete(folder, end + 1):
        for number in range(end + 1):
            on_round(folder.round(number).metrics())
    else:

        def waiting(holder: str) -> None:
            if not quiet:
                print(
                    f"{config.name} · {folder.uri}: waiting to see whether {holder} is still at work there", flush=True
                )

        no_gpu = without_gpu(driver_takes_no_gpu(config.resources))
        with no_gpu, lease(folder, waiting, busy=lambda holder: _refuse(folder, holder)):
            end = _rounds(found, oracle, quiet, on_round)
    return RunResult(folder.uri, [folder.round(number).metrics() for number in range(end + 1)])


def _refuse(folder: RunDir, holder: str) -> None:
    raise RunError(
        f"{folder.uri}: another start of this run is at work, {holder}; wait for its end, then start again to read the "
        "result or to continue"
    )


def _finished(folder: RunDir, stop: Stop) -> int | None:
    """The number of the round with which the run ended; None if it has not ended."""
    end = stop.end(folder) if folder.exists else None
    return end if end is not None and all(folder.round(number).labeled for number in range(end)) else None


def _rounds(found: Checked, oracle: Oracle | None, quiet: bool, on_round: Callable[[dict[str, Any]], None]) -> int:
    """Make the rounds that are not committed. Returns the number of the round with which the run ends. The caller holds
    the lease of the run directory."""
    config = found.config
    ready = begin(found, oracle, lambda line: None if quiet else print(line, flush=True))
    if not quiet:
        from alray.planning.plan import plan_once  # imports torch: a wrong path is told before

        plan_once(found, ready.run, lambda line: print(f"{config.name} · {line}", flush=True))
    if not _complete(ready.run, config.rounds):
        _write_tables(config, ready.run, sum(ready.run.round(number).committed for number in range(config.rounds)))
    pool, stop = ready.pool, Stop(config)
    query: Query | None = None
    previous: RoundDir | None = None
    bought, seen, last = 0, list[Standing](), False
    for number in range(config.rounds):
        out = ready.run.round(number)
        pool = without_drawn(pool, ready.run, number)
        last = out.committed and stop.ends([*seen, Standing.of(ready.run, number)])
        if not (last or (out.committed and out.labeled)):
            stages = _stages(config, ready.run, number, out, quiet)
            query = query or Query(ready, stages)
            pool = query.seed_set(pool, stages)
            ready, pool = _with_what_people_said(ready, pool, number)
            query.take(ready)
            start = previous if config.train.warm_start else None
            summary = query.learn.train(number, pool, out, start, stages)
            now = Standing(len(pool.labeled), paid(ready.run, len(pool.labeled), number), summary.val_accuracy)
            stop.check_round(now)
            last, why = stop.ends([*seen, now]), stop.reason([*seen, now])
            turns = () if last else turns_of(ready.run, config, number)
            table = query.learn.embed(number, query.rows_to_embed(pool, turns, stages), out, stages)
            metrics = _evaluate(query, pool, bought, table, summary, number, out, stages) | _stopped(why)
            for turn in turns:
                turn = turn_at(ready.run, number, turn.batch)
                query.picks(pool, table, query.learn.head(out), turn, stop.batch(now), stages)
                if config.labels.overlap:
                    _hand_out(query, _requests(query, table, turn.batch, out), stages)
            if not last:
                commit = partial(_commit, ready, metrics, out, None, stages, number)
                _ask(query, _requests(query, table, number, out), out, stages, before_waiting=commit)
            _commit(ready, metrics, out, previous, stages, number)
        on_round(out.metrics())
        if last:
            break
        seen.append(Standing.of(ready.run, number))
        pool = after(pool, out)
        bought += len(out.labels()[0])
        previous = out
    ready.run.forget_now()
    return number


def _stopped(why: Reason | None) -> dict[str, Any]:
    """What the metrics of a round say of the rule that ended the run with it."""
    return {} if why is None else {"stopped": asdict(why)}


def _with_what_people_said(ready: Prepared, pool: Pool, number: int) -> tuple[Prepared, Pool]:
    """The run and the pool as a round begins: with the classes and masks that came, and with corrections."""
    out = ready.run.round(number)
    classes = ready.desk.begin(out)
    counted = out.begun()["deliveries"]
    said, drawn = ready.desk.ledger.answers(counted), masks(ready.run, counted)
    if ready.task.classes_can_come:
        pool = pool.with_classes(len(classes))
    else:
        classes = ready.catalog.classes
    if (classes, drawn) != (ready.catalog.classes, ready.catalog.masks):
        ready = replace(ready, catalog=replace(ready.catalog, classes=classes, masks=drawn))
    pool = corrected(pool, ready.catalog, said, classes, out_before(ready.run, number))
    test_rows, test_labels = corrected_test(ready.test_rows, ready.test_labels, ready.catalog, said, classes)
    ready = replace(ready, test_rows=test_rows, test_labels=test_labels)
    if not len(pool.labeled):
        raise OracleError(f"{out.uri}: expected labels to train on, got none: nobody gave a label so far")
    return ready, pool


def _stages(config: RunConfig, run: RunDir, number: int, out: RoundDir, quiet: bool) -> Stages:
    watch = watchers(run)
    return Stages(config.name, number, config.rounds, quiet, out.timings(), out.restarts(), out.write_timings, watch)


def _evaluate(
    query: Query,
    pool: Pool,
    bought: int,
    table: FeatureTable | None,
    summary: TrainSummary,
    number: int,
    out: RoundDir,
    stages: Stages,
) -> dict[str, Any]:
    ready, learn = query.ready, query.learn
    with stages.stage("evaluate", f"{len(ready.test_rows):,} test images"):
        test = None
        if len(ready.test_rows):
            test = learn.evaluate(table, ready.test_rows, ready.test_labels, out, stages)
        counts = learn.class_counts(pool)
        validation = None
        if summary.val_accuracy is not None:
            validation = {"top1": summary.val_accuracy, "best_epoch": summary.best_epoch, "epochs": summary.epochs}
        return {
            "round": number,
            "strategy": ready.config.strategy,
            "labels": len(pool.labeled),
            "labels_bought": bought,
            "validation_labels": len(pool.held_out),
            "unlabeled": len(pool.unlabeled),
            "test": test,
            "validation": validation,
            "labeled_set": labeled_set_metrics(counts.tolist(), ready.pool_counts),
        }


def _requests(query: Query, table: FeatureTable | None, batch: int, out: RoundDir) -> Requests:
    """What is asked for in a batch, as it was written down; else with the predictions of the round that chooses it."""
    ready = query.ready
    written = ready.desk.requests(batch)
    if written is not None:
        return written
    picks = Picks.from_table(ready.run.round(batch).picks())
    return Requests.of(
        ready.catalog, picks.rows, batch, *query.learn.predict(table, picks.rows, out), score=picks.scores
    )


def _hand_out(query: Query, requests: Requests, stages: Stages) -> None:
    with stages.stage("label", f"giving out {len(requests):,} images to be labeled, {requests.batch}"):
        query.ready.desk.hand_out(requests, [requests.batch] * len(requests))


def _ask(query: Query, requests: Requests, out: RoundDir, stages: Stages, before_waiting: Callable[[], None]) -> None:
    """Get the labels of the round's batch. before_waiting: called before the run waits for people, who can then see how
    good the model is by now."""
    if out.labeled:
        return
    with stages.stage("label", f"asking the oracle for {len(requests):,} labels"):
        closed = query.ready.desk.ask(requests, [requests.batch] * len(requests), before_waiting)
        out.write_left_out(closed.unusable, closed.skipped)
        known, seen = closed.labeled, (requests.predicted >= 0).all()  # an image with a mask has many classes
        said = [column[known] for column in (requests.predicted, requests.probability) if seen]
        out.write_labels(closed.rows[known], closed.labels[known], *said)


def _commit(
    ready: Prepared, metrics: dict[str, Any], out: RoundDir, previous: RoundDir | None, stages: Stages, number: int
) -> None:
    restarts = {"restarts": stages.restarts} if stages.restarts else {}
    out.write_metrics({**metrics, "seconds": stages.seconds, **restarts})
    _write_tables(ready.config, ready.run, number + 1)
    if ready.config.features.keep == "last" and previous is not None:
        previous.delete(FEATURES_DIR)
    to_ray(ready.config.name, "done", "", {"alray_stage": 1.0, "alray_labels": metrics["labels"]})
    stages.print_line(_line(metrics, stages.seconds))
    if why := why_stopped(metrics):
        stages.print_line(f"the run ends · {why}")


def _write_tables(config: RunConfig, run: RunDir, rounds: int) -> None:
    """Write the numbers of the first rounds for other programs, metrics.csv last: `_complete` looks at it."""
    metrics = [run.round(number).metrics() for number in range(rounds)]
    write_tensorboard(run, metrics)
    try:
        track(config, run, metrics)
    except TrackingError as error:  # the next round logs what is missing
        _log.warning("%s", error)
    write_scalars(run, metrics)


def _complete(run: RunDir, rounds: int) -> bool:
    """Whether metrics.csv has a line for each of the first rounds that is committed. It has one too few after a start
    that was killed between the commit of a round and its tables."""
    committed = sum(run.round(number).committed for number in range(rounds))
    return lines_written(run) >= committed


def _line(metrics: dict[str, Any], seconds: dict[str, float]) -> str:
    test, labeled = metrics["test"], metrics["labeled_set"]
    accuracy = f"top-1 {test['top1']:.3f} · balanced {test['balanced_accuracy']:.3f} · " if test else ""
    union = f"mIoU {test['miou']:.3f} · " if test and "miou" in test else ""
    return (
        f"done · {metrics['labels']:,} labels · {accuracy}{union}class entropy {labeled['normalised_entropy']:.3f} · "
        f"{labeled['empty_classes']} empty classes · {sum(seconds.values()):.1f} s"
    )
