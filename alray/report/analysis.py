"""The statistics of a panel as tables and sentences: what a comparison may claim, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alray.report.comparisons import ALPHA, Test, Tournament, detectable, friedman, tied_with_best, tournament
from alray.report.panel import Panel
from alray.report.statistics import (
    LEVEL,
    Efficiency,
    bootstrap_interval,
    label_efficiency,
    mean_interval,
    mean_ranks,
)
from alray.report.tables import NOTHING, Table

BEST, TIE = "★", "≈"
UNDECIDED = "no difference to"
MARKS = f"{BEST} highest mean; {TIE} not shown to be worse than it."


@dataclass(frozen=True)
class Analysis:
    """Everything a report says about one measure of accuracy. Two families of comparisons, each corrected by itself:
    every pair (win matrix, ties), and every method against the reference."""

    measure: str
    everyone: Tournament
    to_reference: Tournament
    verdicts: tuple[str, ...]
    warnings: tuple[str, ...]
    tables: Mapping[str, Table]


def analyse(panel: Panel, measure: str, test: Test = "t", alpha: float = ALPHA) -> Analysis:
    """Compare all methods of a panel by a measure (a name of `runs.flat`, a fraction)."""
    scores = panel.scores(measure, "linear")
    found = tournament(scores, test, alpha)
    against = tournament(scores if panel.reference else {}, test, alpha, panel.reference)
    tables = {
        "area": area_table(panel, measure, found),
        "wins": win_table(found),
        "differences": difference_table(panel, measure, against),
        "efficiency": efficiency_table(panel, measure),
    }
    kept = {name: table for name, table in tables.items() if table.rows}
    return Analysis(measure, found, against, verdicts(panel, against), warnings(panel, found, against), kept)


def _percent(value: float, digits: int = 2) -> str:
    return NOTHING if np.isnan(value) else f"{100 * value:.{digits}f}"


def _interval(low: float, high: float, digits: int = 2) -> str:
    return "" if np.isnan(low) else f" [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def _signed(value: float, low: float, high: float) -> str:
    edges = "" if np.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * value:+.2f}{edges}"


def _p(value: float, equals: str = "") -> str:
    return f"{equals}{NOTHING}" if np.isnan(value) else "< 0.0001" if value < 0.0001 else f"{equals}{value:.4f}"


def area_table(panel: Panel, measure: str, found: Tournament) -> Table:
    """Area under the budget curve, linear and log, and the accuracy with all labels, with best and ties; mean rank."""
    rows = []
    kinds = {axis: panel.scores(measure, axis) for axis in ("linear", "log", "last")}
    for setting in panel.settings:
        methods = [method for method in panel.methods if method in kinds["linear"].get(setting, {})]
        means = {m: float(np.mean(list(kinds["linear"][setting][m].values()))) for m in methods}
        best, ties = tied_with_best(found, setting, means) if means else ("", frozenset[str]())
        ranks = _ranks(kinds["linear"][setting], methods)
        for method in sorted(methods, key=lambda method: -means[method]):
            mark = f" {BEST}" if method == best and len(methods) > 1 else f" {TIE}" if method in ties else ""
            values = {axis: list(kinds[axis][setting][method].values()) for axis in kinds}
            band, boot = mean_interval(values["linear"]), bootstrap_interval(values["linear"])
            rows.append((
                setting or "all", method, str(len(values["linear"])),
                f"{_percent(means[method])}{_interval(float(band.low), float(band.high))}{mark}",
                _interval(float(boot.low), float(boot.high)).strip() or NOTHING,
                _percent(float(np.mean(values["log"]))),
                _percent(float(np.mean(values["last"]))),
                f"{ranks[method]:.2f}" if method in ranks else NOTHING,
            ))  # fmt: skip
    head = ("setting", "strategy", "seeds", f"area, linear % [{LEVEL:.0%}]", "bootstrap", "area, log %",
            "all labels %", "mean rank")  # fmt: skip
    return Table("Area under the budget curve", head, tuple(rows))


def _ranks(scores: Mapping[str, Mapping[int, float]], methods: Sequence[str]) -> dict[str, float]:
    common = sorted(set.intersection(*(set(scores[method]) for method in methods))) if methods else []
    if not common:
        return {}
    values = np.array([[scores[method][seed] for method in methods] for seed in common])
    return dict(zip(methods, mean_ranks(values).tolist(), strict=True))


def overall_ranks(panel: Panel, measure: str) -> tuple[dict[str, float], float, int]:
    """Mean rank of each method over all blocks (a seed of a setting) that all methods have, Friedman's p, blocks."""
    scores = panel.scores(measure, "linear")
    blocks = []
    for setting in panel.settings:
        by_method = scores.get(setting, {})
        if set(by_method) == set(panel.methods):
            common = sorted(set.intersection(*(set(values) for values in by_method.values())))
            blocks += [[by_method[method][seed] for method in panel.methods] for seed in common]
    if not blocks or len(panel.methods) < 2:
        return {}, np.nan, 0
    ranks = mean_ranks(blocks).tolist()
    return dict(zip(panel.methods, ranks, strict=True)), friedman(blocks), len(blocks)


