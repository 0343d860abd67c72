"""The strategies by name: one literal dictionary, which is also where a strategy of your own may be entered."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from alray.selection.protocol import SelectionError, Strategy
from alray.selection.strategies.badge import Badge
from alray.selection.strategies.balanced_random import BalancedRandom
from alray.selection.strategies.balancing import Balancing
from alray.selection.strategies.base import Base
from alray.selection.strategies.cluster_margin import ClusterMargin
from alray.selection.strategies.confidence import Confidence
from alray.selection.strategies.entropy import Entropy
from alray.selection.strategies.k_center import KCenter
from alray.selection.strategies.k_means import KMeans
from alray.selection.strategies.margin import Margin
from alray.selection.strategies.mase import Mase
from alray.selection.strategies.partitioned import PartitionedBadge, PartitionedKCenter
from alray.selection.strategies.pixels import PixelConfidence, PixelEntropy, PixelMargin, PixelPt4al
from alray.selection.strategies.pt4al import Pt4al
from alray.selection.strategies.random_sampling import RandomSampling
from alray.selection.strategies.robust_k_center import RobustKCenter
from alray.selection.strategies.vaal import Vaal

STRATEGIES: dict[str, type[Strategy]] = {
    "random": RandomSampling,
    "balanced_random": BalancedRandom,  # peeks at labels
    "confidence": Confidence,
    "margin": Margin,
    "entropy": Entropy,
    "mase": Mase,
    "base": Base,
    "balancing": Balancing,  # peeks at labels
    "k_center": KCenter,
    "robust_k_center": RobustKCenter,
    "partitioned_k_center": PartitionedKCenter,
    "badge": Badge,
    "partitioned_badge": PartitionedBadge,
    "cluster_margin": ClusterMargin,
    "vaal": Vaal,
    "pt4al": Pt4al,
    "k_means": KMeans,
}

_OF_PIXELS: dict[str, type[Strategy]] = {
    "confidence": PixelConfidence,
    "margin": PixelMargin,
    "entropy": PixelEntropy,
    "pt4al": PixelPt4al,
}
_WHOLE_IMAGES = frozenset({"logits", "head", "labels", "known"})  # what an image of many classes does not have


def name_of(strategy: Strategy) -> str:
    """The name under which a strategy's class is entered, else the name of the class."""
    kind = type(strategy)
    return next((name for name, there in STRATEGIES.items() if there is kind), kind.__name__)


def build(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name with these options.

    Raises SelectionError for a name that is not in STRATEGIES, an option the strategy does not have, or a value it does
    not take; the message says which there are.
    """
    kind = _kind(name)
    options = options or {}
    known = inspect.signature(kind).parameters
    for option in options:
        if option not in known:
            there = f"expected one of {', '.join(known)}" if known else "it has none"
            raise SelectionError(f"strategy {name}: unknown option {option!r}; {there}")
    missing = [option for option, field in known.items() if field.default is field.empty and option not in options]
    if missing:
        raise SelectionError(f"strategy {name}: expected the options {', '.join(missing)}, too")
    return kind(
        **{name: _flag(value) if isinstance(known[name].default, bool) else value for name, value in options.items()}
    )


def build_for_segmentation(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name for images with masks. Raises SelectionError, also for one that needs a class."""
    strategy = build(name, options)
    if name in _OF_PIXELS:
        return _OF_PIXELS[name](**(options or {}))
    if strategy.needs & _WHOLE_IMAGES:
        there = [other for other, kind in STRATEGIES.items() if other in _OF_PIXELS or not kind.needs & _WHOLE_IMAGES]
        raise SelectionError(
            f"strategy: {name} needs {', '.join(sorted(strategy.needs & _WHOLE_IMAGES))} of whole images, and in "
            f"segmentation there are none; expected one of {', '.join(there)}"
        )
    return strategy


def described(names: Sequence[str] = ()) -> str:
    """Text for people: strategies (or all), their options with their defaults, and what they mean."""
    found = []
    for name in names or STRATEGIES:
        about = inspect.getdoc(_kind(name)) or ""
        known = inspect.signature(_kind(name)).parameters.values()
        title = " ".join([name, *(f"[{option.name} {_default(option)}]" for option in known)])
        found.append("\n".join([title, *(f"    {line}".rstrip() for line in about.splitlines())]))
    return "\n\n".join(found)


def _default(option: inspect.Parameter) -> str:
    return "..." if option.default is option.empty else str(option.default)


def _kind(name: str) -> type[Strategy]:
    if name not in STRATEGIES:
        raise SelectionError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def _flag(value: Any) -> Any:
    """A command line's "true" and "false" as what they say; anything else is left to the strategy to judge."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
