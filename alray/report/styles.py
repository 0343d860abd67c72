"""How strategies are drawn: a colour, a marker and dashes, the same in every chart, legend and picture."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

# Okabe & Ito 2008 without the yellow, which cannot be seen as a line on white. Black is not #000000, because SVG leaves
# out pure black as the default and CSS could then not replace it.
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _VERMILION, _PURPLE = _PALETTE = (
    "#010101", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
# Strategies that are often compared have different colours; those that share one differ in marker and dashes.
_COLORS = {
    "random": _BLACK, "base": _VERMILION, "margin": _BLUE, "mase": _GREEN,
    "entropy": _SKY, "confidence": _ORANGE, "k_center": _PURPLE, "badge": _ORANGE,
    "balanced_random": _SKY, "balancing": _PURPLE, "robust_k_center": _GREEN, "partitioned_k_center": _SKY,
    "partitioned_badge": _BLUE, "cluster_margin": _GREEN, "vaal": _BLUE, "pt4al": _VERMILION,
}  # fmt: skip
REFERENCE_LINE = _BLACK
_MARKERS = {  # of matplotlib -> as SVG paths around (17, 7) for the legend
    "o": "M20.6 7A3.6 3.6 0 1 1 13.4 7A3.6 3.6 0 1 1 20.6 7Z",
    "s": "M13.6 3.6H20.4V10.4H13.6Z",
    "D": "M17 2.6 21.4 7 17 11.4 12.6 7Z",
    "^": "M17 2.6 21.4 10.4H12.6Z",
    "v": "M17 11.4 21.4 3.6H12.6Z",
    "P": "M15.4 2.8h3.2v2.6h2.6v3.2h-2.6v2.6h-3.2V8.6h-2.6V5.4h2.6Z",
    "X": "M14 2.6 17 5.4 20 2.6 21.4 4 18.6 7 21.4 10 20 11.4 17 8.6 14 11.4 12.6 10 15.4 7 12.6 4Z",
    "*": "M17 2 18.3 5.4 22 5.5 19.1 7.8 20.1 11.4 17 9.3 13.9 11.4 14.9 7.8 12 5.5 15.7 5.4Z",
}
_DASHES = {"-": "", "--": "6 3", "-.": "6 2 1.5 2", ":": "1.5 2.5"}  # of matplotlib -> stroke-dasharray


@dataclass(frozen=True)
class Style:
    """How one method is drawn, in matplotlib's terms."""

    color: str
    marker: str
    dashes: str

    @property
    def ink(self) -> str:
        """The colour as CSS that follows the theme of the page."""
        return css(self.color)

    @property
    def path(self) -> str:
        """The marker as an SVG path."""
        return _MARKERS[self.marker]

    @property
    def dasharray(self) -> str:
        """The dashes as SVG's stroke-dasharray."""
        return _DASHES[self.dashes]


def css(color: str) -> str:
    """A colour of the palette as the CSS variable that page.css defines: '#0072b2' -> 'var(--c-0072b2, #0072b2)'."""
    return f"var(--c-{color.lstrip('#')}, {color})"


def color(strategy: str) -> str:
    """The colour of a strategy, the same in every report; of one that is not alray's, by a hash of its name."""
    return _COLORS.get(strategy) or _PALETTE[zlib.crc32(strategy.encode()) % len(_PALETTE)]


def styles(strategies: Mapping[Key, str]) -> dict[Key, Style]:
    """A style for each key, whose value is its strategy: colour by strategy; keys of one colour differ in dashes,
    neighbours in marker."""
    seen: dict[str, int] = {}
    markers, dashes = list(_MARKERS), list(_DASHES)
    found = {}
    for number, (key, strategy) in enumerate(strategies.items()):
        name = color(strategy)
        nth = seen[name] = seen.get(name, -1) + 1
        found[key] = Style(name, markers[number % len(markers)], dashes[nth % len(dashes)])
    return found