def win_table(found: Tournament) -> Table:
    """Row beats column in how many of the settings where both were compared; last column and row are sums."""
    names = found.strategies
    rows = []
    for i, name in enumerate(names):
        cells = [f"{found.wins[i, j]}/{found.met[i, j]}" if found.met[i, j] else NOTHING for j in range(len(names))]
        rows.append((name, *cells, str(found.wins[i].sum())))
    rows.append(("loses", *(str(found.wins[:, j].sum()) for j in range(len(names))), ""))
    return Table("Win matrix", ("row beats column", *names, "wins"), tuple(rows) if len(names) > 1 else ())


def difference_table(panel: Panel, measure: str, found: Tournament) -> Table:
    """Each method minus the reference, paired by seed: area and the accuracy with all labels, in percentage points."""
    reference = panel.reference
    rows = []
    last = panel.scores(measure, "last")
    for setting in panel.settings:
        for method in panel.methods:
            pair = found.pair(setting, method, reference) if reference and method != reference else None
            if pair is None or reference is None:
                continue
            common = sorted(last[setting][method].keys() & last[setting][reference].keys())
            d = np.array([last[setting][method][seed] - last[setting][reference][seed] for seed in common])
            end, r = mean_interval(d), pair.result
            spread = (r.high - r.low) / 2
            rows.append((
                setting or "all", method, str(r.n), _signed(r.difference, r.low, r.high), _p(r.p), _p(pair.adjusted),
                ("better" if r.difference > 0 else "worse") if pair.claimed else "not shown",
                _signed(float(end.mean), float(end.low), float(end.high)),
                NOTHING if np.isnan(spread) else f"{100 * _least(panel, setting, method, reference, measure):.2f}",
            ))  # fmt: skip
    head = ("setting", "strategy", "seeds", "area, points [95%]", "p", "p (Holm)", "claim", "all labels, points [95%]",
            "detectable, points")  # fmt: skip
    return Table(f"Difference to {reference}", head, tuple(rows))


def _least(panel: Panel, setting: str, method: str, reference: str, measure: str) -> float:
    """The true difference in area that this many seeds would find four times in five (one test, no correction)."""
    scores = panel.scores(measure, "linear")[setting]
    common = sorted(scores[method].keys() & scores[reference].keys())
    d = np.array([scores[method][seed] - scores[reference][seed] for seed in common])
    return detectable(float(d.std(ddof=1)), len(d)) if len(d) > 1 else np.nan


