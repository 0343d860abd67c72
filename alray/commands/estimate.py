"""The command ``alray estimate``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from alray.commands.command import Command


class Estimate(Command):
    """Say how accurate a run's model is on its unlabeled pool, without bias, from labels of images that were drawn with
    known probabilities (`alray label RUN --test N`)."""

    positional: ClassVar[tuple[str, ...]] = ("run",)
    usage: ClassVar[str] = "alray estimate RUN [--picks [--round 2]]"
    run: str
    """Directory of the run."""
    picks: bool = False
    """Use the picks of a round instead of tests. Only strategies that draw at random allow it; others are refused."""
    round: int = Field(-1, ge=-1)
    """With --picks, the number of the round; -1: the last one whose picks have labels."""

    def work(self) -> None:
        """Print the estimates."""
        from alray.draws import estimates, picks_estimate
        from alray.labeling.state import existing

        run = existing(self.run)
        print("\n".join([picks_estimate(run, self.round)] if self.picks else estimates(run)))
