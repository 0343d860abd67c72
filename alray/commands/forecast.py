"""The command ``alray forecast``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from alray.commands.command import Command


class Forecast(Command):
    """Say how many labels, and how much money, a run needs to reach an accuracy, with an interval; and how accurate its
    model is on the pool, where a test was drawn (`alray label RUN --test N`). The forecast needs an accuracy after each
    round, on test or validation images; such a drawn test alone gives that of the last round."""

    positional: ClassVar[tuple[str, ...]] = ("run",)
    usage: ClassVar[str] = "alray forecast RUN --target 0.9 [--cost 0.05]"
    run: str
    """Directory of the run."""
    target: float = Field(0.9, gt=0, lt=1)
    """Accuracy as a fraction."""
    measure: str = ""
    """Column of metrics.csv that is forecast; empty: test_top1, or validation_top1 without a test set."""
    cost: float = Field(0.0, ge=0)
    """Price of one label, in any currency; 0: the labels.cost of the run, and no money is shown without one."""

    def work(self) -> None:
        """Print the forecast."""
        from alray.labeling.drawn import tests
        from alray.labeling.state import existing

        run = existing(self.run)  # before imports that take seconds
        from alray.report.forecast import sentences

        cost = self.cost or run.settings().labels.cost
        tested = [test.sentence for test in tests(run)]
        try:
            tested[:0] = sentences(run, self.target, self.measure, cost)
        finally:  # what was estimated is told where nothing can be forecast, too
            print("\n".join(tested), end="\n" if tested else "")