def efficiency_table(panel: Panel, measure: str) -> Table:
    """Labels the reference needs for what each method reaches half way and at the end."""
    reference = panel.reference
    rows = []
    for setting in panel.settings:
        for method in panel.methods:
            pair = panel.paired(setting, method, reference, measure) if reference and method != reference else None
            if pair is None or len(pair[0].labels) < 2:
                continue
            ours, theirs = pair
            for at in dict.fromkeys((len(ours.labels) // 2, len(ours.labels) - 1)):
                e = label_efficiency(ours.labels, ours.values, theirs.values, at=at)
                rows.append((setting or "all", method, str(e.n), f"{e.labels:,.0f}", _percent(e.accuracy),
                             *_needed(e, ours.labels)))  # fmt: skip
    head = ("setting", "strategy", "seeds", "labels", "accuracy %", f"labels {reference} needs", "95% interval",
            "saved")  # fmt: skip
    return Table("Label efficiency", head, tuple(rows))


def _needed(e: Efficiency, labels: np.ndarray) -> tuple[str, str, str]:
    def said(value: float) -> str:
        if np.isnan(value):
            return NOTHING
        return (
            f"> {labels[-1]:,.0f}"
            if value == np.inf
            else f"< {labels[0]:,.0f}"
            if value == -np.inf
            else f"{value:,.0f}"
        )

    if np.isfinite(e.needed) and e.needed > 0:
        saved = f"{100 * (1 - e.labels / e.needed):.0f} %"
    else:
        saved = f"> {100 * (1 - e.labels / labels[-1]):.0f} %" if e.needed == np.inf else NOTHING
    edges = dict.fromkeys((said(e.low), said(e.high)))
    between = NOTHING if np.isnan(e.low) else " to ".join(edges)
    return said(e.needed), between, saved


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
            points = f"{_signed(r.difference, r.low, r.high)} points of area, p {_p(pair.adjusted, '= ')}"
            how = "better" if r.difference > 0 else "worse"
            claim = f"{how} than {reference}" if pair.claimed else f"{UNDECIDED} {reference} shown"
            said.append(f"{method}{where}: {claim}; {points} after Holm, {r.n} seeds")
    return tuple(said)


def warnings(panel: Panel, found: Tournament, against: Tournament) -> tuple[str, ...]:
    """What keeps this comparison from saying more."""
    said = _too_few("every pair", found) + _too_few(f"against {panel.reference}", against)
    if panel.reference is None:
        said.append("No run of random sampling: there is nothing to take differences and label efficiency to.")
    if panel.incomplete:
        short = ", ".join(
            f"{line.method}{f' ({line.setting})' if line.setting else ''} seed {line.seed}: {len(line.labels)} rounds"
            for line in panel.incomplete[:8]
        )
        more = f" and {len(panel.incomplete) - 8} more" if len(panel.incomplete) > 8 else ""
        said.append(
            f"Left out of all statistics, because they ended before the others of their setting: {short}{more}."
        )
    return tuple(said)


def _too_few(what: str, found: Tournament) -> list[str]:
    few = sorted({pair.result.n for pair in found.pairs if pair.result.n < found.needed})
    if not few:
        return []
    of = f"{few[0]}" if len(few) == 1 else f"{few[0]} to {few[-1]}"
    return [
        f"Too few seeds for a claim ({what}): {of} paired seeds where {found.needed} are needed ({_name(found.test)} "
        f"test, {found.comparisons} comparisons, level {found.alpha:g}). Differences and intervals are shown; none is "
        "called real."
    ]


def _name(test: Test) -> str:
    return "paired t" if test == "t" else "Wilcoxon signed-rank"


def method_note(found: Tournament, what: str) -> str:
    """How the claims of a table were made, in two sentences."""
    return (
        f"{_name(found.test).capitalize()} test on the area under the budget curve (linear), seeds paired, two-sided; "
        f"Holm's correction over the {found.comparisons} comparisons {what}; level {found.alpha:g}; a claim needs "
        f"{found.needed} seeds. Intervals in brackets: Student's, {LEVEL:.0%}, for each number by itself."
    )
