"""Options of a strategy: names and values, which a command line gives in pairs.

Which options there are depends on the strategy, so they cannot be declared as fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from alray.config.fields import PAIRS, ConfigError

Scalar = bool | int | float | str
Pairs = Annotated[dict[str, Scalar], PAIRS]


def pairs(texts: Sequence[str]) -> dict[str, Scalar]:
    """Names and values from ``name value name value``. Raises ConfigError where a value is missing."""
    if len(texts) % 2:
        raise ConfigError(f"expected names and values in pairs, NAME VALUE NAME VALUE ..., got: {' '.join(texts)}")
    return {name: scalar(text) for name, text in zip(texts[::2], texts[1::2], strict=True)}


def scalar(text: str) -> Scalar:
    """The value that a text stands for: true or false, a whole number, a finite number, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text) if math.isfinite(float(text)) else text
    except ValueError:
        return text
