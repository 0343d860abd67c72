"""The commands of the command line, one file each. Modules that need torch, Ray or pyarrow are imported when a command
works: help and version print at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alray.commands.estimate import Estimate
from alray.commands.export import Export
from alray.commands.forecast import Forecast
from alray.commands.formats import Formats
from alray.commands.index import Index
from alray.commands.label import Label
from alray.commands.repack import Repack
from alray.commands.report import Report
from alray.commands.select import Select
from alray.commands.status import Status
from alray.commands.strategies import Strategies
from alray.commands.verify import Verify
from alray.commands.weights import Weights
from alray.commands.why import Why

_COMMANDS = (
    Index, Formats, Repack, Label, Status, Estimate, Forecast, Why, Export, Select, Strategies, Weights, Report, Verify,
)  # fmt: skip
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {one.__name__.lower(): one.start for one in _COMMANDS}
