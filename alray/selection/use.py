"""How a run is going to use a strategy, for what the strategy has to say about it (`Strategy.notes`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alray.selection.protocol import Strategy


@dataclass(frozen=True)
class Use:
    """How a run is going to use a strategy, as far as it is known before the run starts.

    size: rows that it chooses in one go; pool: images it can choose from over the whole run, labeled ones too.
    first_round: number of the first round that it chooses in. seed_set_how: how the labels of the run's start are
    chosen, and seed_set_by the strategy that chooses them (None where they are drawn); empty and None where this
    strategy itself chooses the seed set.
    """

    size: int
    pool: int
    first_round: int = 0
    seed_set_how: str = ""
    seed_set_by: Strategy | None = None

    @property
    def what(self) -> str:
        """What the strategy chooses, in words: "the seed set" or "the budget"."""
        return "the budget" if self.seed_set_how else "the seed set"
