"""Where a run stands, from its files alone: the open batch, the classes so far, and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from alray.data.oracle import Status
from alray.labeling.check import Answer
from alray.labeling.ledger import Ledger
from alray.reasons import some_classes
from alray.rounddir import given_after
from alray.rundir import BatchDir, DrawDir, Missing, RunDir, RunError
from alray.tasks import task_of


@dataclass(frozen=True)
class OpenBatch:
    """A batch that the run waits for. name: as in `Requests.batch`."""

    name: str
    place: BatchDir
    requests: pa.Table

    @property
    def is_test(self) -> bool:
        """Whether it was drawn to estimate an accuracy, so that the run does not wait for it."""
        return self.place.is_test

    def answers(self, ledger: Ledger) -> dict[str, Answer]:
        """The latest answers to the batch by key. A skip of an earlier batch is none."""
        said = ledger.answers(after=given_after(self.requests))
        return {key: said[key] for key in self.requests["key"].to_pylist() if key in said}

    def missing(self, ledger: Ledger) -> list[str]:
        """The keys of the images without an answer, in their order."""
        answers = self.answers(ledger)
        return [key for key in self.requests["key"].to_pylist() if key not in answers]


def existing(uri: str) -> RunDir:
    """The run in a directory. Raises RunError if there is none."""
    run = RunDir(uri.rstrip("/") or uri)
    if not run.exists:
        raise RunError(f"{uri}: expected the directory of a run, as a run prints it at its end, got none")
    return run


def open_batches(run: RunDir) -> list[OpenBatch]:
    """The batches that are out and that nobody closed: first those that the run waits for, the one that it needs first
    at the beginning, then those of tests without an answer for each image. There are two of the first kind with
    labels.overlap. Such a batch with all answers stays open until the run has taken them."""
    ledger = Ledger(run.deliveries)
    places = {name: run.batch(name) for name in run.open_batches() if not ledger.closed(name)}
    found = [OpenBatch(name, place, place.requests()) for name, place in places.items()]
    return [
        *(batch for batch in found if not batch.is_test),
        *(batch for batch in found if batch.is_test and batch.missing(ledger)),
    ]


def open_batch(run: RunDir) -> OpenBatch | None:
    """The batch that the run needs first; None if somebody closed it, or if none is out."""
    first = next((name for name in run.open_batches() if not run.batch(name).is_test), None)
    return next((batch for batch in open_batches(run) if batch.name == first), None)


def needed(run: RunDir) -> str:
    """The name of the batch for which the run waits; empty if it can go on."""
    batch = open_batch(run)
    return batch.name if batch and batch.missing(Ledger(run.deliveries)) else ""


def classes(run: RunDir) -> list[str]:
    """The names of the classes: those with which the run began, then those that came with labels."""
    return list(Ledger(run.deliveries).classes(numbered(run)))


def numbered(run: RunDir) -> tuple[str, ...]:
    """The names of the classes whose numbers are in use, so that no correction moves them."""
    return (*run.about()["classes"], *run.new_classes())


def without_image(run: RunDir) -> str:
    """A sentence on classes that came with labels and were corrected away after a round was trained with them; empty if
    there are none, or if the catalog is gone."""
    held = set(run.new_classes())
    with suppress(RunError):
        held = {name for _, name in given(run).values()} if held else held
    gone = [name for name in run.new_classes() if name not in held]
    keeps = "it keeps its place" if len(gone) == 1 else "they keep their places"
    if not gone:
        return ""
    return f"no image has the class {some_classes(gone)} any more; {keeps}, because labels were used with it"


def given(run: RunDir) -> dict[str, Answer]:
    """The latest answer for every image that has one, by key: labels of the seed set, the validation set and the
    rounds and of tests, as later deliveries corrected them."""
    names, found, kind = classes(run), dict[str, Answer](), task_of(run.settings()).answers
    parts = [run.held_out(), run.seed(), run.asked_test()] if run.split else []
    start = run.cold_start()
    parts += [(start.rows, start.labels)] if start else []
    parts += [run.round(number).labels() for number in run.rounds() if run.round(number).labeled]
    try:
        catalog = run.catalog()
    except Missing as missing:
        raise RunError(f"{run.uri}: {missing}") from None
    for rows, labels in parts:
        keys = catalog.keys(rows).to_pylist()
        known = [names[label] if kind == Status.LABEL else "" for label in labels.tolist()]
        found |= {key: (kind, name) for key, name in zip(keys, known, strict=True)}
    for test in run.tests():
        found |= drawn_answers(test)
    return found | Ledger(run.deliveries).answers()


def drawn_answers(test: DrawDir) -> dict[str, Answer]:
    """The answers to a test that an oracle gave all at once, by key; those of people are in the ledger."""
    table = test.answers()
    lines = [] if table is None else table.to_pylist()
    return {line["key"]: (Status(line["status"]), line["label"]) for line in lines}


def masks(run: RunDir, names: Sequence[str] | None = None) -> dict[str, str]:
    """The URI of the latest mask that people drew, by key. names: of the deliveries that count, all by default."""
    answers = Ledger(run.deliveries).answers(names).items()
    return {key: run.masks.at(name) for key, (status, name) in answers if status == Status.MASK and name}
