"""The accuracies of rounds: what a reader knows them by, and which of them runs are compared by.

In segmentation the same fields hold accuracies of pixels, and mean intersection over union (mIoU) comes before them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from alray.report.panel import Panel
from alray.report.runs import ReportError

_KNOWN = re.compile(r"(test|validation)_(top\d+|balanced_accuracy|miou)|labeled_normalised_entropy")
_IMAGES = {"balanced_accuracy": "balanced accuracy", "normalised_entropy": "class entropy", "miou": "mIoU"}
_PIXELS = {**_IMAGES, "top1": "pixel accuracy", "balanced_accuracy": "class accuracy"}


@dataclass(frozen=True)
class Measure:
    """A scalar of `runs.flat` that is a fraction and the better the higher; short: what it is, name: of which set."""

    scalar: str
    name: str
    short: str

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.short} (%)"


def is_measure(scalar: str) -> bool:
    """Whether runs can be compared by this scalar."""
    return _KNOWN.fullmatch(scalar) is not None


def measure(scalar: str, pixels: bool) -> Measure:
    """What a scalar is called. pixels: whether the runs are of segmentation."""
    section, _, kind = scalar.partition("_")
    short = (_PIXELS if pixels else _IMAGES).get(kind, f"{kind.replace('top', 'top-')} accuracy")
    return Measure(scalar, f"{short} of the labeled set" if section == "labeled" else f"{section} {short}", short)


def measures(panel: Panel, chosen: str = "") -> list[str]:
    """The accuracies worth showing; runs are compared by the first.

    mIoU and pixel accuracy, or test (else validation) top-1 and, where it is another number, balanced accuracy.
    chosen: comes before them. Raises ReportError when it is nothing that runs can be compared by.
    """
    found = _pixels(panel) if panel.has("test_miou") else _images(panel)
    if not chosen:
        return found
    known = dict.fromkeys(name for line in panel.lines for name in line.scalars if is_measure(name) and panel.has(name))
    if chosen not in known:
        raise ReportError(f"measure: expected one of {', '.join(known)}, which all rounds have; got {chosen}")
    return [chosen, *(name for name in found if name != chosen)]


def _pixels(panel: Panel) -> list[str]:
    return [name for name in ("test_miou", "test_top1") if panel.has(name)]


def _images(panel: Panel) -> list[str]:
    main, balanced = "test_top1" if panel.has("test_top1") else "validation_top1", "test_balanced_accuracy"
    differs = any(
        abs((a or 0) - (b or 0)) > 1e-3
        for line in panel.lines
        for a, b in zip(line.scalars.get(main, ()), line.scalars.get(balanced, ()), strict=False)
    )
    found = [name for name in (main, balanced) if panel.has(name)]
    return found[:1] if len(found) == 2 and not differs else found
