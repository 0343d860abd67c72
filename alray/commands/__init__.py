"""The commands of the command line, one file each: the file NAME.py holds the class Name.

A command is imported when it is used, and modules that need torch, Ray or pyarrow when it works: help and version print
at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alray.commands.command import Command

NAMES = (
    "index", "formats", "repack", "label", "status", "estimate", "forecast", "why", "export", "select", "strategies",
    "weights", "report", "verify",
)  # fmt: skip


def named(name: str) -> type[Command]:
    """The class of a command in `NAMES`."""
    found: type[Command] = getattr(import_module(f"alray.commands.{name}"), name.capitalize())
    return found
