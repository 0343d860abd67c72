"""The base of the commands whose options are the fields of a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from alray.config.arguments import as_typed
from alray.config.command_line import section_options
from alray.config.fields import Frozen


class Command(Frozen):
    """A command: its fields are the options, those in `positional` are given as words, and `work` does it."""

    positional: ClassVar[tuple[str, ...]] = ()
    usage: ClassVar[str] = ""

    def work(self) -> None:
        """Do what the command says."""
        raise NotImplementedError

    @classmethod
    def start(cls, argv: Sequence[str]) -> None:
        """Read the options and work."""
        command = section_options(cls, argv, cls.usage, cls.positional)
        with as_typed(cls.model_fields, cls.positional):
            command.work()
