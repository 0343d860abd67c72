"""The section on how the labels are spread over the classes."""

from __future__ import annotations

import numpy as np

from alray.report import charts
from alray.report.layout import Chart, Section, last_values, titled
from alray.report.panel import Panel
from alray.report.statistics import Floats

_ENTROPY, _EMPTY, _KL = "labeled_normalised_entropy", "labeled_empty_classes", "labeled_kl_to_pool"


def balance_section(panel: Panel) -> Section:
    """Entropy of the class shares and classes without a label against labels, and the sorted counts."""
    noun = panel.counted.noun
    drawn = []
    for setting in panel.settings:
        chart = charts.curves_chart(panel, setting, _ENTROPY, "normalised entropy (1 = balanced)")
        drawn.append(Chart(titled(setting, f"class balance of the labeled {noun}s"), chart))
        if _any(panel, setting, _EMPTY):
            chart = charts.curves_chart(panel, setting, _EMPTY, f"classes without a labeled {noun}", whole=True)
            drawn.append(Chart(titled(setting, "empty classes"), chart))
        counts = {method: _counts(panel, setting, method) for method in panel.methods}
        counts = {method: found for method, found in counts.items() if len(found)}
        caption = f"labeled {noun}s per class after the last round, sorted"
        drawn.append(Chart(titled(setting, caption), charts.counts_chart(panel, counts)))
    empty = {"empty classes": (_EMPTY, 1)} if any(_any(panel, setting, _EMPTY) for setting in panel.settings) else {}
    columns = {"entropy": (_ENTROPY, 4), **empty, "KL to the pool": (_KL, 4)}
    table = last_values(panel, "Class balance after the last round", columns)
    note = panel.counted.balance_note
    return Section("balance", "Class balance", (note,) if note else (), tuple(drawn), (table,))


def _counts(panel: Panel, setting: str, method: str) -> Floats:
    """(seeds, classes) labels per class in the last round, each row descending."""
    runs = [line.run for line in panel.select(setting, method) if line.run is not None]
    counts = [sorted(run.rounds[-1]["labeled_set"]["counts"], reverse=True) for run in runs]
    return np.array(counts, np.float64)


def _any(panel: Panel, setting: str, scalar: str) -> bool:
    found = (panel.curves(setting, method, scalar) for method in panel.methods)
    return any(curves.values.any() for curves in found if curves is not None)
