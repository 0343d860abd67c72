"""Tests of a run: images that were drawn with known probabilities, and the accuracies that their labels give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from alray.data.oracle import Status
from alray.labeling.check import Answer
from alray.labeling.ledger import Ledger
from alray.labeling.state import drawn_answers
from alray.lure import Estimate, estimate
from alray.rundir import DrawDir, RunDir


@dataclass(frozen=True)
class Tested:
    """A test that is closed. number: its number; result: the estimate, None if nobody gave a label."""

    number: int
    place: DrawDir
    result: Estimate | None

    @property
    def sentence(self) -> str:
        """The estimate in words, with its population and what it is compared with."""
        about, found = self.place.about(), self.result
        if found is None:
            return f"test {self.number}: nothing can be estimated, because no drawn image got a label"
        how = f"Estimated from {found.draws:,} {about['how']} draws"
        if about["how"] != "random":  # random draws all have the weight 1
            how += (
                ", each weighted by how likely it was to be drawn (LURE, Farquhar et al. 2021), which makes up for the "
                f"preference of the draw; without weights, {found.unweighted:.4f} of their answers are right"
            )
        said = (
            f"test {self.number}: the accuracy of round {about['round']}'s model is {found.accuracy:.4f} (95 % "
            f"interval {found.low:.4f} to {found.high:.4f}) on {population(found.population)}. {how}."
        )
        if found.answered == found.draws:
            return said
        return f"{said} Only {found.answered:,} draws have a label: it is the accuracy on images that people can label."


def population(number: int) -> str:
    """What an estimate holds for, in words."""
    return f"the {number:,} images that were in the pool without a label when the draw was made"


def tests(run: RunDir) -> list[Tested]:
    """The closed tests of a run with their estimates, computed from the draws and the latest answers."""
    places, ledger = run.tests(), Ledger(run.deliveries)
    said, found = ledger.answers() if places else {}, []
    for number, place in enumerate(places):
        answers = drawn_answers(place) | said
        draws = place.draws()
        keys = draws["key"].to_pylist()
        if place.has_requests and (ledger.closed(f"test {number}") or all(key in answers for key in keys)):
            found.append(Tested(number, place, _estimated(place, draws, [answers.get(key) for key in keys])))
    return found


def _estimated(place: DrawDir, draws: pa.Table, answers: Sequence[Answer | None]) -> Estimate | None:
    answered = np.array([answer is not None and answer[0] == Status.LABEL for answer in answers])
    said = [answer[1] if answer else "" for answer in answers]
    right = np.array([name == label for name, label in zip(draws["predicted"].to_pylist(), said, strict=True)])
    if not answered.any():
        return None
    return estimate(draws["q"].to_numpy(), place.about()["population"], right, answered)


def record(run: RunDir) -> list[str]:
    """Write the estimates that are new or have changed by corrections. Returns their sentences."""
    told = []
    for test in tests(run):
        found = {**test.place.about(), **(asdict(test.result) if test.result else {}), "words": test.sentence}
        if test.place.estimate() != found:
            test.place.write_estimate(found)
            told.append(test.sentence)
    return told
