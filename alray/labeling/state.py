"""Where a run stands, from its files alone: the open batch, the classes so far, and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from alray.data.oracle import Status
from alray.labeling.check import Answer
from alray.labeling.ledger import Ledger
from alray.reasons import first_of
from alray.rundir import BatchDir, Missing, RunDir, RunError
from alray.tasks import task_of


@dataclass(frozen=True)
class OpenBatch:
    """A batch that the run waits for. name: as in `Requests.batch`."""

    name: str
    place: BatchDir
    requests: pa.Table

    def missing(self, answers: Mapping[str, Answer]) -> list[str]:
        """The keys of the images without an answer, in their order."""
        return [key for key in self.requests["key"].to_pylist() if key not in answers]


def existing(uri: str) -> RunDir:
    """The run in a directory. Raises RunError if there is none."""
    run = RunDir(uri)
    if not run.exists:
        raise RunError(f"{uri}: expected the directory of a run, as a run prints it at its end, got none")
    return run


def open_batch(run: RunDir) -> OpenBatch | None:
    """The batch that was asked for and is not closed, by all answers or by somebody; None if there is none."""
    ledger = Ledger(run.deliveries)
    for name in run.open_batches():
        if ledger.closed(name):
            continue
        place = run.batch(name)
        return OpenBatch(name, place, place.requests())
    return None


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
    return f"no image has the class {first_of(gone)} any more; {keeps}, because labels were used with it" * bool(gone)


def given(run: RunDir) -> dict[str, Answer]:
    """The latest answer for every image that has one, by key: labels of the seed set, the validation set and the
    rounds, as later deliveries corrected them."""
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
    return found | Ledger(run.deliveries).answers()


def masks(run: RunDir, names: Sequence[str] | None = None) -> dict[str, str]:
    """The URI of the latest mask that people drew, by key. names: of the deliveries that count, all by default."""
    answers = Ledger(run.deliveries).answers(names).items()
    return {key: run.masks.at(name) for key, (status, name) in answers if status == Status.MASK and name}
