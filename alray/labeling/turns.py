"""Which batches a round chooses, and which rows are out while it does (`labels.overlap`).

Batch k is in the directory of round k, whoever chose it. Round n chooses batch n, and with an overlap of 1 batch n + 1
too, unless an earlier round has chosen them: round 0 chooses batches 0 and 1, round n > 0 batch n + 1. A run that is
continued with more rounds enters its former last round again. That round has no batch yet, so it chooses two as round 0
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alray.config import RunConfig
from alray.data.pool import Labels, Rows
from alray.rundir import RunDir


@dataclass(frozen=True, eq=False)
class Turn:
    """One selection. batch: its number; model: number of the round whose model chooses. pending (p,) int64 ascending:
    the rows of batches whose labels are awaited; unchosen: how many more there will be, of batches that the same round
    chooses just before."""

    batch: int
    model: int
    pending: Rows
    unchosen: int = 0

    def record(self, classes: Labels) -> dict[str, Any]:
        """What is written down of the selection, for `past_turn`."""
        pending = {"rows": self.pending.tolist(), "classes": classes.tolist()}
        return {"model": self.model, **({"pending": pending} if len(self.pending) else {})}


def turns_of(run: RunDir, config: RunConfig, number: int) -> Sequence[Turn]:
    """The selections of a round as they are known when it begins; a round that is entered again gets the same ones."""
    last = min(number + config.labels.overlap, config.rounds - 2)
    mine = [batch for batch in range(number, last + 1) if run.chosen_by(batch) in (None, number)]
    out = out_before(run, number)
    return [Turn(batch, number, out, at * config.budget) for at, batch in enumerate(mine)]


def turn_at(run: RunDir, model: int, batch: int) -> Turn:
    """The selection of a batch by the model of a round, when all batches before it are chosen."""
    return Turn(batch, model, _rows(run, range(model, batch)))


def past_turn(run: RunDir, batch: int) -> tuple[Turn, Labels]:
    """The selection of a batch that is chosen, and the classes (p,) as which pending rows were counted, -1 for none."""
    account = run.round(batch).account()
    pending = account.get("pending", {"rows": [], "classes": []})
    turn = Turn(batch, int(account.get("model", batch)), np.array(pending["rows"], np.int64))
    return turn, np.array(pending["classes"], np.int32)


def out_before(run: RunDir, number: int) -> Rows:
    """The rows whose labels were awaited when a round began, ascending: an earlier round chose their batch. What people
    have said of them by then is left out until the batch is closed."""
    later = [batch for batch in run.rounds() if batch >= number]
    return _rows(run, [batch for batch in later if (by := run.chosen_by(batch)) is not None and by < number])


def _rows(run: RunDir, batches: Iterable[int]) -> Rows:
    rows = [run.round(batch).picks()["row"].to_numpy() for batch in batches]
    return np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
