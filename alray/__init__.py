"""alray: active learning at ImageNet scale on Ray.

Each round trains on the labeled images, embeds the unlabeled ones, lets every shard propose rows, chooses among them on
the driver, asks the oracle for their labels, and writes all of it down.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alray.config import ConfigError, RunConfig, replace
    from alray.data.oracle import Answers, Oracle, Requests
    from alray.rounds import RunResult, run
    from alray.selection.kernels.top_rows import ScoreStrategy
    from alray.selection.options import with_options
    from alray.selection.protocol import Picks, Strategy
    from alray.selection.registry import STRATEGIES
    from alray.selection.select import select

__version__ = "0.2.0"  # pyproject.toml reads it from here

# Imported on first use, so that a program pays for what it uses: a configuration needs pydantic alone, a strategy
# neither PyTorch nor Ray.
_LAZY = {
    "ConfigError": "alray.config",
    "RunConfig": "alray.config",
    "replace": "alray.config",
    "run": "alray.rounds",
    "RunResult": "alray.rounds",
    "select": "alray.selection.select",
    "Picks": "alray.selection.protocol",
    "Strategy": "alray.selection.protocol",
    "STRATEGIES": "alray.selection.registry",
    "ScoreStrategy": "alray.selection.kernels.top_rows",
    "with_options": "alray.selection.options",
    "Oracle": "alray.data.oracle",
    "Requests": "alray.data.oracle",
    "Answers": "alray.data.oracle",
}

__all__ = [
    "STRATEGIES",
    "Answers",
    "ConfigError",
    "Oracle",
    "Picks",
    "Requests",
    "RunConfig",
    "RunResult",
    "ScoreStrategy",
    "Strategy",
    "__version__",
    "replace",
    "run",
    "select",
    "with_options",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'alray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
