"""The loop of active learning (contract C6).

Each round trains on the labeled images, embeds the unlabeled ones, lets every shard propose rows, chooses among them on
the driver, asks the oracle for their labels, and writes all of it down.

A round is a directory, round_NN. A stage whose files exist is skipped; files are written atomically. metrics.json is
written last and commits the round. A run that was killed and started again makes the same picks.

Only one start of a run is at work at a time: it holds the lease of the run directory (`alray.lease`) from before its
first write to its end. A run that is finished is only read, which needs no lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from alray.config import RunConfig, refuse_credentials
from alray.data.oracle import Oracle, OracleError, Requests
from alray.data.pool import Pool
from alray.features.table import FeatureTable
from alray.labeling.replay import after, corrected, corrected_test
from alray.labeling.state import masks
from alray.lease import lease
from alray.models.device import without_gpu
from alray.planning.plan import plan_once
from alray.prepare import Checked, Prepared, begin, check
from alray.progress import Stages
from alray.provenance import content_notes, find_run
from alray.query import Query
from alray.rundir import FEATURES_DIR, RoundDir, RunDir, RunError
from alray.scalars import lines_written, write_scalars, write_tensorboard
from alray.selection.protocol import Picks, Strategy
from alray.tracking import TrackingError, check_mlflow, track
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
    """Run active learning to its last round, or continue where an earlier start of the same configuration stopped.

    oracle: gives the labels (default: those of the source); strategy: your own object instead of config.strategy.
    quiet: print nothing. on_round: called with the metrics of every round, also of rounds that an earlier start
    committed. Raises a ValueError (ConfigError, CatalogError, SplitError, RunError, SelectionError ...) before anything
    expensive starts; OracleError, TrainError, ClusterError and ImageError where they occur. RunError also if another
    start of this run is at work; LeaseLost if this process stood still so long that another start went on in its place.
    """
    if config.mlflow:
        refuse_credentials({"mlflow": config.mlflow})
        check_mlflow(config.mlflow)
    found = check(config, strategy, oracle)
    folder = find_run(found.config, found.catalog)
    notes = [*filter(None, [found.notes]), *content_notes(found.config, found.catalog, folder)]
    if notes and not quiet:
        print("\n".join(notes), flush=True)
    if _finished(folder, config.rounds) and _complete(folder, config.rounds):
        for number in range(config.rounds):
            on_round(folder.round(number).metrics())
    else:

        def waiting(holder: str) -> None:
            if not quiet:
                print(
                    f"{config.name} · {folder.uri}: waiting to see whether {holder} is still at work there", flush=True
                )

        no_gpu = without_gpu(config.resources.use_gpu == "no")
        with no_gpu, lease(folder, waiting, busy=lambda holder: _refuse(folder, holder)):
            _rounds(found, oracle, quiet, on_round)
    return RunResult(folder.uri, [folder.round(number).metrics() for number in range(config.rounds)])


def _refuse(folder: RunDir, holder: str) -> None:
    raise RunError(
        f"{folder.uri}: another start of this run is at work, {holder}; wait for its end, then start again to read the "
        "result or to continue"
    )


def _finished(folder: RunDir, rounds: int) -> bool:
    return folder.exists and all(_committed(folder.round(number), number == rounds - 1) for number in range(rounds))


def _rounds(found: Checked, oracle: Oracle | None, quiet: bool, on_round: Callable[[dict[str, Any]], None]) -> None:
    """Make the rounds that are not committed. The caller holds the lease of the run directory."""
    config = found.config
    ready = begin(found, oracle, lambda line: None if quiet else print(line, flush=True))
    if not quiet:
        plan_once(found, ready.run, lambda line: print(f"{config.name} · {line}", flush=True))
    if not _complete(ready.run, config.rounds):
        _write_tables(config, ready.run, sum(ready.run.round(number).committed for number in range(config.rounds)))
    pool = ready.pool
    query: Query | None = None
    previous: RoundDir | None = None
    bought = 0
    for number in range(config.rounds):
        out = ready.run.round(number)
        last = number == config.rounds - 1
        if not _committed(out, last):
            stages = _stages(config, ready.run, number, out, quiet)
            query = query or Query(ready, stages)
            pool = query.seed_set(pool, stages)
            ready, pool = _with_what_people_said(ready, pool, out)
            query.take(ready)
            start = previous if config.train.warm_start else None
            summary = query.learn.train(number, pool, out, start, stages)
            rows = query.rows_to_embed(pool, number, last, stages)
            table = query.learn.embed(number, rows, out, stages)
            metrics = _evaluate(query, pool, bought, table, summary, number, out, stages)
            if not last:
                picks = query.picks(pool, table, query.learn.head(out), number, out, stages)
                commit = partial(_commit, ready, metrics, out, None, stages, number)
                _ask(query, table, picks, number, out, stages, before_waiting=commit)
            _commit(ready, metrics, out, previous, stages, number)
        on_round(out.metrics())
        if not last:
            pool = after(pool, out)
            bought += len(out.labels()[0])
        previous = out


def _with_what_people_said(ready: Prepared, pool: Pool, out: RoundDir) -> tuple[Prepared, Pool]:
    """The run and the pool as a round begins: with the classes and masks that came, and with corrections."""
    classes = ready.desk.begin(out)
    counted = out.begun()["deliveries"]
    said, drawn = ready.desk.ledger.answers(counted), masks(ready.run, counted)
    if ready.task.classes_can_come:
        pool = pool.with_classes(len(classes))
    else:
        classes = ready.catalog.classes
    if (classes, drawn) != (ready.catalog.classes, ready.catalog.masks):
        ready = replace(ready, catalog=replace(ready.catalog, classes=classes, masks=drawn))
    pool = corrected(pool, ready.catalog, said, classes)
    test_rows, test_labels = corrected_test(ready.test_rows, ready.test_labels, ready.catalog, said, classes)
    ready = replace(ready, test_rows=test_rows, test_labels=test_labels)
    if not len(pool.labeled):
        raise OracleError(f"{out.uri}: expected labels to train on, got none: nobody gave a label so far")
    return ready, pool


def _committed(out: RoundDir, last: bool) -> bool:
    """Whether the round is finished. A run that is continued with more rounds enters its former last round again, to
    buy that round's labels."""
    return out.committed and (last or out.labeled)


