"""The head of a report: what was run, on which data, with which model and budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from alray.reasons import first_of
from alray.report.metrics import Metric
from alray.report.panel import Panel
from alray.report.runs import RunHistory
from alray.stop import why_stopped

Facts = tuple[tuple[str, str], ...]
"""(what, value) in words."""
_MOST_NAMES, _MOST_LETTERS = 12, 60  # of names that are listed
_MOST_VALUES = 4  # different values of the runs that are listed


def title(panel: Panel, source: str = "") -> str:
    """The name of the runs, and what the report does. source: the name of a file of curves, empty for runs."""
    name = ", ".join(sorted({line.run.name for line in panel.lines if line.run})) or source or "Learning curves"
    what = "comparison of labeling strategies" if len(panel.methods) > 1 else f"labels chosen by {panel.methods[0]}"
    return f"{name}: {what}"


def facts(panel: Panel, main: Metric | None, source: str = "") -> Facts:
    """What was run: data, classes, sizes, model, budget, strategies and seeds. Values in which runs differ are listed.

    main: the accuracy that runs are compared by, if any was measured; source: the name of a file of curves, empty for
    runs. What runs do not say is left out.
    """
    runs = [line.run for line in panel.lines if line.run is not None]
    found = {"Data": _values(runs, _data) or source}
    if runs:
        found |= {
            "Classes": _values(runs, _classes),
            "Pool": _values(runs, lambda run: f"{run.rounds[0]['unlabeled'] + run.rounds[0]['labels']:,} images"),
            "Validation": _values(runs, lambda run: _images(run.rounds[0].get("validation_labels", 0))),
            "Test": _values(runs, lambda run: _images((run.rounds[-1]["test"] or {}).get("num_images", 0))),
            "Model": _values(runs, lambda run: str(run.about.get("model", ""))),
            "Labels": _values(runs, _labels),
            "Tests": _values(runs, lambda run: "; ".join(test.sentence for test in run.tests)),
            "End": _values(runs, lambda run: why_stopped(run.rounds[-1])),
        }
    else:
        first, last = (sorted({line.labels[at] for line in panel.lines}) for at in (0, -1))
        found["Labels"] = f"{first[0]:,.0f} to {last[-1]:,.0f}"
    found["Strategies"] = _counted(panel.methods)
    settings = f"{len(panel.settings)}: {first_of(panel.settings, '; ', _MOST_VALUES)}"
    found["Settings"] = settings if len(panel.settings) > 1 else ""
    found["Seeds"] = _seeds(panel)
    found["Measure"] = main.name if main else "none: no accuracy was measured"
    return tuple((what, value) for what, value in found.items() if value)


def estimates(panel: Panel) -> list[str]:
    """A sentence on each drawn test of the runs; of several runs it begins with the strategy and the seed."""
    runs = [line.run for line in panel.lines if line.run is not None]
    names = [f"{run.strategy}, seed {run.seed}, " if len(runs) > 1 else "" for run in runs]
    return [f"{name}{test.sentence}" for name, run in zip(names, runs, strict=True) for test in run.tests]


def _values(runs: Sequence[RunHistory], say: Callable[[RunHistory], str]) -> str:
    """What the runs say, each value once."""
    return first_of(list(dict.fromkeys(filter(None, map(say, runs)))), " or ", _MOST_VALUES)


def _data(run: RunHistory) -> str:
    """The name of the source: the last part of its path that is no pattern, or the name of the catalog."""
    data: dict[str, Any] = run.files.config().get("data", {})
    parts = [part for part in (data.get("root") or data.get("catalog") or "").split("/") if part]
    return next((part for part in reversed(parts) if not set(part) & set("*?[")), "")


def _classes(run: RunHistory) -> str:
    return _counted(run.classes) if run.classes else ""


def _counted(names: Sequence[str]) -> str:
    """'3 (cat, cow, dog)'; of many names, the first ones."""
    listed, whole = ", ".join(names[:_MOST_NAMES]), ", ".join(names)
    if len(listed) > _MOST_LETTERS:
        listed = listed[:_MOST_LETTERS].rpartition(", ")[0]
    some = listed if listed == whole else f"{listed}, …" if listed else ""
    return f"{len(names):,}{f' ({some})' if some else ''}"


def _images(number: int) -> str:
    return f"{number:,} images" if number else "none"


def _labels(run: RunHistory) -> str:
    """The seed set, and what each round bought."""
    rounds = run.rounds
    start = f"{rounds[0]['labels']:,} in the seed set"
    bought = [after["labels"] - before["labels"] for before, after in pairwise(rounds)]
    if not bought:
        return start
    each = f"{bought[0]:,} per round" if len(set(bought)) == 1 else f"{min(bought):,} to {max(bought):,} per round"
    return f"{start}, then {each} for {_count(len(bought), 'round')}: {rounds[-1]['labels']:,} in the end"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seeds(panel: Panel) -> str:
    seeds = sorted({line.seed for line in panel.lines})
    numbers = [len(panel.select(setting, method)) for setting in panel.settings for method in panel.methods]
    known = sorted({number for number in numbers if number})
    each = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return f"{each if known[-1] > 1 else 'one'} per strategy: {_ranges(seeds)}"


def _ranges(numbers: Iterable[int]) -> str:
    """'0 to 4, 7': ascending numbers with their neighbours joined."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in found)
