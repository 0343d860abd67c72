"""The statistics of a panel as tables: of each method, of pairs of methods, and of all methods together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alray.report.claims import SURVIVORS, level, p_value, signed, verdicts, warnings
from alray.report.comparisons import (
    ALPHA,
    LEAST_SEEDS,
    Scores,
    Test,
    Tournament,
    common_means,
    detectable,
    friedman,
    paired,
    tied_with_best,
    tournament,
)
from alray.report.metrics import Metric, metric
from alray.report.panel import Panel
from alray.report.statistics import (
    Efficiency,
    Floats,
    bootstrap_interval,
    label_efficiency,
    mean_interval,
    mean_ranks,
)
from alray.report.tables import NOTHING, Table

BEST, TIE = "★", "≈"
MARKS = (
    f"{BEST}\N{NO-BREAK SPACE}highest mean over the seeds that all strategies of the setting have, among those not "
    f"significantly worse than another. {TIE}\N{NO-BREAK SPACE}not significantly worse than {BEST}."
)


@dataclass(frozen=True)
class Analysis:
    """The statistics of one accuracy. There are two families of comparisons, each corrected by itself: every pair of
    methods (win matrix, ties), and every method against the reference."""

    measure: str
    everyone: Tournament
    to_reference: Tournament
    verdicts: tuple[str, ...]
    warnings: tuple[str, ...]
    tables: Mapping[str, Table]


def analyse(panel: Panel, measure: str, test: Test = "t", alpha: float = ALPHA) -> Analysis:
    """Compare all methods of a panel. measure: the scalar (a name of `scalars.flat`) to compare them by, a fraction.

    There are no tables where each method has one seed.
    """
    scores = unbiased(panel, measure, "linear")
    found = tournament(scores, test, alpha)
    against = tournament(scores if panel.reference else {}, test, alpha, panel.reference)
    said = warnings(panel, found, against)
    if panel.one_seed:
        return Analysis(measure, found, against, (), said, {})
    tables = {
        "area": area_table(panel, measure, found),
        "wins": win_table(found),
        "differences": difference_table(panel, measure, against),
        "efficiency": efficiency_table(panel, measure, found),
    }
    kept = {name: table for name, table in tables.items() if table.rows}
    return Analysis(measure, found, against, verdicts(panel, against), said, kept)


def unbiased(panel: Panel, measure: str, axis: str) -> Scores:
    """The scores of settings in which no scheduler stopped runs: elsewhere the survivors are a biased sample."""
    return {s: methods for s, methods in panel.scores(measure, axis).items() if not panel.stopped(s)}


def _percent(value: float) -> str:
    return NOTHING if np.isnan(value) else f"{100 * value:.2f}"


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" [{100 * low:.2f}, {100 * high:.2f}]"


def value_table(panel: Panel, shown: Sequence[Metric]) -> Table:
    """For one seed each: every accuracy after the last round and its mean over the labels, without any statistics. The
    mean is left out where all runs have a single round. Rows are sorted by the first accuracy."""
    several = any(len(panel.grid(setting)) > 1 for setting in panel.settings)
    kinds = [(m, axis) for m in shown for axis in (("last", "linear") if several else ("last",))]
    scores = [panel.scores(m.scalar, axis) for m, axis in kinds]
    rows = []
    for setting in panel.settings:
        biased = f" {SURVIVORS}" if panel.stopped(setting) else ""
        found = [{method: max(seeds.values()) for method, seeds in one.get(setting, {}).items()} for one in scores]
        for method in sorted(found[0], key=lambda method: -found[0][method]):
            cells = [_percent(one.get(method, np.nan)) for one in found]
            rows.append((setting or "all", method, f"{cells[0]}{biased}", *cells[1:]))
    head = [f"{m.short} %" if axis == "last" else f"{m.short}, mean %" for m, axis in kinds]
    return Table("Accuracy in numbers", ("setting", "strategy", *head), tuple(rows))


def area_table(panel: Panel, measure: str, found: Tournament) -> Table:
    """Per setting and method: area under the budget curve, linear and log, accuracy after the last round, mean rank.

    found: decides which methods are marked as best or tied.
    """
    rows = []
    kinds = {axis: panel.scores(measure, axis) for axis in ("linear", "log", "last")}
    for setting in panel.settings:
        scores = {m: values for m, values in kinds["linear"].get(setting, {}).items() if m in panel.methods}
        means = {m: float(np.mean(list(values.values()))) for m, values in scores.items()}
        biased = bool(panel.stopped(setting))
        order = (common_means(scores) if scores and not biased else {}) or means
        marks = dict.fromkeys(scores, f" {SURVIVORS}") if biased else _marks(found, setting, scores)
        ranks = {} if biased else _ranks(scores)
        for method in sorted(scores, key=lambda method: -order[method]):
            own = list(scores[method].values())
            band, boot = ("", NOTHING) if biased else _bands(own, 1 - found.alpha)
            rows.append((
                setting or "all", method, str(len(own)),
                f"{_percent(means[method])}{band}{marks.get(method, '')}", boot,
                *(_percent(float(np.mean(list(kinds[axis][setting][method].values())))) for axis in ("log", "last")),
                f"{ranks[method]:.2f}" if method in ranks else NOTHING,
            ))  # fmt: skip
    head = ("setting", "strategy", "seeds", f"area, linear % [{level(found)}]", f"bootstrap [{level(found)}]",
            "area, log %", "last round %", "mean rank")  # fmt: skip
    return Table("Area under the budget curve", head, tuple(rows))


def _marks(found: Tournament, setting: str, scores: Mapping[str, Mapping[int, float]]) -> dict[str, str]:
    if len(scores) < 2:
        return {}
    best, ties = tied_with_best(found, setting, scores)
    return {best: f" {BEST}", **{name: f" {TIE}" for name in ties}}


def _bands(values: Sequence[float], level: float) -> tuple[str, str]:
    """Student's interval, and the bootstrap's where there are enough seeds for it."""
    band = mean_interval(values, level)
    if len(values) < LEAST_SEEDS:
        return _interval(float(band.low), float(band.high)), NOTHING
    boot = bootstrap_interval(values, level)
    return _interval(float(band.low), float(band.high)), _interval(float(boot.low), float(boot.high)).strip()


def _ranks(scores: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    blocks = _blocks(scores, list(scores))
    return dict(zip(scores, mean_ranks(list(blocks.values())).tolist(), strict=True)) if blocks else {}


def _blocks(scores: Mapping[str, Mapping[int, float]], methods: Sequence[str]) -> dict[int, list[float]]:
    """seed -> one value per method, for the seeds that all methods have."""
    common = sorted(set.intersection(*(set(scores[method]) for method in methods))) if methods else []
    return {seed: [scores[method][seed] for method in methods] for seed in common}


@dataclass(frozen=True)
class Ranks:
    """Mean rank of each method over blocks, each of which is a seed of a setting. p: of Friedman's test, with one block
    per seed; seeds: the number of those."""

    mean: Mapping[str, float]
    blocks: int
    p: float
    seeds: int


def overall_ranks(panel: Panel, measure: str) -> Ranks:
    """Ranks over the settings and seeds that all methods have.

    Runs with the same seed depend on each other, also across settings. Friedman's test assumes independent blocks, so
    that the ranks of a seed are first averaged over the settings.
    """
    by_seed: dict[int, list[Floats]] = {}
    for by_method in unbiased(panel, measure, "linear").values():
        if set(by_method) == set(panel.methods):
            for seed, values in _blocks(by_method, panel.methods).items():
                by_seed.setdefault(seed, []).append(mean_ranks([values]))
    blocks = [ranks for of_seed in by_seed.values() for ranks in of_seed]
    if not blocks or len(panel.methods) < 2:
        return Ranks({}, 0, np.nan, 0)
    mean = dict(zip(panel.methods, np.mean(blocks, axis=0).tolist(), strict=True))
    p = friedman([np.mean(of_seed, axis=0) for of_seed in by_seed.values()])
    return Ranks(mean, len(blocks), p, len(by_seed))


def win_table(found: Tournament) -> Table:
    """In how many of the settings where both were compared the row's method beats the column's; the last row and column
    are sums. Empty where nobody beats anybody."""
    names = found.strategies if found.wins.any() else ()
    rows = []
    for i, name in enumerate(names):
        cells = [f"{found.wins[i, j]}/{found.met[i, j]}" if found.met[i, j] else NOTHING for j in range(len(names))]
        rows.append((name, *cells, str(found.wins[i].sum())))
    rows.append(("loses", *(str(found.wins[:, j].sum()) for j in range(len(names))), ""))
    return Table("Win matrix", ("row beats column", *names, "wins"), tuple(rows) if len(names) > 1 else ())


def difference_table(panel: Panel, measure: str, found: Tournament) -> Table:
    """Each method minus the reference, paired by seed: area and accuracy after the last round, in percentage points."""
    reference = panel.reference
    rows = []
    scores = {axis: panel.scores(measure, axis) for axis in ("linear", "last")}
    for setting in panel.settings:
        for method in panel.methods:
            pair = found.pair(setting, method, reference) if reference and method != reference else None
            if pair is None or reference is None:
                continue
            areas, ends = (_pairs(scores[axis][setting], method, reference) for axis in ("linear", "last"))
            r, end = pair.result, paired(ends[:, 0], ends[:, 1], found.test, 1 - found.alpha)
            least = np.nan if np.isnan(r.low) else detectable(float(np.diff(areas).std(ddof=1)), r.n, found.alpha)
            rows.append((
                setting or "all", method, str(r.n), signed(r.difference, r.low, r.high), p_value(r.p),
                p_value(pair.adjusted), ("better" if r.difference > 0 else "worse") if pair.claimed else "not shown",
                signed(end.difference, end.low, end.high), _percent(least),
            ))  # fmt: skip
    at = level(found)
    head = ("setting", "strategy", "seeds", f"area, points [{at}]", "p", "p (Holm)", "claim",
            f"last round, points [{at}]", f"detectable{'' if found.test == 't' else ' by t'}, points")  # fmt: skip
    return Table(f"Difference to {reference}", head, tuple(rows))


def _pairs(scores: Mapping[str, Mapping[int, float]], method: str, other: str) -> Floats:
    """(s, 2): the values of both, for the seeds that both have."""
    return np.array(list(_blocks(scores, [method, other]).values()))


def efficiency_table(panel: Panel, measure: str, found: Tournament) -> Table:
    """Labels with which the reference reaches the accuracy of each method half way and after the last round."""
    reference = panel.reference
    rows = []
    for setting in (setting for setting in panel.settings if not panel.stopped(setting)):
        for method in panel.methods:
            pair = panel.paired(setting, method, reference, measure) if reference and method != reference else None
            if pair is None or len(pair[0].labels) < 2:
                continue
            ours, theirs = pair
            for at in dict.fromkeys((len(ours.labels) // 2, len(ours.labels) - 1)):
                e = label_efficiency(ours.labels, ours.values, theirs.values, at=at, level=1 - found.alpha)
                rows.append((setting or "all", method, str(e.n), f"{e.labels:,.0f}", _percent(e.accuracy),
                             *_needed(e, ours.labels)))  # fmt: skip
    head = ("setting", "strategy", "seeds", "labels", f"{metric(measure, panel.counted).short} %",
            f"labels {reference} needs", f"{level(found)} interval", "saved")  # fmt: skip
    return Table("Label efficiency", head, tuple(rows))


def _needed(e: Efficiency, labels: np.ndarray) -> tuple[str, str, str]:
    """Labels of the reference, their interval, and the share of labels that the method saves."""

    def said(value: float) -> str:
        if np.isnan(value):
            return NOTHING
        if np.isinf(value):
            return f"> {labels[-1]:,.0f}" if value > 0 else f"< {labels[0]:,.0f}"
        return f"{value:,.0f}"

    if np.isfinite(e.needed) and e.needed > 0:
        saved = f"{round(100 * (1 - e.labels / e.needed))} %"
    else:
        saved = f"> {round(100 * (1 - e.labels / labels[-1]))} %" if e.needed == np.inf else NOTHING
    edges = dict.fromkeys((said(e.low), said(e.high)))
    between = NOTHING if e.n < LEAST_SEEDS else " to ".join(edges)
    return said(e.needed), between, saved
