"""Options of a strategy: names and values, which a command line gives in pairs.

Not one flag per key of the default, as tyro makes of a dictionary: which options there are depends on the strategy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

Scalar = bool | int | float | str


def _pairs(texts: Sequence[str]) -> dict[str, Scalar]:
    if len(texts) % 2:
        raise ValueError(f"expected names and values in pairs, as in: batches 5 rest carry; got: {' '.join(texts)}")
    return {name: scalar(text) for name, text in zip(texts[::2], texts[1::2], strict=True)}


def scalar(text: str) -> Scalar:
    """What a text says: true or false, a whole number, a finite number, else itself."""
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


_SPEC = tyro.constructors.PrimitiveConstructorSpec[dict[str, Any]](
    nargs="*",
    metavar="[NAME VALUE ...]",
    instance_from_str=_pairs,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [str(part) for pair in value.items() for part in pair],
)
Pairs = Annotated[dict[str, Scalar], _SPEC]
