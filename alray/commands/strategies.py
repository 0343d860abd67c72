"""The command ``alray strategies``."""

from __future__ import annotations

from alray.commands.command import Command


class Strategies(Command):
    """List the strategies with their options, and what these mean."""

    positional = ("names",)
    usage = "alray strategies [NAME ...]"
    names: tuple[str, ...] = ()
    """Strategies; none: all."""

    def work(self) -> None:
        """Print the list."""
        from alray.selection.registry import described

        print(described(self.names))