def _stages(config: RunConfig, run: RunDir, number: int, out: RoundDir, quiet: bool) -> Stages:
    watch = watchers(run)
    return Stages(config.name, number, config.rounds, quiet, out.timings(), out.write_timings, watch)


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


def _ask(
    query: Query,
    table: FeatureTable | None,
    picks: Picks,
    number: int,
    out: RoundDir,
    stages: Stages,
    before_waiting: Callable[[], None],
) -> None:
    """Get the labels of the picks. before_waiting: called before the run waits for people, who can then see how good
    the model is by now."""
    if out.labeled:
        return
    with stages.stage("label", f"asking the oracle for {len(picks.rows):,} labels"):
        predicted = query.learn.predict(table, picks.rows, out)
        requests = Requests.of(query.ready.catalog, picks.rows, number, *predicted, picks.scores)
        closed = query.ready.desk.ask(requests, [requests.batch] * len(requests), before_waiting)
        out.write_left_out(closed.unusable, closed.skipped)
        known = closed.labeled
        said = (None if column is None else column[known] for column in predicted)
        out.write_labels(closed.rows[known], closed.labels[known], *said)


def _commit(
    ready: Prepared, metrics: dict[str, Any], out: RoundDir, previous: RoundDir | None, stages: Stages, number: int
) -> None:
    out.write_metrics({**metrics, "seconds": stages.seconds})
    _write_tables(ready.config, ready.run, number + 1)
    if ready.config.features.keep == "last" and previous is not None:
        previous.delete(FEATURES_DIR)
    to_ray(ready.config.name, "done", "", {"alray_labels": metrics["labels"]})
    stages.print_line(_line(metrics, stages.seconds))


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
