"""Runs lined up for comparison: settings (every option except strategy and seed) x methods (strategies) x seeds.

Within a setting, runs of the same seed are paired: they share the validation set, the initial weights and the seed
set, unless the strategy chose its seed set itself (a cold start).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alray.config import fingerprint
from alray.config.fields import flat_tree
from alray.report.runs import IMAGES, Counted, ReportError, RunHistory, stopped_by
from alray.report.statistics import Floats, area, on_grid
from alray.scalars import flat

REFERENCE = "random"
PEEKS = (
    "* This strategy reads labels before they are bought: it shows what is possible at best and cannot be used in "
    "practice."
)
_COLD_STARTS = ("pretext", "k_means")
# How a cold start chose the seed set is part of the method: its authors compare it with random sampling from the start.
_SEED_SET = "seed_set"
_OPTIONS = "split.seed_set_options."
_METHOD = ("strategy", "strategy_options", _SEED_SET)
_NAME = "run"  # The user's name for the run is not part of its identity, but it may say which data it was on.


@dataclass(frozen=True)
class Line:
    """One run as curves over its rounds. scalars: by name of `scalars.flat`, one number or None per round."""

    setting: str
    method: str
    strategy: str
    seed: int
    labels: tuple[float, ...]
    scalars: Mapping[str, tuple[float | None, ...]]
    run: RunHistory | None = None
    """None for curves from a CSV."""
    stopped: str = ""
    """What stopped this run earlier than others because of its accuracy: the scheduler of a sweep, or a rule of its
    own."""
    counted: Counted = IMAGES
    peeks: bool = False

    @property
    def label(self) -> str:
        """Method and setting, e.g. 'base · budget 50'."""
        return f"{self.method} · {self.setting}" if self.setting else self.method

    def at(self, scalar: str, round: int) -> float | None:
        """A scalar at a round; None where it was not measured."""
        return self.scalars[scalar][round] if scalar in self.scalars else None


@dataclass(frozen=True)
class Curves:
    """A method in a setting: seeds (s,), labels (r,), values (s, r)."""

    seeds: tuple[int, ...]
    labels: Floats
    values: Floats


@dataclass(frozen=True)
class Panel:
    """All runs of a report. lines: the complete ones, by setting, method and seed; incomplete: those with fewer rounds
    than others of their setting, which are left out of all statistics."""

    settings: tuple[str, ...]
    methods: tuple[str, ...]
    strategy_of: Mapping[str, str]
    lines: tuple[Line, ...]
    incomplete: tuple[Line, ...]
    counted: Counted = IMAGES

    @property
    def reference(self) -> str | None:
        """The method that others are compared with: random sampling; None where it was not run."""
        return next((method for method in self.methods if self.strategy_of[method] == REFERENCE), None)

    def select(self, setting: str, method: str) -> list[Line]:
        """Complete runs of a method in a setting, by seed."""
        return [line for line in self.lines if (line.setting, line.method) == (setting, method)]

    def every(self) -> list[list[Line]]:
        """All runs, incomplete ones too: a list for each method in each setting, by strategy; seeds ascending."""
        found: dict[tuple[str, str, str], list[Line]] = {}
        for line in sorted((*self.lines, *self.incomplete), key=lambda line: line.seed):
            found.setdefault((line.strategy, line.setting, line.method), []).append(line)
        return [found[key] for key in sorted(found, key=lambda key: (key[0], _natural(key[1]), key[2]))]

    def stopped(self, setting: str) -> list[Line]:
        """Runs of a setting that were stopped early because of their accuracy. The survivors are a biased sample:
        such a setting is left out of the statistics."""
        return [line for line in (*self.lines, *self.incomplete) if line.setting == setting and line.stopped]

    def grid(self, setting: str) -> Floats:
        """Label counts at which the curves of a setting are compared: those of one run, within the range that all runs
        have. Runs with slightly other label counts per round are interpolated between their rounds."""
        lines = [line for line in self.lines if line.setting == setting]
        low, high = max(line.labels[0] for line in lines), min(line.labels[-1] for line in lines)
        first = min(lines, key=lambda line: line.labels)
        inside = [count for count in first.labels if low < count < high]
        return np.array([low, *inside, high] if high > low else [low], np.float64)

    def curves(self, setting: str, method: str, scalar: str) -> Curves | None:
        """The curves of a method on the grid of the setting; None where it has no run with this scalar."""
        lines = [line for line in self.select(setting, method) if _whole(line, scalar)]
        if not lines:
            return None
        grid = self.grid(setting)
        values = [on_grid(grid, line.labels, [float(v or 0) for v in line.scalars[scalar]]) for line in lines]
        return Curves(tuple(line.seed for line in lines), grid, np.stack(values))

    def paired(self, setting: str, method: str, other: str, scalar: str) -> tuple[Curves, Curves] | None:
        """The curves of two methods on the seeds that both have, rows in the same order; None where they share none."""
        one, two = self.curves(setting, method, scalar), self.curves(setting, other, scalar)
        if one is None or two is None:
            return None
        common = sorted(set(one.seeds) & set(two.seeds))
        if not common:
            return None
        rows = [[curves.seeds.index(seed) for seed in common] for curves in (one, two)]
        return (
            Curves(tuple(common), one.labels, one.values[rows[0]]),
            Curves(tuple(common), two.labels, two.values[rows[1]]),
        )

    def scores(self, scalar: str, axis: str) -> dict[str, dict[str, dict[int, float]]]:
        """setting -> method -> seed -> area under the budget curve (axis linear or log), or the value at the last
        round (axis last)."""
        found: dict[str, dict[str, dict[int, float]]] = {}
        for setting in self.settings:
            for method in self.methods:
                curves = self.curves(setting, method, scalar)
                if curves is not None:
                    numbers = _score(curves, axis)
                    found.setdefault(setting, {})[method] = dict(zip(curves.seeds, numbers.tolist(), strict=True))
        return found

    @property
    def cold_starts(self) -> bool:
        """Whether some methods chose their seed set themselves and others did not."""
        return any(f", {_SEED_SET} " in method for method in self.methods)

    @property
    def one_seed(self) -> bool:
        """Whether no method has two seeds in any setting, so that nothing can be said about differences."""
        return all(len(self.select(setting, method)) < 2 for setting in self.settings for method in self.methods)

    def has(self, scalar: str) -> bool:
        """Whether any run measured this scalar in all of its rounds."""
        return any(_whole(line, scalar) for line in self.lines)


def _score(curves: Curves, axis: str) -> Floats:
    if axis == "last" or len(curves.labels) < 2:
        return curves.values[:, -1]
    return area(curves.labels, curves.values, "log" if axis == "log" else "linear")


def _whole(line: Line, scalar: str) -> bool:
    return scalar in line.scalars and all(value is not None for value in line.scalars[scalar])


def panel(histories: Sequence[RunHistory]) -> Panel:
    """Line up alray's own runs. Raises ReportError when two runs have the same strategy, seed and settings."""
    trees = [_tree(run) for run in histories]
    settings = _settings([{k: v for k, v in tree.items() if not k.startswith(_METHOD)} for tree in trees])
    methods = _methods([{k: v for k, v in tree.items() if k.startswith(_METHOD)} for tree in trees])
    lines = [_line(run, setting, method) for run, setting, method in zip(histories, settings, methods, strict=True)]
    by = _by_own_rules(lines) | stopped_by(histories)
    return arrange([replace(line, stopped=by.get(run.dir, "")) for run, line in zip(histories, lines, strict=True)])


