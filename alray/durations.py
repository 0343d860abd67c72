"""Seconds as people read them: 0.4 s, 12 s, 3 min, 1.5 h."""

from __future__ import annotations

import numpy as np

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
TICKS = (
    *(10.0**power * step for power in (-3, -2, -1, 0) for step in (1, 2, 5)),
    *(size * step for size in (1.0, 60.0) for step in (10, 20, 30, 60, 120, 300)),
    36000.0,
    *(86400.0 * step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
)
"""Round numbers of seconds for an axis whose scale is logarithmic."""


def unit(longest: float) -> tuple[float, str]:
    """The unit for an axis or a table that reaches to so many seconds: its seconds, and its symbol. The largest number
    is then at least 2."""
    return next((pair for pair in _UNITS if longest >= 2 * pair[0]), _UNITS[-1])


def duration(seconds: float) -> str:
    """'0.42 s', '12 s', '3.5 min', '2 h', '4 days'."""
    if seconds >= 2 * 86400:
        return f"{_digits(seconds / 86400)} days"
    size, symbol = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{_digits(seconds / size)} {symbol}"


def _digits(value: float) -> str:
    """Two digits or more, without zeros at the end."""
    if value >= 10:
        return f"{value:,.0f}"
    text = f"{value:.1f}" if value >= 1 else f"{value:.2g}"
    return text.removesuffix(".0")


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers of seconds within a range, at most so many, spread evenly on a logarithmic axis."""
    inside = [tick for tick in TICKS if low <= tick <= high]
    if len(inside) <= most:
        return inside
    wanted = np.linspace(np.log(inside[0]), np.log(inside[-1]), most)
    nearest = np.abs(np.log(inside)[:, None] - wanted).argmin(axis=0)
    return [inside[number] for number in sorted(set(nearest.tolist()))]
