"""How strategies are drawn: no two in one colour, readable on light and on dark pages; and how times are written."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from alray import STRATEGIES
from alray.durations import TICKS, duration, ticks, unit
from alray.report.charts import cost_chart, stages_chart
from alray.report.panel import Line, arrange
from alray.report.styles import Style, class_inks, inks, styles

LIGHT, DARK = "#f7f7f5", "#1d2024"  # the cards of page.css, on which charts stand
# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def linear(color: str) -> np.ndarray:
    parts = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(linear(color) @ weights) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    lms = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]]) @ rgb  # fmt: skip
    return np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]]) @ np.cbrt(np.clip(lms, 0, None))  # fmt: skip


def nearest(colors: list[str], seen: np.ndarray | None = None) -> float:
    """The smallest distance of two colours in OKLab; seen: what an eye makes of linear RGB."""
    points = [oklab(linear(color) if seen is None else np.clip(seen @ linear(color), 0, 1)) for color in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(points, 2))


@pytest.mark.parametrize("number", [2, 7, 16, 30, 100])
@pytest.mark.parametrize("kind", ["own", "foreign", "options", "mixed"])
def test_no_two_strategies_have_one_colour(number: int, kind: str) -> None:
    names = {
        "own": [*STRATEGIES, *(f"more {n}" for n in range(number))][:number],
        "foreign": [f"strategy {n}" for n in range(number)],
        "options": ["base"] * number,
        "mixed": [name for n in range(number) for name in (f"mine {n}", "margin")][:number],
    }[kind]
    found = list(styles(dict(enumerate(names))).values())
    for colors in ([style.color for style in found], [style.dark for style in found]):
        assert len(set(colors)) == number or number == 100
        assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    assert len({style.color for style in found}) == number
    assert len({(style.marker, style.dashes) for style in found}) == min(number, 32)
    assert all(contrast(style.color, LIGHT) >= 3 and contrast(style.dark, DARK) >= 3 for style in found)


def test_up_to_32_colours_are_told_apart() -> None:
    found = list(styles({n: "base" for n in range(32)}).values())
    assert nearest([style.color for style in found]) > 0.08  # 0.02 is just noticeable
    assert nearest([style.dark for style in found]) > 0.06


def test_the_strategies_that_are_often_compared_are_told_apart_without_red_or_green() -> None:
    found = list(styles({name: name for name in ("random", "base", "margin", "mase", "k_center", "entropy")}).values())
    for seen in (None, *map(np.array, BLIND.values())):
        assert nearest([style.color for style in found], seen) > 0.05
        assert nearest([style.dark for style in found], seen) > 0.04


def test_a_strategy_has_the_same_colour_in_every_report() -> None:
    alone = {name: styles({name: name})[name].color for name in (*STRATEGIES, "my_own")}
    together = styles({name: name for name in reversed(alone)})
    assert {name: style.color for name, style in together.items()} == alone
    first, second = styles({"base": "base", "base, lr 1": "base"}).values()
    assert first.color == alone["base"] != second.color


def test_a_page_defines_the_colours_that_it_uses() -> None:
    found = inks({"k": Style("#123456", "#abcdef", "o", "-")})
    assert found["--c-123456"] == ("#123456", "#abcdef") and len(found) == 2  # and that of reference lines


def test_classes_of_masks_have_different_colours() -> None:
    assert len(set(class_inks(255))) == 255


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0123, "0.012 s"), (0.5, "0.5 s"), (1, "1 s"), (2.5, "2.5 s"), (42.4, "42 s"), (60, "1 min"),
     (90, "1.5 min"), (1260, "21 min"), (3600, "1 h"), (9000, "2.5 h"), (72000, "20 h"), (864000, "10 days")],
)  # fmt: skip
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("longest", "found"),
    [
        (0.2, (1, "s")),
        (119, (1, "s")),
        (121, (60, "min")),
        (7100, (60, "min")),
        (7300, (3600, "h")),
        (1e6, (3600, "h")),
    ],
)
def test_the_unit_fits_the_longest_time(longest: float, found: tuple[float, str]) -> None:
    assert unit(longest) == found


def test_ticks_are_round_times() -> None:
    assert list(map(duration, ticks(9, 400))) == ["10 s", "20 s", "30 s", "1 min", "2 min", "5 min"]
    assert list(TICKS) == sorted(set(TICKS))
    many = ticks(0.01, 1e6)
    assert 3 <= len(many) <= 7 and many == sorted(many)


def drawn(seconds: list[float]) -> str:
    lines = arrange([Line("", "base", "base", 0, (10.0, 20.0), {"test_top1": (0.1, 0.2)})])
    return str(cost_chart(lines, {"base": (np.array(seconds), np.array([10.0, 20.0]))}, "worker time", "%"))


def test_a_time_axis_has_units() -> None:
    assert "worker time (min)" in drawn([60.0, 600.0])
    assert "worker time (s)" in drawn([2.0, 30.0])
    far = drawn([5.0, 4000.0])
    assert "worker time, log scale" in far and ">5 s<" in far and " min<" in far and ">1 h<" in far
    assert "time per run (h)" in str(stages_chart({"base": {"train": 30000.0, "select": 5.0}}))