def _by_own_rules(lines: Sequence[Line]) -> dict[str, str]:
    """Run directory -> the rule on accuracies that ended the run, where other runs of its setting have more rounds."""
    found = {}
    for line in lines:
        why = line.run.rounds[-1].get("stopped") if line.run else None
        longer = any(len(other.labels) > len(line.labels) for other in lines if other.setting == line.setting)
        if line.run and why and why["by_accuracy"] and longer:
            found[line.run.dir] = str(why["rule"])
    return found


def arrange(lines: Sequence[Line]) -> Panel:
    """Line up curves: settings in natural order, methods by name after the reference, incomplete runs apart.

    lines: one or more. Raises ReportError when two have the same setting, method and seed.
    """
    seen: dict[tuple[str, str, int], Line] = {}
    for line in lines:
        other = seen.setdefault((line.setting, line.method, line.seed), line)
        if other is not line:
            where = [run.dir for run in (other.run, line.run) if run]
            raise ReportError(
                f"{' and '.join(where) or f'{line.method}, seed {line.seed}'}: the same strategy, seed and settings; "
                "give only one of them, they would be counted as two seeds"
            )
    settings = sorted(dict.fromkeys(line.setting for line in lines), key=_natural)
    longest = {s: max(len(line.labels) for line in lines if line.setting == s) for s in settings}
    whole = [line for line in lines if len(line.labels) == longest[line.setting]]
    short = [line for line in lines if len(line.labels) < longest[line.setting]]
    strategy_of = {line.method: line.strategy for line in whole}
    methods = sorted(strategy_of, key=lambda method: (strategy_of[method] != REFERENCE, method))
    ordered = sorted(whole, key=lambda line: (line.setting, line.method, line.seed))
    return Panel(tuple(settings), tuple(methods), strategy_of, tuple(ordered), tuple(short), lines[0].counted)


