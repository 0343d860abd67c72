"""The accuracies of rounds: their names for readers, and which of them runs are compared by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alray.report.panel import Panel
from alray.report.runs import Counted, ReportError

_KNOWN = re.compile(r"(test|validation)_(top\d+|balanced_accuracy|miou)|labeled_normalised_entropy")
_MEANING = {
    "miou": "mean intersection over union of the classes",
    "balanced_accuracy": "mean accuracy of the classes",
}


@dataclass(frozen=True)
class Metric:
    """A scalar of `scalars.flat` that is a fraction, higher is better. short: its name; name: with the set that it was
    measured on; meaning: a definition."""

    scalar: str
    name: str
    short: str
    meaning: str

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.short} (%)"


def is_metric(scalar: str) -> bool:
    """Whether runs can be compared by this scalar."""
    return _KNOWN.fullmatch(scalar) is not None


def metric(scalar: str, counted: Counted) -> Metric:
    """The metric of a scalar in runs whose accuracies are counted in images or pixels."""
    section, _, kind = scalar.partition("_")
    short = counted.names.get(kind, f"{kind.replace('top', 'top-')} accuracy")
    name = f"{short} of the labeled set" if section == "labeled" else f"{section} {short}"
    return Metric(scalar, name, short, f"{_MEANING.get(kind, short)} on the {section} set")


def metrics(panel: Panel, chosen: str = "") -> list[Metric]:
    """The accuracies that a report shows; runs are compared by the first.

    They are the two of `Counted.accuracies`, with top-1 on the validation set in place of the first where no run has
    it; the second is left out where it always equals the first. chosen: comes before them. Raises ReportError when runs
    cannot be compared by it.
    """
    found = _usual(panel)
    if chosen:
        known = dict.fromkeys(n for line in panel.lines for n in line.scalars if is_metric(n) and panel.has(n))
        if chosen not in known:
            raise ReportError(f"measure: expected one of {', '.join(known)}, which all rounds have; got {chosen}")
        found = [chosen, *(name for name in found if name != chosen)]
    return [metric(name, panel.counted) for name in found]


def _usual(panel: Panel) -> list[str]:
    first, second = panel.counted.accuracies
    main = first if panel.has(first) else "validation_top1"
    differs = any(
        abs((a or 0) - (b or 0)) > 1e-3
        for line in panel.lines
        for a, b in zip(line.scalars.get(main, ()), line.scalars.get(second, ()), strict=False)
    )
    found = [name for name in (main, second) if panel.has(name)]
    return found[:1] if len(found) == 2 and not differs else found
