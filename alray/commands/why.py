"""The command ``alray why``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from alray.commands.command import Command


class Why(Command):
    """Say why a run picked an image, or what it picked instead, round by round."""

    positional: ClassVar[tuple[str, ...]] = ("run", "key")
    usage: ClassVar[str] = "alray why RUN KEY [--round N]"
    run: str
    """Directory of the run."""
    key: str
    """Key of the image, its URI, or the end of its path if no other image has it."""
    round: int = Field(-1, ge=-1)
    """Round to tell of; -1: all in which the image could be picked."""

    def work(self) -> None:
        """Print the sentences."""
        from alray.explain.why import why
        from alray.labeling.state import existing
        from alray.reasons import terminal

        for line in why(existing(self.run), self.key, self.round):
            print(terminal(line))
