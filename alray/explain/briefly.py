"""A few words on each pick, to be read beside its picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from alray.config import ConfigError
from alray.explain.replay import Replay, Step
from alray.rundir import RunDir, RunError
from alray.selection.case import Case
from alray.selection.protocol import Context, Picks


class Briefly:
    """Goes through the rounds of a run, in ascending order, and tells a few words on picks.

    No features are read. Of a run that does not have all its files, only the places of the picks are told.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._replay: Replay | None = None
        with suppress(RunError, ConfigError):
            self._replay = Replay(run)
        self._steps: Iterator[Step] = self._replay.steps() if self._replay else iter(())
        self._step: Step | None = None

    def of(self, number: int, rows: Sequence[int]) -> dict[int, str]:
        """The words on some picks of a round; rounds must be asked for in ascending order."""
        if not rows:
            return {}
        case, strategy = self._case(number, rows[0]), self._replay.strategy if self._replay else None
        cases = {row: replace(case, row=row) for row in rows}
        return {row: one.brief if strategy is None else strategy.brief(one) for row, one in cases.items()}

    def _case(self, number: int, row: int) -> Case:
        model = self._run.chosen_by(number)
        if self._step is None or self._step.number != model:  # the model of a round may have chosen two batches
            self._step = next((step for step in self._steps if step.kind == "said" and step.number == model), None)
        if self._replay and self._step:
            return self._replay.case(number, self._step.pool, row, with_features=False)
        picks = Picks.from_table(self._run.round(number).picks())
        return Case(row, picks, Context(), np.sort(picks.rows), str, ())
