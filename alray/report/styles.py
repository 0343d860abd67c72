"""How strategies are drawn: a colour, a marker and dashes, the same in every chart, legend and picture of a report.

No two strategies of a report have the same colour. Each colour has a variant for light and one for dark pages.
"""

from __future__ import annotations

import colorsys
import itertools
import zlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

# (on light, on dark). The first seven are the hues of Okabe & Ito 2008 without the yellow, darkened until each has a
# contrast of 3 to a light card. Every further one is as far as possible in OKLab from all before it, to normal eyes
# and, with half the weight, to eyes without red or green cones (Machado et al. 2009). Nearly black, not black: SVG
# leaves out pure black as the default, and CSS could then not replace it.
_PALETTE = (
    ("#1d1f21", "#f2f2f2"), ("#b87700", "#f0b429"), ("#2a93d5", "#8fd0f5"), ("#008a63", "#2fc799"),
    ("#0059a8", "#4a97e0"), ("#cf4a00", "#ff7f3f"), ("#b8509b", "#e59ac3"), ("#7b2431", "#f42886"),
    ("#7b50fc", "#ad56ff"), ("#622680", "#b370b1"), ("#6d5d6c", "#c5d1a5"), ("#3f03c2", "#ada4f9"),
    ("#145154", "#18f0dc"), ("#9b858e", "#ae9d73"), ("#6c4c02", "#fce584"), ("#f54879", "#e55454"),
    ("#786dbd", "#9198ab"), ("#9d1d9e", "#f351d6"), ("#af68f8", "#c378ee"), ("#0f46e1", "#98b3d7"),
    ("#7f8e4e", "#cdf118"), ("#9c4340", "#fdc8ca"), ("#1572db", "#d7ddf3"), ("#94045d", "#d1bdcc"),
    ("#81427f", "#cc51cb"), ("#2a7f9b", "#4fc8f0"), ("#366536", "#03e275"), ("#6349c1", "#986feb"),
    ("#ba76b7", "#de7dc8"), ("#d732bb", "#a77e95"), ("#f84f33", "#e49c8d"), ("#a96658", "#da7134"),
)  # fmt: skip
# Strategies that are often compared have the colours that are easiest to tell apart.
_OWN = {
    name: number
    for number, name in enumerate((
        "random", "confidence", "entropy", "mase", "margin", "base", "k_center", "badge", "balancing", "cluster_margin",
        "balanced_random", "vaal", "pt4al", "partitioned_badge", "partitioned_k_center", "robust_k_center",
        "k_means",
    ))
}  # fmt: skip
REFERENCE_LINE = _PALETTE[0][0]
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
DASHES = tuple(_DASHES)


@dataclass(frozen=True)
class Style:
    """How one method is drawn, in matplotlib's terms. color: on light pages; dark: on dark pages."""

    color: str
    dark: str
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
    """A colour as the CSS variable that a page defines for it: '#0059a8' -> 'var(--c-0059a8, #0059a8)'."""
    return f"var({variable(color)}, {color})"


def variable(color: str) -> str:
    """The name of the CSS variable of a colour."""
    return f"--c-{color.lstrip('#')}"


def inks(used: Mapping[Key, Style]) -> dict[str, tuple[str, str]]:
    """CSS variable -> its value on light and on dark pages, for all colours that a page uses."""
    pairs = [_PALETTE[0], *((style.color, style.dark) for style in used.values())]
    return {variable(light): (light, dark) for light, dark in pairs}


def styles(strategies: Mapping[Key, str]) -> dict[Key, Style]:
    """A style for each key, whose value is its strategy. No two have the same colour.

    The first key of each of alray's strategies has the strategy's own colour, which is the same in every report. Other
    keys have colours that are left, those of foreign strategies by a hash of their names. Up to 32 keys differ in
    marker and dashes, too.
    """
    chosen: dict[Key, int] = {}
    for key, strategy in strategies.items():
        if strategy in _OWN and _OWN[strategy] not in chosen.values():
            chosen[key] = _OWN[strategy]
    rest = itertools.count()
    for key, strategy in strategies.items():
        hashed = len(_OWN) + zlib.crc32(strategy.encode()) % (len(_PALETTE) - len(_OWN))
        if key not in chosen and strategy not in _OWN and hashed not in chosen.values():
            chosen[key] = hashed
        elif key not in chosen:
            chosen[key] = next(number for number in rest if number not in chosen.values())
    pairs = list(itertools.islice(_colours(), max(chosen.values(), default=0) + 1))
    markers = list(_MARKERS)
    return {
        key: Style(*pairs[chosen[key]], markers[at % len(markers)], DASHES[at // len(markers) % len(DASHES)])
        for at, key in enumerate(strategies)
    }


def class_inks(number: int) -> list[str]:
    """A colour for each of so many classes of a mask, none of them nearly black."""
    return [light for light, _ in itertools.islice(_colours(), 1, number + 1)]


def _colours() -> Iterator[tuple[str, str]]:
    """The palette, then computed colours without end. No two are equal on light pages."""
    yield from _PALETTE
    known = {light for light, _ in _PALETTE}
    for number in itertools.count():
        hue, step = number * 0.618033988749895 % 1, number % 4  # the golden ratio spreads hues evenly
        light, dark = _with_luminance(hue, 0.09 + 0.04 * step), _with_luminance(hue, 0.3 + 0.12 * step)
        if light not in known:
            known.add(light)
            yield light, dark


def _with_luminance(hue: float, luminance: float) -> str:
    """A colour of this hue (0 to 1) with a relative luminance as WCAG defines it (0 to 1)."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if _luminance(colorsys.hls_to_rgb(hue, middle, 0.75)) < luminance else (low, middle)
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, low, 0.75))


def _luminance(rgb: tuple[float, float, float]) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
