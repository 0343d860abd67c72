"""The command ``alray formats``."""

from __future__ import annotations

from alray.commands.command import Command


class Formats(Command):
    """List what can be indexed, how it is recognised, and what is refused."""

    positional = ("names",)
    usage = "alray formats [NAME ...]"
    names: tuple[str, ...] = ()
    """Formats, as in --format; none: all, and what they have in common."""

    def work(self) -> None:
        """Print the list."""
        from alray.data.formats import described

        print(described(self.names))
