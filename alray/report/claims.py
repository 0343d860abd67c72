"""Comparisons as sentences: what they may claim, what they may not, and why."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alray.report.comparisons import Test, Tournament
from alray.report.panel import Line, Panel
from alray.report.tables import NOTHING

UNDECIDED = "no difference to"
CHOSEN = "†"
_NAMED = 8  # runs or settings that a sentence lists


def signed(value: float, low: float, high: float) -> str:
    """A difference in percentage points with its interval."""
    edges = "" if np.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * value:+.2f}{edges}"


def p_value(value: float, equals: str = "") -> str:
    """A p-value with four digits. equals: stands before it where it is not below a bound."""
    return f"{equals}{NOTHING}" if np.isnan(value) else "< 0.0001" if value < 0.0001 else f"{equals}{value:.4f}"


def verdicts(panel: Panel, found: Tournament) -> tuple[str, ...]:
    """One sentence per method and setting: better or worse than the reference, or not shown, with the interval."""
    reference = panel.reference
    said = []
    for setting in panel.settings:
        for method in panel.methods:
            pair = found.pair(setting, method, reference) if reference and method != reference else None
            if pair is None:
                continue
            r, where = pair.result, f" ({setting})" if setting else ""
            points = f"{signed(r.difference, r.low, r.high)} points of area"
            tested = "1 seed" if r.n == 1 else f"p {p_value(pair.adjusted, '= ')} after Holm, {r.n} seeds"
            how = "better" if r.difference > 0 else "worse"
            claim = f"{how} than {reference}" if pair.claimed else f"{UNDECIDED} {reference} shown"
            said.append(f"{method}{where}: {claim}; {points}, {tested}")
    return tuple(said)


def warnings(panel: Panel, found: Tournament, against: Tournament) -> tuple[str, ...]:
    """What keeps this comparison from saying more."""
    stopped = {setting: lines for setting in panel.settings if (lines := panel.stopped(setting))}
    said = [*_stopped(panel, stopped), *_too_few({"of every pair": found, f"against {panel.reference}": against})]
    if len(panel.methods) > 1 and not found.pairs and len(stopped) < len(panel.settings):
        said.append(
            "No two strategies were run in the same setting with the same seed: there is nothing to compare. "
            f"The settings: {'; '.join(setting or 'all' for setting in panel.settings)}."
        )
    if panel.reference is None:
        said.append("No run of random sampling: there is nothing to take differences and label efficiency to.")
    short = [line for line in panel.incomplete if not line.stopped]
    if short:
        named = [
            f"{line.method}{f' ({line.setting})' if line.setting else ''} seed {line.seed}: {len(line.labels)} rounds"
            for line in short
        ]
        said.append(
            "Left out of all statistics, because they ended before the others of their setting: "
            f"{_listed(named, ', ')}."
        )
    return tuple(said)


def _stopped(panel: Panel, stopped: Mapping[str, list[Line]]) -> list[str]:
    """Why settings in which a scheduler stopped trials have no statistics."""
    if not stopped:
        return []
    by = " and ".join(sorted({line.stopped for lines in stopped.values() for line in lines}))
    every = sum(line.setting in stopped for line in (*panel.lines, *panel.incomplete))
    where = f" ({_listed([setting for setting in stopped if setting], '; ')})" if "" not in stopped else ""
    return [
        f"{by} stopped {sum(map(len, stopped.values()))} of {every} runs early, by their accuracy{where}. The seeds "
        "that are left were chosen, not drawn, and differently for each strategy: here are no intervals, no best, no "
        f"differences and no claims, and a mean with {CHOSEN} is of the runs that went furthest, which flatters it. "
        "Compare strategies without a scheduler."
    ]


def _listed(names: list[str], between: str) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{between.join(names[:_NAMED])}{more}"


def _too_few(families: Mapping[str, Tournament]) -> list[str]:
    """A sentence for each number of seeds that is needed and not there; mostly the same for all families."""
    short: dict[tuple[str, int], list[str]] = {}
    for what, found in families.items():
        few = sorted(pair.result.n for pair in found.pairs if pair.result.n < found.needed)
        if few:
            seeds = f"{few[0]}" if few[0] == few[-1] else f"{few[0]} to {few[-1]}"
            of = f"{seeds} paired seed{'' if seeds == '1' else 's'}"
            short.setdefault((of, found.needed), []).append(f"{len(few)} of {len(found.pairs)} comparisons {what}")
    (test, alpha), *_ = [(found.test, found.alpha) for found in families.values()]
    return [
        f"Too few seeds for a claim in {' and '.join(where)}: {of} where {needed} are needed ({_name(test)} test, "
        f"level {alpha:g}). Differences and intervals are shown; none of these is called real."
        for (of, needed), where in short.items()
    ]


def _name(test: Test) -> str:
    return "paired t" if test == "t" else "Wilcoxon signed-rank"


def method_note(found: Tournament, what: str) -> str:
    """How the claims of a table were made, in a few sentences."""
    if not found.comparisons:
        return f"Nothing is tested: that takes two strategies and two seeds, a claim {found.needed} seeds."
    alike = any(pair.result.n > 1 and pair.result.difference and np.isnan(pair.result.low) for pair in found.pairs)
    return (
        f"{_name(found.test).capitalize()} test on the area under the budget curve (linear), seeds paired, two-sided; "
        f"Holm's correction over the {found.comparisons} comparisons {what}; level {found.alpha:g}; a claim needs "
        f"{found.needed} seeds. Intervals in brackets: Student's, {level(found)}, for each number by itself."
        + (" Where all seeds have the same difference, the test of signs, and no interval." if alike else "")
    )


def detectable_note(found: Tournament) -> str:
    """What the column of detectable differences is."""
    other = "" if found.test == "t" else f"; of the paired t test, not of {_name(found.test)}'s"
    return (
        "Detectable: the true difference that this many seeds find four times in five, given how much the differences "
        f"vary (one test at level {found.alpha:g}, uncorrected{other})."
    )


def level(found: Tournament) -> str:
    """That of the intervals which go with the tests, e.g. 95%."""
    return f"{100 * (1 - found.alpha):g}%"
