"""The headline of a report: one sentence with its main result. It claims no more than the tests support.

It is about the accuracy after the last round. The comparisons with random sampling are one family, corrected by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alray.report.analysis import unbiased
from alray.report.comparisons import ALPHA, Pair, Test, Tournament, tournament
from alray.report.header import estimates
from alray.report.metrics import Metric
from alray.report.panel import Panel

_SPACE = "\N{NO-BREAK SPACE}"
Values = Mapping[str, Mapping[int, float]]
"""method -> seed -> accuracy after the last round, a fraction."""


def headline(panel: Panel, main: Metric | None, test: Test = "t", alpha: float = ALPHA) -> str:
    """The main result in one sentence. main: the accuracy that runs are compared by; None where none was measured."""
    if main is None:
        labels = max(line.labels[-1] for line in panel.lines)
        when = " after each round" if estimates(panel) else ""
        return (
            f"No accuracy was measured{when}, because the runs have neither test images nor a validation set; "
            f"{_and(panel.methods)} chose images up to {labels:,.0f} labels."
        )
    scores = unbiased(panel, main.scalar, "last")
    if not scores:
        return "Nothing is said about the strategies, because a scheduler stopped some of the runs early."
    against = tournament(scores if panel.reference else {}, test, alpha, panel.reference)
    if len(panel.settings) > 1:
        return _of_settings(panel, main, scores, against)
    labels, values = panel.grid(panel.settings[0])[-1], scores[panel.settings[0]]
    return f"At {labels:,.0f} labels, {_of_one(panel, main, values, against)}."


def _of_one(panel: Panel, main: Metric, values: Values, against: Tournament) -> str:
    """The result of a single setting."""
    usable = {name: by_seed for name, by_seed in values.items() if not _peeks(panel, name)} or values
    means = {name: float(np.mean(list(by_seed.values()))) for name, by_seed in usable.items()}
    pairs = {name: against.pair("", name, panel.reference or "") for name in means}
    ahead = [name for name, pair in pairs.items() if pair and pair.claimed and pair.result.difference > 0]
    best = max(ahead or means, key=means.__getitem__)
    reached = f"{best} reached {percent(means[best])} {_of(main)}"
    others = {name: mean for name, mean in means.items() if name != best}
    seeds = len(usable[best])
    if not others:
        return f"{reached} ({_seeds(seeds)})"
    if panel.one_seed:
        other = panel.reference if panel.reference in others else max(others, key=others.__getitem__)
        return (
            f"{reached} and {other} {percent(others[other])} (one seed: no statement about the difference can be made)"
        )
    if panel.reference not in means:
        return f"{reached} ({_seeds(seeds)}); there is no run of random sampling to compare it with"
    if best == panel.reference:
        second = max(others, key=others.__getitem__)
        behind = _difference(second, "", pairs[second], against)
        return f"{reached}; no strategy was shown to be better: {second}, the next, {behind}"
    pair = pairs[best]
    shown = "" if pair is None or pair.claimed or pair.result.n < against.needed else "but no difference was shown: "
    return f"{reached}, {shown}{_difference(best, panel.reference or '', pair, against)}"


def _difference(name: str, reference: str, pair: Pair | None, against: Tournament) -> str:
    """The difference of a pair with its interval and seeds. reference: empty where the sentence has named it."""
    if pair is None:
        return "shares no seed with it" if not reference else f"which shares no seed with {reference}"
    r = pair.result
    how = "more" if r.difference >= 0 else "less"
    size = f"{points(abs(r.difference))} points {how} than {reference}" if reference else ""
    size = size or f"reached {points(abs(r.difference))} points {how}"
    detail = _interval(pair, against) if r.n >= against.needed else f"; a claim needs {against.needed} seeds"
    return f"{size} ({_seeds(r.n)}{detail})"


def _of_settings(panel: Panel, main: Metric, scores: Mapping[str, Values], against: Tournament) -> str:
    """The result of several settings: in how many of them a strategy was better than random sampling."""
    if panel.one_seed:
        return (
            f"{len(scores)} settings with one seed of each strategy: no statement about differences of {_of(main)} can "
            "be made."
        )
    if panel.reference is None:
        return f"{len(scores)} settings; there is no run of random sampling to compare {_of(main)} with."
    counted = {name: [0, 0, 0] for name in panel.methods if name != panel.reference and not _peeks(panel, name)}
    for name, numbers in counted.items():
        for setting in scores:
            pair = against.pair(setting, name, panel.reference)
            if pair is not None:
                numbers[2] += 1
                numbers[0 if pair.result.difference > 0 else 1] += pair.claimed
    if not any(better or worse for better, worse, _ in counted.values()):
        most = max((pair.result.n for pair in against.pairs), default=0)
        few = f" ({_seeds(most)}; a claim needs {against.needed} seeds)" if most < against.needed else ""
        return (
            f"After the last round, no strategy was shown to differ from {panel.reference} in {_of(main)} in any of "
            f"{len(scores)} settings{few}."
        )
    best = max(counted, key=lambda name: (counted[name][0] - counted[name][1], counted[name][0]))
    better, worse, met = counted[best]
    return (
        f"After the last round, {best} had a higher {_of(main)} than {panel.reference} in {better} of {met} settings "
        f"and a lower one in {worse}; in the others no difference was shown."
    )


def _peeks(panel: Panel, method: str) -> bool:
    return any(line.peeks for line in panel.lines if line.method == method)


def _of(main: Metric) -> str:
    """The name of the accuracy, with its set unless that is the test set."""
    return main.short if main.name == f"test {main.short}" else main.name


def percent(value: float) -> str:
    """A fraction as '97.2 %'."""
    return f"{100 * value:.1f}{_SPACE}%"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, with a second digit where one would read 0.0."""
    value = 100 * difference
    return f"{value:.1f}" if abs(value) >= 0.05 or value == 0 else f"{value:.2f}"


def _interval(pair: Pair, against: Tournament) -> str:
    r = pair.result
    if np.isnan(r.low):
        return ""
    sign = 1 if r.difference >= 0 else -1
    low, high = sorted((sign * r.low, sign * r.high))
    return f", {100 * (1 - against.alpha):g}{_SPACE}% interval {points(low)} to {points(high)}".replace(
        "-", "\N{MINUS SIGN}"
    )


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


def _and(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
