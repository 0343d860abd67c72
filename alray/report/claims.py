"""Comparisons as sentences: the claims that the tests support, and warnings where they support none."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from alray.reasons import first_of
from alray.report.comparisons import LEAST_SEEDS, Test, Tournament
from alray.report.panel import Line, Panel
from alray.report.tables import NOTHING

UNDECIDED = "no difference to"
SURVIVORS = "†"
_ONE_SEED = (
    "Each strategy was run with one seed. Another seed of the same strategy would give other numbers, too, so this "
    "report cannot say which strategy is better. It has no differences, intervals and tests; they need the same "
    f"{LEAST_SEEDS} seeds of each strategy (a sweep with seed=0..{LEAST_SEEDS - 1})."
)
_NAMED = 8  # the most runs or settings that a sentence lists


def signed(value: float, low: float, high: float) -> str:
    """A difference in percentage points with its interval."""
    edges = "" if np.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * value:+.2f}{edges}"


def p_value(value: float, equals: str = "") -> str:
    """A p-value with four digits, or '< 0.0001'. equals: a prefix for the former."""
    return f"{equals}{NOTHING}" if np.isnan(value) else "< 0.0001" if value < 0.0001 else f"{equals}{value:.4f}"


def verdicts(panel: Panel, found: Tournament) -> tuple[str, ...]:
    """One sentence per method and setting: better or worse than the reference, or no difference shown; with the
    interval.

    found: comparisons with the reference.
    """
    reference = panel.reference
    said = []
    for setting in panel.settings:
        for method in panel.methods:
            pair = found.pair(setting, method, reference) if reference and method != reference else None
            if pair is None:
                continue
            r, where = pair.result, f" ({setting})" if setting else ""
            points = f"{signed(r.difference, r.low, r.high)} points of area"
            tested = "1 seed" if r.n == 1 else f"p {p_value(pair.adjusted, '= ')} after Holm's correction, {r.n} seeds"
            how = "better" if r.difference > 0 else "worse"
            claim = f"{how} than {reference}" if pair.claimed else f"{UNDECIDED} {reference} shown"
            said.append(f"{method}{where}: {claim}; {points}, {tested}")
    return tuple(said)


def warnings(panel: Panel, found: Tournament, against: Tournament) -> tuple[str, ...]:
    """Why some or all comparisons support no claim. found: comparisons of every pair; against: with the reference."""
    stopped = {setting: lines for setting in panel.settings if (lines := panel.stopped(setting))}
    said = _stopped(panel, stopped)
    if not panel.one_seed:
        said += _too_few({"of every pair": found, f"against {panel.reference}": against})
    elif found.pairs:
        said.append(_ONE_SEED)
    said += _not_comparable(panel, found, stopped)
    return (*said, *_short(panel))


def _not_comparable(panel: Panel, found: Tournament, stopped: Collection[str]) -> list[str]:
    """Sentences on comparisons that the runs do not allow. stopped: the settings in which a scheduler stopped runs."""
    said = []
    if len(panel.methods) > 1 and not found.pairs and len(stopped) < len(panel.settings):
        said.append(
            "No two strategies were run in the same setting with the same seed: there is nothing to compare. "
            f"The settings: {'; '.join(setting or 'all' for setting in panel.settings)}."
        )
    if panel.reference is None and not panel.one_seed:
        said.append(
            "No run of random sampling: the report has no differences and no label efficiency, which compare with it."
        )
    return said


def _short(panel: Panel) -> list[str]:
    """A sentence on the runs that have fewer rounds than others."""
    short = [line for line in panel.incomplete if not line.stopped]
    if short:
        named = [
            f"{line.method}{f' ({line.setting})' if line.setting else ''} seed {line.seed}: {len(line.labels)} rounds"
            for line in short
        ]
        return [
            "Left out of all statistics, because they have fewer rounds than other runs of their setting: "
            f"{first_of(named, most=_NAMED)}."
        ]
    return []


def _stopped(panel: Panel, stopped: Mapping[str, list[Line]]) -> list[str]:
    """A sentence on the settings that have no statistics because runs were stopped early. stopped: those runs by
    setting."""
    if not stopped:
        return []
    by = " and ".join(sorted({line.stopped for lines in stopped.values() for line in lines}))
    every = sum(line.setting in stopped for line in (*panel.lines, *panel.incomplete))
    where = f" ({first_of([setting for setting in stopped if setting], '; ', _NAMED)})" if "" not in stopped else ""
    return [
        f"{by} stopped {sum(map(len, stopped.values()))} of {every} runs early because of their accuracy{where}. The "
        "survivors are a biased sample and are left out of the statistics: there are no intervals, no best strategy, "
        f"no differences and no claims for them. A mean marked {SURVIVORS} is over the survivors only and too high. "
        "Compare strategies without a scheduler and without such a rule."
    ]


def _too_few(families: Mapping[str, Tournament]) -> list[str]:
    """A sentence for each number of seeds that is needed and missing. families: what was compared -> its
    comparisons."""
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
        f"level {alpha:g}). Their differences and intervals are shown, without a claim."
        for (of, needed), where in short.items()
    ]


def _name(test: Test) -> str:
    return "paired t" if test == "t" else "Wilcoxon signed-rank"


def method_note(found: Tournament, what: str) -> str:
    """The test behind the claims of a table. what: which comparisons these are."""
    if not found.comparisons:
        return f"Nothing is tested: a test needs two strategies with two seeds each, a claim {found.needed} seeds."
    alike = any(pair.result.n > 1 and pair.result.difference and np.isnan(pair.result.low) for pair in found.pairs)
    return (
        f"Test: two-sided {_name(found.test)} test on the area under the budget curve (linear), seeds paired, at level "
        f"{found.alpha:g}, with Holm's correction over the {found.comparisons} comparisons {what}. A claim needs "
        f"{found.needed} seeds. Intervals in brackets: Student's, {level(found)}, each number by itself (uncorrected)."
        + (
            " Where all seeds have the same difference, the sign test is used and there is no interval."
            if alike
            else ""
        )
    )


def detectable_note(found: Tournament) -> str:
    """The meaning of the column of detectable differences."""
    other = "" if found.test == "t" else f"; computed for the paired t test, not for {_name(found.test)}"
    return (
        "Detectable: the true difference that a test with this many seeds finds with probability 0.8, given how much "
        f"the differences vary (a single test at level {found.alpha:g}, uncorrected{other})."
    )


def level(found: Tournament) -> str:
    """The confidence level of the intervals, e.g. 95%."""
    return f"{100 * (1 - found.alpha):g}%"
