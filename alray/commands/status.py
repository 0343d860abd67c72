"""The command ``alray status``."""

from __future__ import annotations

from typing import ClassVar

from alray.commands.command import Command


class Status(Command):
    """Say where a run stands, from its files alone: rounds, labels, what it waits for, and the next command."""

    positional: ClassVar[tuple[str, ...]] = ("run",)
    usage: ClassVar[str] = "alray status RUN"
    run: str
    """Directory of the run."""

    def work(self) -> None:
        """Print the state."""
        from alray.labeling import state
        from alray.labeling.standing import lines
        from alray.reasons import terminal

        for line in lines(state.existing(self.run)):
            print(terminal(line))