def _natural(text: str) -> list[Any]:
    return [(0, float(word), "") if word.replace(".", "", 1).isdigit() else (1, 0.0, word) for word in text.split()]


def _tree(run: RunHistory) -> dict[str, Any]:
    """By path, everything that may differ between two runs of a comparison except the seed."""
    same = {name: value for name, value in run.about["identity"].items() if name != "seed"}
    tree = {path: value for path, value in flat_tree(same).items() if value != {}} | {_NAME: run.name}
    if tree.get("split.seed_set_how") not in _COLD_STARTS:
        return tree
    moved = {"split.seed_set_how": _SEED_SET}
    moved |= {path: path.replace(_OPTIONS, f"{_SEED_SET}.") for path in tree if path.startswith(_OPTIONS)}
    return {**{moved.get(path, path): value for path, value in tree.items()}, "split.seed_set_how": "random"}


def _settings(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each tree: the fields in which the trees differ, e.g. 'budget 50'."""
    differ = _differ(trees)
    content = [path for path in differ if path.endswith("_fingerprint")]  # they differ, but mean nothing to a reader
    fields = [path for path in differ if path not in content and path != _NAME]
    pairs = {(tree[_NAME], tree.get("data_fingerprint")) for tree in trees}
    if 1 < len(pairs) == len({data for _, data in pairs}) == len({name for name, _ in pairs}):
        fields = [_NAME, *fields]  # Every data set has a run name of its own, which readers know it by.

    def kinds(paths: Sequence[str]) -> int:
        return len({fingerprint([tree.get(path) for path in paths]) for tree in trees})

    choices = (fields, [_NAME, *fields], [*fields, *content])
    telling = next(choice for choice in choices if kinds(choice) >= kinds([*fields, *content]))
    return [", ".join(_words(tree, telling)) for tree in trees]


def _methods(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each tree: its strategy, the options in which runs of the strategy differ, and the cold start where
    not all runs have the same."""
    by_strategy: dict[str, list[Mapping[str, Any]]] = {}
    for tree in trees:
        by_strategy.setdefault(tree["strategy"], []).append(tree)
    start = [path for path in _differ(trees) if path.startswith(_SEED_SET)]
    telling = {name: [p for p in _differ(own) if p not in start] + start for name, own in by_strategy.items()}
    return [", ".join([tree["strategy"], *_words(tree, telling[tree["strategy"]])]) for tree in trees]


def _differ(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = dict.fromkeys(path for tree in trees for path in tree)
    return [path for path in paths if len({fingerprint(tree.get(path)) for tree in trees}) > 1]


def _words(tree: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    return [f"{path.removeprefix('strategy_options.')} {tree[path]}" for path in paths if path in tree]


def _line(run: RunHistory, setting: str, method: str) -> Line:
    rounds = [flat(metrics) for metrics in run.rounds]
    names = dict.fromkeys(name for scalars in rounds for name in scalars)
    scalars = {name: tuple(_number(values.get(name)) for values in rounds) for name in names if name != "strategy"}
    labels = tuple(float(values["labels"]) for values in rounds)
    starred = f"{method}*" if run.peeks else method
    return Line(
        setting, starred, run.strategy, run.seed, labels, scalars, run, counted=run.counted, peeks=run.peeks
    )  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
