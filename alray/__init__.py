"""alray: active learning at ImageNet scale on Ray.

Each round: train on what is labeled, embed what is not, let every shard propose, let the driver choose, ask the oracle,
write it down.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alray.config import ConfigError, RunConfig, replace

if TYPE_CHECKING:
    from alray.rounds import RunResult, run
    from alray.selection.kernels.top_rows import ScoreStrategy
    from alray.selection.protocol import Picks
    from alray.selection.registry import STRATEGIES
    from alray.selection.select import select

# Found on first use: a configuration can be read and a strategy written without torch and Ray being imported.
_LAZY = {
    "run": "alray.rounds",
    "RunResult": "alray.rounds",
    "select": "alray.selection.select",
    "Picks": "alray.selection.protocol",
    "STRATEGIES": "alray.selection.registry",
    "ScoreStrategy": "alray.selection.kernels.top_rows",
}

__all__ = ["STRATEGIES", "ConfigError", "Picks", "RunConfig", "RunResult", "ScoreStrategy", "replace", "run", "select"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'alray' has no attribute {name!r}")
