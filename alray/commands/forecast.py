"""The command ``alray forecast``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from alray.commands.command import Command


class Forecast(Command):
    """Say how many labels, and how much money, a run needs to reach an accuracy, with an interval."""

    positional: ClassVar[tuple[str, ...]] = ("run",)
    usage: ClassVar[str] = "alray forecast RUN --target 0.9 [--cost 0.05]"
    run: str
    """Directory of the run."""
    target: float = Field(0.9, gt=0, lt=1)
    """Accuracy as a fraction."""
    measure: str = ""
    """Column of metrics.csv that is forecast; empty: test_top1, or validation_top1 without a test set."""
    cost: float = Field(0.0, ge=0)
    """Price of one label, in any currency; 0: no money is shown."""

    def work(self) -> None:
        """Print the forecast."""
        from alray.labeling.state import existing
        from alray.report.forecast import sentences

        print("\n".join(sentences(existing(self.run), self.target, self.measure, self.cost)))
